"""Merging and mixing datasets."""

import uuid
from collections import Counter
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.cleaning.combining import NothingToMix
from datasets.models import Dataset, Split, Trace
from datasets.tests.deriving import dataset_of, made, qa, questions, step

pytestmark = pytest.mark.django_db


def part(name: str, count: int, *, held_out: int = 0) -> Dataset:
    examples = [qa(f"{name}{number}") for number in range(count)]
    return dataset_of(*examples, name=name, held_out=range(count - held_out, count))


def test_merge_keeps_the_order_and_the_parts() -> None:
    found = made([part("a", 3, held_out=1), part("b", 2)], {"operation": "merge"})
    assert questions(found) == ["a0", "a1", "a2", "b0", "b1"]
    assert [split for _, split in found.results].count(Split.HELD_OUT) == 1
    assert found.provenance()["parents"] == [
        {"dataset_key": parent.dataset_key, "fingerprint": parent.fingerprint}
        for parent in found.parents
    ]


@pytest.mark.parametrize("operation", [{"operation": "merge"}, {"operation": "mix"}])
def test_what_is_held_out_in_one_is_not_learnt_from_another(operation: dict[str, Any]) -> None:
    first = dataset_of(qa("x"), qa("y"), name="one", held_out=[0])
    second = dataset_of(qa("z"), qa("x"), name="two")
    if operation["operation"] == "mix":
        operation = operation | {"weights": {"one-v1": 1, "two-v1": 1}, "total": 4}
    found = made([first, second], operation)
    parts = {(example.prompt, split) for example, split in found.results}
    assert parts == {("x", Split.HELD_OUT), ("y", Split.TRAIN), ("z", Split.TRAIN)}
    assert step(found)["left_out"] == 1


def test_a_mixture_is_interleaved_and_ends_with_the_first_that_is_used_up() -> None:
    weights = {"a-v1": 3, "b-v1": 1}
    found = made([part("a", 6), part("b", 9)], {"operation": "mix", "weights": weights})
    assert questions(found) == ["a0", "a1", "b0", "a2", "a3", "a4", "b1", "a5"]


def test_a_mixture_of_a_total_repeats_and_says_how_often() -> None:
    weights = {"a-v1": 1, "b-v1": 1}
    mix = {"operation": "mix", "weights": weights, "total": 10}
    found = made([part("a", 2, held_out=1), part("b", 20)], mix)
    counts = Counter(questions(found))
    assert counts["a0"] == 5
    assert sum(counts.values()) == 11
    assert found.results[-1][1] == Split.HELD_OUT
    assert step(found)["notes"]["training_examples"] == {
        "a-v1": {"taken": 5, "times_begun": 5},
        "b-v1": {"taken": 5, "times_begun": 1},
    }


def test_a_mixture_that_repeats_counts_each_example_once() -> None:
    archived, erased = part("a", 4), part("b", 4)
    Trace.objects.filter(prompt="a1").update(archived_at=timezone.now())
    Trace.objects.filter(prompt="b1").update(erased_at=timezone.now())
    mix = {"operation": "mix", "weights": {"a-v1": 1, "b-v1": 1}, "total": 30}
    found = made([archived, erased], mix)
    report = found.report()
    assert Counter(questions(found))["a0"] == 5
    assert (report["examples_read"], report["archived"], report["erased"]) == (8, 1, 1)
    assert step(found)["came"] == 6


def test_a_dataset_without_training_examples_cannot_be_mixed() -> None:
    weights = {"a-v1": 1, "b-v1": 1}
    mix = {"operation": "mix", "weights": weights, "total": 10}
    with pytest.raises(NothingToMix, match="a-v1 has no training example"):
        made([part("a", 2, held_out=2), part("b", 2)], mix)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=3),
    st.integers(1, 60),
)
def test_shares_are_those_of_the_weights_at_every_place(weights: list[float], total: int) -> None:
    name = uuid.uuid4()
    parents = [part(f"{name}-{number}", 3) for number in range(len(weights))]
    mix = {
        "operation": "mix",
        "weights": {
            parent.dataset_key: weight for parent, weight in zip(parents, weights, strict=True)
        },
        "total": total,
    }
    first, second = made(parents, mix), made(parents, mix)
    assert questions(first) == questions(second)
    assert len(first.results) == total
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        taken = step(first)["notes"]["training_examples"][parents[place].dataset_key]["taken"]
        assert abs(taken - share * total) < len(weights)
