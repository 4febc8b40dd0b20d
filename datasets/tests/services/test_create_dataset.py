import hashlib
import threading
import uuid
from typing import Any

import pytest
from django.db import connection

from datasets.models import Dataset, DatasetItem
from datasets.services.datasets import (
    MAX_DESCRIPTION,
    MAX_NAME,
    MAX_VERSION,
    create_dataset,
    get_dataset,
)
from datasets.services.refusals import DatasetExists, DatasetNotFound, InvalidDataset, UnknownTraces
from datasets.services.traces import create_traces
from datasets.tests.factory import make_dataset, make_traces, trace_body


def create(name: Any = "sums", version: Any = "v1", trace_ids: Any = (), **more: Any) -> Dataset:
    return create_dataset(name=name, version=version, trace_ids=[*trace_ids], by=None, **more)


@pytest.mark.django_db
def test_a_dataset_keeps_the_order_of_its_traces(user):
    traces = make_traces(3)
    ids: list[uuid.UUID | str] = [traces[2].id, str(traces[0].id), traces[1].id]
    dataset = create_dataset(
        name="test_tunix",
        version="v1",
        trace_ids=ids,
        held_out_ids=[str(traces[1].id)],
        description="Sums",
        by=user,
    )
    assert dataset.dataset_key == "test_tunix-v1"
    assert (dataset.name, dataset.version, dataset.description, dataset.format) == (
        "test_tunix",
        "v1",
        "Sums",
        "tunix_sft",
    )
    assert (dataset.size, dataset.held_out_size, dataset.created_by) == (3, 1, user)
    items = list(dataset.items.order_by("position").values_list("position", "trace_id", "split"))
    assert items == [
        (0, traces[2].id, "train"),
        (1, traces[0].id, "train"),
        (2, traces[1].id, "held_out"),
    ]


@pytest.mark.django_db
def test_statistics_and_fingerprint():
    long = create_traces(items=[{"prompt": "Grüße", "final_answer": "ok"}], by=None)[0]
    short = create_traces(items=[trace_body(1)], by=None)[0]  # 1+1=? | 1 and one\n2
    dataset = create(trace_ids=[long.id, short.id], held_out_ids=[short.id])
    assert dataset.stats == {
        "examples": 2,
        "train": 1,
        "held_out": 1,
        "with_final_answer": 1,
        "with_tools": 0,
        "with_reasoning": 0,
        "prompt_characters": {"min": 5, "mean": 5.0, "max": 5},
        "answer_characters": {"min": 2, "mean": 6.5, "max": 11},
        "example_characters": {"min": 7, "mean": 11.5, "max": 16},
        "example_characters_histogram": [[0, 15, 1], [16, 31, 1]],
        "longest_example_characters": 16,
        "shortest_example_bytes": 9,
        "longest_example_bytes": 16,
        "messages_histogram": [[2, 2, 2]],
        "roles": {"user": 2, "assistant": 2},
    }
    lines = f"{long.content_hash} train\n{short.content_hash} held_out\n"
    assert dataset.fingerprint == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


@pytest.mark.django_db
def test_the_fingerprint_changes_with_order_and_parts_only():
    first, second = (trace.id for trace in make_traces(2))
    fingerprints = [
        create(version=str(number), trace_ids=ids, held_out_ids=held_out).fingerprint
        for number, (ids, held_out) in enumerate(
            [
                ([first, second], []),
                ([first, second], []),
                ([second, first], []),
                ([first, second], [second]),
            ]
        )
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


@pytest.mark.django_db
def test_a_dataset_may_be_empty():
    dataset = create()
    assert (dataset.size, dataset.held_out_size) == (0, 0)
    assert dataset.stats["prompt_characters"] == {"min": None, "mean": None, "max": None}
    assert dataset.stats["shortest_example_bytes"] is None
    assert dataset.fingerprint == f"sha256:{hashlib.sha256().hexdigest()}"


@pytest.mark.django_db
def test_a_trace_may_stand_in_several_places():
    first, second = (trace.id for trace in make_traces(2))
    dataset = create(trace_ids=[first, second, first], held_out_ids=[first])
    assert (dataset.size, dataset.held_out_size) == (3, 2)


@pytest.mark.django_db
def test_unknown_traces_are_named_once_and_nothing_is_stored():
    known = make_traces(1)[0].id
    unknown = [uuid.UUID(int=number) for number in range(25)]
    with pytest.raises(UnknownTraces) as caught:
        create(trace_ids=[unknown[0], known, *unknown])
    assert caught.value.ids == [str(item) for item in unknown]
    assert str(unknown[0]) in str(caught.value)
    assert str(caught.value).endswith("and 5 more.")
    assert not Dataset.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["trace_ids", "held_out_ids"])
