"""What differs between two versions."""

import json
from typing import Any

import pytest
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from datasets.comparison.differences import (
    CHANGES,
    Counts,
    change_lines,
    compare,
    decode_after,
)
from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.tests.deriving import chat, dataset_of, qa

pytestmark = pytest.mark.django_db


def two(
    older: list[dict[str, Any]], newer: list[dict[str, Any]], **held_out: Any
) -> tuple[Dataset, Dataset]:
    return (
        dataset_of(*older, version="v1", held_out=held_out.get("old", ())),
        dataset_of(*newer, version="v2", held_out=held_out.get("new", ())),
    )


def found(old: Dataset, new: Dataset) -> list[tuple[Any, ...]]:
    return [
        (
            change.change,
            *(None if side is None else side.position for side in (change.old, change.new)),
        )
        for change in compare(old, new)
    ]


def test_added_removed_changed_and_moved() -> None:
    old, new = two(
        [qa("same"), qa("gone"), qa("other answer", "a"), qa("part")],
        [qa("other answer", "b"), qa("part"), qa("same"), qa("new")],
        new=[1],
    )
    assert found(old, new) == [
        ("changed", 2, 0),
        ("removed", 1, None),
        ("added", None, 3),
        ("moved", 3, 1),
    ]
    assert compare(old, new).counts == Counts(changed=1, removed=1, added=1, moved=1, same=1)


def test_a_dataset_does_not_differ_from_itself_nor_from_another_order() -> None:
    old, new = two([qa("a"), qa("b")], [qa("b"), qa("a")])
    for other in (old, new):
        assert found(old, other) == []
        assert not compare(old, other).counts.any


def test_the_same_id_is_the_same_example_with_another_question() -> None:
    old, new = two(
        [qa("a", id=7), qa("b", id="x"), qa("c"), qa("d", id={"k": 1})],
        [qa("A!", id=7), qa("B!", id="x"), qa("C!"), qa("D!", id={"k": 1})],
    )
    assert found(old, new)[:3] == [("changed", 0, 0), ("changed", 1, 1), ("changed", 3, 3)]
    assert found(old, new)[3:] == [("removed", 2, None), ("added", None, 2)]


def test_the_question_counts_before_the_id() -> None:
    old, new = two([qa("a", "1", id=1)], [qa("b", "2", id=1), qa("a", "3", id=2)])
    assert found(old, new) == [("changed", 0, 1), ("added", None, 0)]


def test_copies_are_counted() -> None:
    old, new = two([qa("a"), qa("a"), qa("a"), qa("b")], [qa("a"), qa("b"), qa("b")])
    assert found(old, new) == [("removed", 1, None), ("removed", 2, None), ("added", None, 2)]


def test_many_answers_to_the_same_question_are_paired_one_by_one() -> None:
    """Thousands of them would otherwise make millions of pairs."""
    ids = [
        [trace.pk for trace in create_traces(items=items, by=None)]
        for items in (
            [qa("same", f"old {number}") for number in range(2_000)],
            [qa("same", f"new {number}") for number in range(1_999)],
        )
    ]
    old, new = (
        create_dataset(name="many", version=f"v{number}", trace_ids=traces, by=None)
        for number, traces in enumerate(ids)
    )
    assert compare(old, new).counts == Counts(changed=1_999, removed=1, added=0, moved=0, same=0)
    assert found(old, new)[:2] == [("changed", 0, 0), ("changed", 1, 1)]


def test_other_kinds() -> None:
    old, new = two([chat("q", "a"), chat("x", "y")], [chat("q", "b"), chat("x", "y", "z", "!")])
    assert found(old, new) == [("changed", 0, 0), ("changed", 1, 1)]
    line = json.loads(next(iter(change_lines(old, new))))
    assert line["new"]["messages"][1] == {"role": "assistant", "content": "b"}


def test_lines_hold_both_sides() -> None:
    old, new = two([qa("q", "a", n=1), qa("gone")], [qa("q", "b", n=1)])
    changed, removed = map(json.loads, change_lines(old, new))
    assert changed["change"] == "changed"
    assert changed["old"].items() >= {"position": 0, "split": "train", "final_answer": "a"}.items()
    assert changed["new"]["meta"] == {"n": 1}
    assert (removed["old"]["prompt"], removed["new"]) == ("gone", None)


