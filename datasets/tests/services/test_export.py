import json
import tracemalloc

import pytest

from datasets.models import Dataset
from datasets.services import exports
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines, write_jsonl
from datasets.services.traces import create_traces
from datasets.tests.factory import make_dataset


@pytest.mark.django_db
def test_lines_have_the_order_and_the_parts_of_the_dataset():
    dataset = make_dataset(3, held_out=1)
    lines = [json.loads(line) for line in export_lines(dataset)]
    assert [line["messages"][0]["content"] for line in lines] == ["0+1=?", "1+1=?", "2+1=?"]
    assert [line["split"] for line in lines] == ["train", "train", "held_out"]
    assert [line["final_answer"] for line in lines] == ["1", "2", "3"]
    assert [line["id"] for line in lines] == [
        str(item.trace_id) for item in dataset.items.order_by("position")
    ]


@pytest.mark.django_db
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8])
def test_batches_neither_lose_nor_repeat_lines(size, monkeypatch):
    monkeypatch.setattr(exports, "READ_BATCH", 4)
    lines = [json.loads(line) for line in export_lines(make_dataset(size))]
    assert [line["messages"][0]["content"] for line in lines] == [
        f"{number}+1=?" for number in range(size)
    ]


@pytest.mark.django_db
def test_another_dataset_is_left_out():
    make_dataset(2, name="other", first=10)
    dataset = make_dataset(1)
    make_dataset(2, name="third", first=20)
    assert len(list(export_lines(dataset))) == 1


@pytest.mark.django_db
def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "dataset.jsonl"
    dataset = make_dataset(3)
    assert write_jsonl(dataset, path) == 3
    assert path.read_bytes() == b"".join(export_lines(dataset))
    assert [entry.name for entry in tmp_path.iterdir()] == ["dataset.jsonl"]


@pytest.mark.django_db
def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "dataset.jsonl"
    path.write_text("old")
    write_jsonl(make_dataset(1), path)
    assert json.loads(path.read_text())["final_answer"] == "1"


@pytest.mark.django_db
def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_jsonl(make_dataset(1), tmp_path / "missing" / "dataset.jsonl")


@pytest.mark.django_db
def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path):
    (tmp_path / "dataset.jsonl").mkdir()
    with pytest.raises(OSError, match=r"dataset\.jsonl"):
        write_jsonl(make_dataset(1), tmp_path / "dataset.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["dataset.jsonl"]


def peak_of_export(dataset: Dataset) -> int:
    """The most memory, in bytes, that is held while the lines are read."""
    tracemalloc.start()
    try:
        for line in export_lines(dataset):
            assert len(line) > 20_000
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.django_db
def test_memory_does_not_grow_with_the_dataset():
    # 20 kB an example: the large dataset has 20 MB.
    bodies = [
        {"prompt": f"{number} " + "x" * 10_000, "final_answer": "y" * 10_000}
        for number in range(1_000)
    ]
    ids = [trace.id for trace in create_traces(items=bodies, by=None)]
    small = create_dataset(name="small", version="1", trace_ids=ids[:250], by=None)
    large = create_dataset(name="large", version="1", trace_ids=ids, by=None)
    peak_of_export(small)
    assert peak_of_export(large) < 1.2 * peak_of_export(small) < 12_000_000
