"""Exact and near duplicates: what goes, what stays, and that many of them take linear time."""

import random
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.cleaning.derivation import derive
from datasets.cleaning.duplicates import SLOTS, banding
from datasets.models import Split, Trace
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.tests.deriving import chat, dataset_of, made, qa, questions, step
from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db
WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def with_changes(original: str, count: int) -> str:
    """The text with so many of its words replaced."""
    words = original.split()
    for place in range(count):
        words[place * len(words) // max(count, 1)] = f"other{place}"
    return " ".join(words)


class TestExact:
    @pytest.mark.parametrize(
        ("compare", "left"),
        [
            ("example", ["One?", "one", "One?", "Two?", "One?"]),
            ("content", ["One?", "one", "Two?", "One?"]),
            ("normalised", ["One?", "Two?", "One?"]),
            ("question", ["One?", "Two?"]),
        ],
    )
    def test_what_is_compared(self, compare: str, left: list[str]) -> None:
        dataset = dataset_of(
            *(qa("One?", "a"), qa("one", "A."), qa("One?", "a", source="web"), qa("Two?", "a")),
            qa("One?", "b"),
        )
        found = made(dataset, {"operation": "exact_duplicates", "compare": compare})
        assert questions(found) == left
        assert step(found)["left_out"] == 5 - len(left)

    @pytest.mark.parametrize(
        ("keep", "answer"), [("first", "b"), ("longest", "bbb"), ("held_out", "bb")]
    )
    def test_which_one_stays(self, keep: str, answer: str) -> None:
        dataset = dataset_of(qa("q", "b"), qa("q", "bb"), qa("q", "bbb"), held_out=[1])
        found = made(
            dataset, {"operation": "exact_duplicates", "compare": "question", "keep": keep}
        )
        assert [example.final_answer for example, _ in found.results] == [answer]

    def test_the_report_says_as_which_one(self) -> None:
        dataset = dataset_of(qa("q"), qa("other"), qa("q", number=1))
        found = step(made(dataset, {"operation": "exact_duplicates"}))
        assert (found["came"], found["left_out"], found["went"]) == (3, 1, 2)
        assert found["examples"] == [
            {
                "dataset": "sums-v1",
                "position": 2,
                "what": "left out",
                "reason": "the same as another example",
                "detail": "as example 1 of sums-v1",
                "text": "q",
            }
        ]

    def test_questions_and_answers_are_kept_apart(self) -> None:
        dataset = dataset_of(qa("a b", "c"), qa("a", "b c"))
        found = made(dataset, {"operation": "exact_duplicates", "compare": "normalised"})
        assert len(found.results) == 2

    def test_pairs_and_conversations(self) -> None:
        pair = {"prompt": "p", "chosen": "c", "rejected": "r"}
        pairs = dataset_of(pair, pair | {"meta": {"n": 1}}, pair | {"rejected": "x"}, name="pairs")
        assert len(made(pairs, {"operation": "exact_duplicates"}).results) == 2
        chats = dataset_of(chat("a", "b"), chat("a", "b", meta={"n": 1}), name="chats")
        assert len(made(chats, {"operation": "exact_duplicates"}).results) == 1


class TestNear:
    def test_finds_what_is_alike_and_nothing_else(self) -> None:
        examples = [qa(text(seed), "yes") for seed in range(20)]
        examples += [qa(with_changes(text(seed), 2), "yes") for seed in range(5)]
        examples += [qa(with_changes(text(seed), 40), "yes") for seed in range(5, 10)]
        found = made(dataset_of(*examples), {"operation": "near_duplicates"})
        assert step(found)["left_out"] == 5
        assert [row["position"] for row in step(found)["examples"]] == [20, 21, 22, 23, 24]
        assert "like example 1 of sums-v1" in step(found)["examples"][0]["detail"]

    @pytest.mark.parametrize(
        ("keep", "left"), [("first", "short"), ("longest", "long"), ("held_out", "held")]
    )
    def test_which_one_stays(self, keep: str, left: str) -> None:
        same = text(1)
        examples = [qa(f"short {same}"), qa(f"held {same} x"), qa(f"long {same} and more words")]
        dataset = dataset_of(*examples, held_out=[1])
        found = made(dataset, {"operation": "near_duplicates", "keep": keep})
        assert [question.split()[0] for question in questions(found)] == [left]

    def test_chains_do_not_take_examples_along(self) -> None:
        """A goes with B and B with C does not mean that A goes with C: only what stays counts."""
        first = text(1, 200)
        middle = with_changes(first, 3)
        last = " ".join([*middle.split()[:-8], *(f"new{number}" for number in range(8))])
        found = made(
            dataset_of(qa(first), qa(middle), qa(last)),
            {"operation": "near_duplicates", "threshold": 0.88, "keep": "first"},
        )
        assert questions(found) == [first, last]

    def test_texts_of_few_words(self) -> None:
        dataset = dataset_of(qa("yes", "no"), qa("Yes!", "no"), qa("no", "yes"), qa("?", "!"))
        assert questions(made(dataset, {"operation": "near_duplicates"})) == ["yes", "no", "?"]

    def test_thousands_that_are_the_same_and_thousands_that_are_nearly(self) -> None:
        """They are compared with what stays, not with each other."""
        ids = [trace.id for trace in _stored([qa(text(1))])] * 10_000
        ids += [trace.id for trace in _stored([qa(f"{text(2)} {number}") for number in range(300)])]
        dataset = create_dataset(name="same", version="v1", trace_ids=ids, by=None)
        found = made(dataset, {"operation": "near_duplicates"})
        assert [question.split()[0] for question in questions(found)] == [
            text(1).split()[0],
            text(2).split()[0],
        ]

    def test_one_example_of_a_megabyte(self) -> None:
        dataset = dataset_of(qa("a " * 250_000), qa("a " * 250_000, "no"), qa(text(1, 90_000)))
        found = made(dataset, {"operation": "near_duplicates", "compare": "question"})
        assert step(found)["left_out"] == 1

    @pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
    def test_bands_find_pairs_at_the_threshold(self, threshold: float) -> None:
        rows, bands = banding(threshold)
        assert rows * bands <= SLOTS
        assert (1 - threshold**rows) ** bands <= 0.01

    def test_no_examples(self) -> None:
        dataset = make_dataset(0)
        assert made_items(dataset, {"operation": "near_duplicates"}) == []
        assert made_items(dataset, {"operation": "exact_duplicates"}) == []


def _stored(items: list[dict[str, Any]]) -> list[Trace]:
    return create_traces(items=items, by=None)


def made_items(dataset: Any, *steps: dict[str, Any]) -> list[Any]:
    return list(derive({"steps": list(steps)}, [dataset]).items())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12))
def test_one_of_each_stays_whatever_the_order(letters: list[str]) -> None:
    name = str(uuid.uuid4())
    held_out = {place for place, letter in enumerate(letters) if letter in "ab"}
    if len(held_out) == len(letters):
        held_out = set()
    dataset = dataset_of(*(qa(letter) for letter in letters), name=name, held_out=held_out)
    for operation in ("exact_duplicates", "near_duplicates"):
        found = made(dataset, {"operation": operation, "keep": "first"})
        assert questions(found) == list(dict.fromkeys(letters))
        assert [split for _, split in found.results] == [
            Split.HELD_OUT if held_out and letter in "ab" else Split.TRAIN
            for letter in dict.fromkeys(letters)
        ]