def test_pages_hold_everything_once() -> None:
    old, new = two(
        [qa(f"old {number}") for number in range(5)] + [qa("x", "a"), qa("m")],
        [qa("m"), qa("x", "b")] + [qa(f"new {number}") for number in range(4)],
        new=[0],
    )
    seen, cursor = [], None
    while True:
        page, cursor = compare(old, new).page(
            limit=3, after=None if cursor is None else decode_after(cursor)
        )
        assert len(page) <= 3
        seen += page
        if cursor is None:
            break
    assert seen == list(compare(old, new))
    for change in CHANGES:
        page, _ = compare(old, new).page(limit=99, change=change)
        assert page == [each for each in seen if each.change == change]


@pytest.mark.parametrize(
    "text",
    ["", "changed", "changed.", "lost.1", "added.-1", "added.1e3", "added.²", "changed.9999999999"],
)
def test_cursors_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        decode_after(text)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_changes_explain_the_difference(older: list[str], newer: list[str]) -> None:
    """Old examples without what was removed, with what was added, are the new ones."""
    Dataset.objects.all().delete()
    old, new = two([qa(letter) for letter in older], [qa(letter) for letter in newer])
    left = list(older)
    for change in compare(old, new):
        if change.old is not None:
            left.remove(change.old.trace.prompt)
        if change.new is not None:
            left.append(change.new.trace.prompt)
    assert sorted(left) == sorted(newer)


class TestFaces:
    def test_the_page(self, local_client: Client) -> None:
        two([qa("q", "a"), qa("<b>gone</b>")], [qa("q", "b"), qa("new", meta_note="x")])
        page = local_client.get("/datasets/sums-v1/diff")
        assert 'href="?to=sums-v2"' in page.content.decode()
        text = local_client.get("/datasets/sums-v1/diff?to=sums-v2").content.decode()
        for change in ("changed", "removed", "added"):
            assert text.count(f'data-testid="change-{change}"') == 1
        assert "&lt;b&gt;gone" in text
        only = local_client.get("/datasets/sums-v1/diff?to=sums-v2&change=added").content.decode()
        assert "change-added" in only
        assert "change-removed" not in only

    def test_pages_of_changes(self, local_client: Client) -> None:
        two([qa(f"q{number}") for number in range(12)], [qa("other")])
        first = local_client.get("/datasets/sums-v1/diff?to=sums-v2")
        assert len(first.context["changes"]) == 10
        second = local_client.get(
            f"/datasets/sums-v1/diff?to=sums-v2&after={first.context['cursor']}"
        )
        assert len(second.context["changes"]) == 3
        assert second.context["cursor"] is None

    def test_the_same_examples(self, local_client: Client) -> None:
        dataset_of(qa("a"))
        page = local_client.get("/datasets/sums-v1/diff?to=sums-v1&after=x&change=y")
        assert "hold the same examples" in page.content.decode()

    def test_unknown_datasets(self, local_client: Client, api: APIClient) -> None:
        dataset_of(qa("a"))
        assert local_client.get("/datasets/sums-v1/diff?to=none-v1").status_code == 404
        assert api.get("/api/datasets/sums-v1/diff?to=none-v1").status_code == 404
        assert api.get("/api/datasets/sums-v1/diff").status_code == 422
        assert api.get("/api/datasets/sums-v1/diff?to=sums-v1&cursor=x").status_code == 422

    def test_the_api(self, api: APIClient) -> None:
        two([qa("q", "a"), qa("gone")], [qa("q", "b")])
        first = api.get("/api/datasets/sums-v1/diff?to=sums-v2&limit=1").json()
        assert first["counts"] == {"changed": 1, "removed": 1, "added": 0, "moved": 0, "same": 0}
        assert first["data"][0]["new"]["final_answer"] == "b"
        cursor = first["pagination"]["next_cursor"]
        second = api.get(f"/api/datasets/sums-v1/diff?to=sums-v2&limit=1&cursor={cursor}").json()
        assert (second["counts"], second["data"][0]["change"]) == (first["counts"], "removed")
        assert second["pagination"]["next_cursor"] is None

    def test_the_download(self, api: APIClient) -> None:
        two([qa("q", "a"), qa("gone")], [qa("q", "b")])
        answer = api.get("/api/datasets/sums-v1/diff.jsonl?to=sums-v2")
        lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
        assert [line["change"] for line in lines] == ["changed", "removed"]
        assert 'filename="sums-v1..sums-v2.jsonl"' in answer["Content-Disposition"]
