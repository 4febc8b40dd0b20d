import json

import pytest

from datasets.services.exports import export_lines
from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db


def test_the_export_is_a_stream_of_lines(api):
    dataset = make_dataset(250, held_out=50)
    response = api.get("/api/datasets/sums-v1/export.jsonl")
    assert response.status_code == 200
    assert response.streaming
    assert response.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="sums-v1.jsonl"'
    pieces = list(response.streaming_content)
    assert len(pieces) == 3
    content = b"".join(pieces)
    assert content == b"".join(export_lines(dataset))
    assert [json.loads(line)["split"] for line in content.splitlines()] == ["train"] * 200 + [
        "held_out"
    ] * 50


def test_nothing_is_read_before_the_first_line_is_asked_for(api, django_assert_num_queries):
    make_dataset(3)
    with django_assert_num_queries(1):
        response = api.get("/api/datasets/sums-v1/export.jsonl")
    with django_assert_num_queries(1):
        assert len(b"".join(response.streaming_content).splitlines()) == 3


def test_an_empty_dataset_is_an_empty_file(api):
    make_dataset(0)
    assert b"".join(api.get("/api/datasets/sums-v1/export.jsonl").streaming_content) == b""


@pytest.mark.parametrize(
    "accept", ["application/x-ndjson", "text/html", "text/plain", "*/*", "application/jsonl"]
)
def test_whatever_the_client_accepts(api, accept):
    make_dataset(1)
    response = api.get("/api/datasets/sums-v1/export.jsonl", headers={"accept": accept})
    assert response.status_code == 200
    assert json.loads(b"".join(response.streaming_content))["final_answer"] == "1"


def test_other_methods_are_405(api):
    make_dataset(1)
    assert api.post("/api/datasets/sums-v1/export.jsonl").status_code == 405
