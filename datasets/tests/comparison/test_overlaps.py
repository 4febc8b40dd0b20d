"""Contamination: what is found, of which kind, and that it takes linear time."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from rest_framework.test import APIClient

from datasets.comparison import overlaps
from datasets.comparison.overlaps import (
    KEPT,
    NothingToCompare,
    compute_overlap,
    known_about,
    question_of,
    sentence,
)
from datasets.models import Dataset, Import, Overlap
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.tests.deriving import chat, dataset_of, qa
from datasets.tests.factory import work_on
from tunixrt.tests.plugin import ROOT

pytestmark = pytest.mark.django_db
# The files are not ours to copy; the test runs where they are beside the checkout.
GSM8K = next(
    (found for folder in ROOT.parents if (found := folder / "shared/data/gsm8k").is_dir()), None
)
WORDS = [f"word{number}" for number in range(2_000)]


def text(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def counts(overlap: Overlap) -> tuple[int, int, int]:
    return overlap.exact, overlap.normalised, overlap.ngram


def test_three_kinds_the_strictest_counts() -> None:
    question = text(1, 30)
    learnt = dataset_of(
        qa("One?"), qa("Two, then?"), qa(f"{question} {text(2, 10)}"), qa(text(3, 40))
    )
    other = dataset_of(
        qa("One?"), qa("one"), qa("two THEN", "no"), qa(f"{question} {text(4, 30)}"),
        qa(text(5, 40)), name="other",
    )  # fmt: skip
    found = compute_overlap(learnt, other, by=None)
    assert counts(found) == (1, 2, 1)
    assert (found.learnt, found.compared) == (4, 5)
    # 30 words have 18 runs of 13; the question of 60 words has 48
    assert [row for row in found.examples if row["kind"] == "ngram"] == [
        {"kind": "ngram", "position": 3, "dataset_position": 2, "containment": round(18 / 48, 4)}
    ]
    assert [row["kind"] for row in found.examples] == ["exact", "normalised", "normalised", "ngram"]
    assert found.dataset_fingerprint == learnt.fingerprint
    assert found.other_fingerprint == other.fingerprint
    assert sentence(found) == (
        "4 of the 5 examples of other-v1 overlap with what is learnt: 1 exactly, 2 but for case and"
        " punctuation, 1 by 13 words in a row (greatest containment 1.00)."
    )


def test_held_out_parts_are_compared_with_what_is_learnt() -> None:
    learnt = dataset_of(qa("a"), qa("b"), qa("c"), held_out=[0])
    other = dataset_of(qa("a"), qa("b"), qa("d", "x"), qa("c"), name="other", held_out=[0, 1])
    assert counts(compute_overlap(learnt, other, by=None)) == (1, 0, 0)
    assert counts(compute_overlap(other, learnt, by=None)) == (0, 0, 0)


def test_a_dataset_with_itself() -> None:
    parts = dataset_of(qa("What is it?"), qa("what is it"), qa("other"), held_out=[1])
    found = compute_overlap(parts, parts, by=None)
    assert counts(found) == (0, 1, 0)
    assert (found.learnt, found.compared) == (2, 1)
    whole = dataset_of(qa("a"), name="whole")
    with pytest.raises(NothingToCompare, match="whole-v1 has no held-out part"):
        compute_overlap(whole, whole, by=None)


def test_the_second_computation_replaces_the_first() -> None:
    one, two = dataset_of(qa("a"), name="one"), dataset_of(qa("a"), name="two")
    compute_overlap(one, two, by=None)
    compute_overlap(one, two, by=None)
    assert Overlap.objects.count() == 1


def test_only_what_is_asked_is_compared() -> None:
    """Many examples share the text of the system, and tools answer alike."""
    system = {"role": "system", "content": text(1, 50)}
    one = dataset_of({"messages": [system, *chat("Is it?", "yes")["messages"]]}, name="one")
    two = dataset_of({"messages": [system, *chat("Was it?", "no")["messages"]]}, name="two")
    assert counts(compute_overlap(one, two, by=None)) == (0, 0, 0)


def test_questions_of_all_kinds() -> None:
    for name, example in (
        ("trace", qa("Is it?")),
        ("chat", chat("Is it?", "yes")),
        ("pair", {"prompt": "Is it?", "chosen": "yes", "rejected": "no"}),
        ("prompt", {"kind": "prompt", "prompt": "Is it?", "final_answer": "yes"}),
    ):
        dataset = dataset_of(example, name=name)
        assert question_of(dataset.items.get().trace) == "Is it?"
    # of different kinds the question is still the same
    one, two = (Dataset.objects.get(name=name) for name in ("trace", "chat"))
    assert compute_overlap(one, two, by=None).found == 1


def test_no_examples() -> None:
    one = create_dataset(name="none", version="v1", trace_ids=[], by=None)
    found = compute_overlap(one, dataset_of(qa("a")), by=None)
    assert (found.found, found.containment, found.examples) == (0, 0.0, [])


def test_thousands_of_the_same_and_one_of_a_megabyte() -> None:
    """Each of them is looked up by itself: they are not compared with each other."""
    same = qa(text(1, 40))
    ids = [trace.id for trace in create_traces(items=[same, qa("a " * 250_000)], by=None)]
    many = [ids[0]] * 3_000 + [ids[1]]
    one = create_dataset(name="one", version="v1", trace_ids=many, by=None)
    two = create_dataset(name="two", version="v1", trace_ids=many, by=None)
    found = compute_overlap(one, two, by=None)
    assert counts(found) == (3_001, 0, 0)
    assert len(found.examples) == KEPT


def test_progress_can_stop_it_and_then_nothing_is_stored() -> None:
    def stop() -> None:
        raise KeyError

    ids = [trace.id for trace in create_traces(items=[qa("a")], by=None)] * 600
    one = create_dataset(name="one", version="v1", trace_ids=ids, by=None)
    with pytest.raises(KeyError):
        compute_overlap(
            one, one if one.held_out_size else dataset_of(qa("b")), progress=stop, by=None
        )
    assert not Overlap.objects.exists()


class TestWhatIsKnown:
    def test_not_computed_yet(self) -> None:
        whole = dataset_of(qa("a"), name="whole")
        split = dataset_of(qa("a"), qa("b"), name="split", held_out=[0])
        assert known_about(whole) == (
            [],
            ["Not computed yet: whether sets for evaluation overlap with this dataset."],
        )
        assert "held-out part" in known_about(split)[1][0]

    def test_computed(self) -> None:
        split = dataset_of(qa("a"), qa("A", "b"), qa("c"), name="split", held_out=[0])
        clean = dataset_of(qa("d"), name="clean")
        found = compute_overlap(split, split, by=None)
        compute_overlap(split, clean, by=None)
        assert known_about(split) == ([sentence(found)], [])
        assert known_about(clean)[1]


class TestFaces:
    def test_small_datasets_are_compared_at_once(self, api: APIClient) -> None:
        dataset_of(qa("a"), name="one")
        dataset_of(qa("A"), name="two")
        answer = api.post("/api/datasets/one-v1/overlaps", {"other": "two-v1"}, format="json")
        assert (answer.status_code, answer.json()["normalised"]) == (200, 1)
        listed = api.get("/api/datasets/one-v1/overlaps").json()
        assert [row["other"] for row in listed["data"]] == ["two-v1"]
        assert listed["not_computed"] == []
        assert api.get("/api/datasets/two-v1/overlaps").json()["data"] == []

    @pytest.mark.parametrize(("other", "code"), [("none-v1", 404), ("", 404), ("one-v1", 400)])
    def test_what_cannot_be_compared(self, api: APIClient, other: str, code: int) -> None:
        dataset_of(qa("a"), name="one")
        answer = api.post("/api/datasets/one-v1/overlaps", {"other": other}, format="json")
        assert answer.status_code == code

    def test_large_datasets_take_a_process_of_their_own(
        self, api: APIClient, local_client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overlaps, "AT_ONCE", 1)
        dataset_of(qa("a"), name="one")
        dataset_of(qa("A"), name="two")
        answer = api.post("/api/datasets/one-v1/overlaps", {"other": "two-v1"}, format="json")
        assert answer.status_code == 202
        assert local_client.post("/datasets/one-v1/overlap", {"other": "two-v1"}).status_code == 302
        assert not Overlap.objects.exists()
        for row in Import.objects.all():
            assert work_on(row).state == "completed"
            assert Overlap.objects.get().normalised == 1
            page = local_client.get(f"/datasets/imports/{row.pk}").content.decode()
            assert "two-v1" in page

    def test_the_page_of_a_dataset(self, local_client: Client) -> None:
        dataset_of(qa("a"), name="one")
        dataset_of(qa("A"), name="two")
        page = local_client.get("/datasets/one-v1").content.decode()
        assert "Not computed yet" in page
        local_client.post("/datasets/one-v1/overlap", {"other": "two-v1"})
        page = local_client.get("/datasets/one-v1").content.decode()
        assert page.count('data-testid="overlap"') == 1
        assert 'href="/datasets/two-v1?from=0"' in page
        assert "Not computed yet" not in page


class TestCommand:
    def test_says_and_stores_what_it_found(self) -> None:
        dataset_of(qa("a"), name="one")
        dataset_of(qa("A"), name="two")
        output = io.StringIO()
        call_command("overlaps", "one-v1", "two-v1", stdout=output)
        assert "1 of the 1 examples of two-v1 overlap" in output.getvalue()
        assert "normalised: example 1 of two-v1, example 1 of one-v1" in output.getvalue()
        assert Overlap.objects.get().found == 1

    def test_unknown_keys_are_named(self) -> None:
        dataset_of(qa("a"), name="one")
        with pytest.raises(CommandError, match="Dataset not found: two-v1"):
            call_command("overlaps", "one-v1", "two-v1")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.skipif(GSM8K is None, reason="needs the files of GSM8K")
def test_three_test_questions_of_gsm8k_stand_in_its_training_part() -> None:
    learnt, other = (
        dataset_of(
            *(qa(row["question"], row["answer"]) for row in lines(GSM8K / f"{name}.jsonl")),
            name=f"gsm8k-{name}",
        )
        for name in ("train", "test")
    )
    found = compute_overlap(learnt, other, by=None)
    assert counts(found) == (0, 0, 3)
    assert [round(row["containment"], 2) for row in found.examples] == [0.54, 0.3, 0.1]
    assert [row["position"] for row in found.examples] == [602, 632, 581]
