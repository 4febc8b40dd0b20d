"""How texts are compared: what counts, and that no text takes more than linear time."""

import unicodedata

import pytest

from datasets.examples.words import composed, digest, ngrams, normalised, words_of
from tunixrt.tests.cpu import run_within_cpu_seconds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is it?", "what  is\nIT"),
        ("ﬁnd “it”", "find it"),
        ("Ｆｕｌｌ width", "full width"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "café"),
        ("well-known", "well known"),
    ],
)
def test_case_spaces_punctuation_and_forms_do_not_count(one: str, other: str) -> None:
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3-2", "3*2"), ("3 - 2", "3 / 2"), ("x=-5", "x=5"), ("a < b", "a > b"), ("3.5", "35")],
)
def test_signs_of_arithmetic_count(one: str, other: str) -> None:
    assert words_of(one) != words_of(other)


def test_characters_of_scripts_without_spaces_are_words() -> None:
    assert words_of("猫が好き ok") == ["猫", "が", "好", "き", "ok"]


@pytest.mark.parametrize("text", ["パーティーで", "각하", "é", "কো", "a\u0301\u0316\u0302", "x=é;"])
def test_long_text_without_spaces_has_one_form(text: str) -> None:
    """It is taken apart where no character is composed with the one before."""
    for start in range(4):
        long = "xyz"[:start] + text * 2_000
        whole = unicodedata.normalize("NFC", long)
        assert composed(whole) == composed(unicodedata.normalize("NFD", long)) == whole


def test_ngrams_are_runs_of_words() -> None:
    assert list(ngrams(["a", "b", "c"], 2)) == ["a b", "b c"]
    assert list(ngrams(["a"], 2)) == []


def test_texts_are_kept_apart() -> None:
    assert normalised(["a b", "c"]) != normalised(["a", "b c"])
    assert digest("a") != digest("b")
    assert len(digest("\ud800")) == 16


def test_no_text_takes_quadratic_time() -> None:
    """A run of combining characters is sorted by insertion when it is normalised whole."""
    run_within_cpu_seconds(
        20,
        "from datasets.examples.words import composed, words_of\n"
        "composed('a' + '\\u0300\\u0316' * 500_000)\n"
        "words_of('a' + '\\u0300\\u0316' * 500_000)\n"
        "words_of('\\ufdfa' * 300_000)\n"
        "words_of('3 ' * 500_000)\n"
        "words_of('--' * 500_000)\n"
        "words_of('5 - ' * 250_000 + '\\u0300')\n",
    )
