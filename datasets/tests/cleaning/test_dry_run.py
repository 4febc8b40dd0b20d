"""What a dry run says, and that it is bounded."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from datasets.cleaning import derivation
from datasets.cleaning.derivation import NothingLeft, derive, dry_run
from datasets.models import Dataset, Trace
from datasets.tests.deriving import dataset_of, made, qa
from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db
STEPS = {
    "steps": [
        {"operation": "filter", "where": "-meta.number:3"},
        {"operation": "exact_duplicates"},
        {"operation": "sample", "n": 4},
    ]
}


def test_says_what_every_step_would_do_and_stores_nothing() -> None:
    dataset = make_dataset(10, held_out=2)
    before = (Dataset.objects.count(), Trace.objects.count())
    report = dry_run(STEPS, [dataset])
    assert [(step["came"], step["left_out"], step["went"]) for step in report["steps"]] == [
        (10, 1, 9),
        (9, 0, 9),
        (9, 5, 4),
    ]
    assert report["steps"][0]["examples"][0]["position"] == 3
    assert (report["sampled"], report["examples"], report["left"]) == (False, 10, 4)
    assert len(report["first"]) == 4
    assert report["recipe"]["steps"][1]["keep"] == "held_out"
    assert (Dataset.objects.count(), Trace.objects.count()) == before


def test_a_large_dataset_is_sampled_evenly_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "SAMPLE_EXAMPLES", 40)
    monkeypatch.setattr(derivation, "SAMPLE_BLOCK", 10)
    dataset = make_dataset(200)
    report = dry_run({"steps": [{"operation": "sample", "n": 50}]}, [dataset])
    assert (report["sampled"], report["examples_read"], report["examples"]) == (True, 40, 200)
    assert report["left"] == 10
    assert "scaled" in report["warnings"][0]
    read = [row["position"] for row in report["steps"][0]["examples"]]
    assert min(read) < 50


def test_long_examples_are_sampled_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "SAMPLE_BYTES", 1_000)
    dataset = dataset_of(*(qa(f"{number} {'a' * 500}") for number in range(9)))
    for step in ({"operation": "sample", "n": 9}, {"operation": "exact_duplicates"}):
        report = dry_run({"steps": [step]}, [dataset])
        assert (report["sampled"], report["examples_read"], report["left"]) == (True, 2, 2)


def test_a_mixture_of_long_examples_is_sampled_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "SAMPLE_BYTES", 1_000)
    one, two = (
        dataset_of(*(qa(f"{name}{number} {'a' * 500}") for number in range(9)), name=name)
        for name in ("one", "two")
    )
    mix = {"operation": "mix", "weights": {"one-v1": 1, "two-v1": 1}, "total": 100}
    report = dry_run({"steps": [mix]}, [one, two])
    assert (report["sampled"], report["left"]) == (True, 2)


@pytest.mark.parametrize(
    ("size", "total"), [(5_001, 5_001), (10**6, 10**6), (3, 10**6), (120, 9_000)]
)
def test_blocks_lie_within_the_dataset_and_are_few(size: int, total: int) -> None:
    blocks = derivation._blocks(size, total)
    places = [place for block in blocks for place in block]
    assert len(set(places)) == len(places) <= derivation.SAMPLE_EXAMPLES
    assert 0 <= min(places) <= max(places) < size


def test_warns_if_nothing_would_be_left() -> None:
    dataset = make_dataset(3)
    report = dry_run({"steps": [{"operation": "filter", "where": "meta.number>99"}]}, [dataset])
    assert report["left"] == 0
    assert report["warnings"] == ["No example would be left."]


def test_a_derivation_that_leaves_nothing_is_refused() -> None:
    dataset = make_dataset(3)
    steps = [{"operation": "sample", "n": 2}, {"operation": "filter", "where": "meta.number>99"}]
    with pytest.raises(NothingLeft, match=r"step 2 \(filter\)"):
        made(dataset, *steps)


def test_examples_can_be_read_again() -> None:
    derivation = derive(STEPS, [make_dataset(10)])
    first, second = list(derivation.examples()), list(derivation.examples())
    assert first == second
    assert derivation.report()["steps"][0]["came"] == 10


def test_progress_can_stop_the_work() -> None:
    class Cancelled(Exception):
        pass

    def stop() -> None:
        raise Cancelled

    dataset = make_dataset(600)
    for operation in ({"operation": "near_duplicates"}, {"operation": "sample", "n": 1}):
        with pytest.raises(Cancelled):
            list(derive({"steps": [operation]}, [dataset], progress=stop).examples())


def test_erased_examples_are_left_out_and_counted() -> None:
    dataset = dataset_of(qa("a"), qa("b"))
    Trace.objects.filter(prompt="a").update(erased_at=timezone.now(), prompt="", final_answer="")
    found = made(dataset, {"operation": "sample", "n": 5})
    assert [example.prompt for example, _ in found.results] == ["b"]
    assert found.report()["erased"] == 1


def test_what_is_kept_repeats_no_text() -> None:
    dataset = dataset_of(qa("a secret"), qa("b"))
    found = made(dataset, {"operation": "filter", "where": "-secret"})
    assert "secret" in str(found.report())
    kept = found.report(texts=False)
    assert "a secret" not in str(kept)
    assert kept["steps"][0]["examples"][0]["position"] == 0


def test_examples_come_in_short_queries_by_position() -> None:
    dataset = make_dataset(250)
    with CaptureQueriesContext(connection) as queries:
        made(dataset, {"operation": "sample", "n": 250})
    assert len(queries) == 5  # three of examples, two of what was erased


def test_what_is_read_is_what_is_stored() -> None:
    """Hash and columns are the same, so that the storing finds the rows."""
    dataset = make_dataset(5)
    traces = {item.trace.content_hash: item.trace for item in dataset.items.select_related("trace")}
    for example, _ in made(dataset, {"operation": "sample", "n": 5}).results:
        trace = traces[example.content_hash]
        for name in ("prompt", "steps", "final_answer", "meta", "kind", "content"):
            assert getattr(example, name) == getattr(trace, name)