@pytest.mark.parametrize("value", ["no-uuid", 5, None, "../etc", "\x00"])
def test_ids_that_are_no_uuids(field, value):
    known = make_traces(1)[0].id
    arguments = {"trace_ids": [known], "held_out_ids": []} | {field: [known, value]}
    with pytest.raises(InvalidDataset) as caught:
        create_dataset(name="a", version="b", by=None, **arguments)
    assert list(caught.value.errors) == [field]
    assert repr(value) in caught.value.errors[field][0]


@pytest.mark.django_db
def test_what_is_held_out_must_be_in_the_selection():
    first, second = (trace.id for trace in make_traces(2))
    with pytest.raises(InvalidDataset) as caught:
        create(trace_ids=[first], held_out_ids=[second])
    assert caught.value.errors == {"held_out_ids": [f"Not among trace_ids: {second}."]}


@pytest.mark.django_db
def test_the_same_name_and_version_again():
    make_dataset()
    with pytest.raises(DatasetExists, match="sums-v1 exists already"):
        create()
    assert create(version="v2").dataset_key == "sums-v2"


@pytest.mark.django_db
def test_the_key_is_unique_however_it_is_split():
    create("a-b", "c")
    with pytest.raises(DatasetExists, match="a-b-c exists already"):
        create("a", "b-c")


@pytest.mark.django_db
@pytest.mark.parametrize("word", ["a", "A.b_c-9", ".", "-", "1"])
def test_words_that_are_allowed(word):
    assert create(word, word).dataset_key == f"{word}-{word}"


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["name", "version"])
@pytest.mark.parametrize(
    "word",
    [
        "",
        "a b",
        "a/b",
        "../a",
        "a..b",
        "..",
        "a\n",
        "a\x00",
        "ä",
        "a%2e",
        "\\",
        "a:b",
        "\ud800",
        None,
        5,
        ["a"],
    ],
)
def test_words_that_are_refused(field, word):
    arguments = {"name": "a", "version": "b"} | {field: word}
    with pytest.raises(InvalidDataset) as caught:
        create(**arguments)
    assert list(caught.value.errors) == [field]
    assert not Dataset.objects.exists()


@pytest.mark.django_db
def test_lengths_at_both_sides_of_the_limits():
    longest = create("n" * MAX_NAME, "v" * MAX_VERSION, description="d" * MAX_DESCRIPTION)
    assert len(longest.dataset_key) == 256
    too_long: list[tuple[dict[str, Any], str]] = [
        ({"name": "n" * (MAX_NAME + 1)}, "name"),
        ({"version": "v" * (MAX_VERSION + 1)}, "version"),
        ({"description": "d" * (MAX_DESCRIPTION + 1)}, "description"),
        ({"description": "\x00"}, "description"),
        ({"description": 5}, "description"),
    ]
    for arguments, field in too_long:
        with pytest.raises(InvalidDataset) as caught:
            create(**arguments)
        assert list(caught.value.errors) == [field]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "key",
    [
        "",
        "nothing",
        "sums-v2",
        "SUMS-V1",
        "../sums-v1",
        "sums-v1\x00",
        "\ud800",
        "s" * 257,
        "sums-v1\n",
    ],
)
def test_keys_that_are_not_there(key):
    make_dataset()
    with pytest.raises(DatasetNotFound):
        get_dataset(key)


@pytest.mark.django_db
def test_a_key_that_is_there():
    dataset = make_dataset()
    assert get_dataset("sums-v1") == dataset


@pytest.mark.django_db(transaction=True)
def test_of_makers_at_the_same_moment_one_wins():
    ids = [trace.id for trace in make_traces(3)]
    start = threading.Barrier(4, timeout=180)
    results: list[Dataset | DatasetExists] = []

    def make(name, version):
        try:
            start.wait()
            results.append(create(name, version, trace_ids=ids))
        except DatasetExists as error:
            results.append(error)
        finally:
            connection.close()

    makers = [("a-b", "c"), ("a", "b-c"), ("a-b", "c"), ("a", "b-c")]
    threads = [threading.Thread(target=make, args=maker) for maker in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Dataset) for result in results) == 1
    assert sum(isinstance(result, DatasetExists) for result in results) == 3
    assert Dataset.objects.count() == 1
    assert DatasetItem.objects.count() == 3
