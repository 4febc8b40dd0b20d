"""Which words differ, and that no pair of texts makes it slow."""

import pytest

from runs.queries.word_diff import WORDS_MAX, Piece, word_diff
from tunixrt.tests.cpu import run_within_cpu_seconds


def test_words_that_differ_are_marked_on_both_sides():
    found = word_diff("The answer is 42.\n", "The answer is not  43.\n")

    assert found.first == [Piece("The answer is", False), Piece(" 42.", True), Piece("\n", False)]
    assert found.second == [
        Piece("The answer is", False),
        Piece(" not  43.", True),
        Piece("\n", False),
    ]
    assert found.whole


@pytest.mark.parametrize(
    ("first", "second"),
    [("", ""), ("", "x"), ("  ", "\t"), ("a\n\nb", "a b"), ("x" * 100_000, "y"), ("<b>", "&")],
)
def test_no_text_is_lost(first: str, second: str):
    found = word_diff(first, second)

    assert "".join(piece.text for piece in found.first) == first
    assert "".join(piece.text for piece in found.second) == second


def test_what_is_beyond_the_first_words_stays_and_is_said():
    first, second = "same " * WORDS_MAX + "one", "same " * WORDS_MAX + "other"
    found = word_diff(first, second)

    assert not found.whole
    assert "".join(piece.text for piece in found.second) == second
    assert not any(piece.changed for piece in found.second)


def test_texts_that_are_made_to_be_slow_are_not():
    """Many matches of one word between words of their own: cubic without a limit."""
    run_within_cpu_seconds(
        20,
        """
from runs.queries.word_diff import word_diff
for every in (1, 2, 4, 99, 199):
    sides = [" ".join("x" if n % 2 else f"{side}{n // every}" for n in range(50_000))
             for side in "ab"]
    word_diff(*sides)
word_diff(" " * 10**6, "x " * 10**6)
""",
    )
