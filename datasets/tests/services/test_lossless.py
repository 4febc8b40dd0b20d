"""Exports with everything that examples say: imported again, they are the same dataset."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from datasets.examples.kinds import example_line, parse_example
from datasets.files import parquet
from datasets.formats.table import FORMATS, recognise
from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines, export_parquet
from datasets.services.traces import create_traces
from datasets.tests.factory import import_upload, jsonl, make_dataset
from datasets.tests.formats.test_formats import CHATS, PAIRS, PROMPTS, TRACES

pytestmark = pytest.mark.django_db
TOOLS = [
    {"type": "function", "function": {"name": "b", "parameters": {"z": {"default": None}, "a": 1}}}
]
CALL = {"id": "c", "type": "function", "function": {"name": "b", "arguments": {"z": [], "a": None}}}
QUESTION = {"role": "user", "content": "1+1?"}
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "trace": [
        {
            "prompt": "1+1?\n",
            "steps": [{"i": 3, "type": "odd type", "content": "a\n\nb"}],
            "final_answer": " 2 ",
            "meta": {"b": [None, {"z": 1.5, "a": {}}], "a": "\u2028", "steps": None},
        },
        {"prompt": '[{"role": "user"}]', "final_answer": "{}"},
        {"prompt": "\u202e right to left", "steps": [], "final_answer": "null"},
    ],
    "conversation": [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "developer", "content": "</think><|im_end|>"},
                QUESTION,
                {"role": "assistant", "content": "", "reasoning": "r", "tool_calls": [CALL]},
                {"role": "tool", "content": "x", "tool_call_id": "c", "name": "b"},
                {"role": "assistant", "content": "wrong", "weight": 0},
                QUESTION,
                {"role": "assistant", "content": "2"},
            ],
            "tools": TOOLS,
            "final_answer": "2",
            "meta": {"score": 3},
        },
        {"messages": [QUESTION, {"role": "assistant", "content": "2"}]},
    ],
    "preference": [
        {
            "prompt": "1+1?",
            "chosen": "2",
            "rejected": [{"role": "assistant", "content": "3", "reasoning": "r"}],
            "scores": {"chosen": 1.5, "rejected": -1},
            "tools": TOOLS,
            "meta": {"x": None},
        },
        {"prompt": "1+1?", "chosen": "2", "rejected": "4"},
    ],
    "prompt": [
        {"kind": "prompt", "prompt": "1+1?", "final_answer": "2", "meta": {"split": "x"}},
        {"kind": "prompt", "prompt": [QUESTION], "tools": TOOLS, "final_answer": None},
    ],
}


def store(name: str, content: bytes, **asked: Any) -> Dataset:
    return import_upload(file=io.BytesIO(content), name=name, version="v1", **asked)


def as_jsonl(dataset: Dataset) -> bytes:
    return b"".join(export_lines(dataset, in_full=True))


def as_parquet(dataset: Dataset) -> bytes:
    pytest.importorskip("pyarrow")
    return b"".join(export_parquet(dataset))


each_form = pytest.mark.parametrize("export", [as_jsonl, as_parquet])


def check_again(dataset: Dataset, export: Callable[[Dataset], bytes]) -> None:
    content = export(dataset)
    again = store("again", content)
    assert again.provenance["format"] == "examples"
    for name in ("fingerprint", "kind", "size", "held_out_size", "stats"):
        assert getattr(again, name) == getattr(dataset, name), name
    assert as_jsonl(again) == as_jsonl(dataset)


@each_form
@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_export_that_is_imported_again_is_the_same_dataset(
    kind: str, export: Callable[[Dataset], bytes]
):
    lines = [
        json.loads(example_line(parse_example(example), split))
        for example, split in zip(EXAMPLES[kind], ("train", "held_out", "train"), strict=False)
    ]
    dataset = store("first", jsonl(*lines))
    assert (dataset.kind, dataset.held_out_size) == (kind, 1)
    check_again(dataset, export)


# What is refused beside an example of another format says nothing in the meta of our own exports.
META = {
    "parallel_tool_calls": True,
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "x": {"tools": [1], "label": False, "image": "a.png"},
    "rejected": "3",
    "score": 0,
} | {f"field {number}": number for number in range(1_100)}


@pytest.mark.parametrize("kind", ["conversation", "preference", "prompt"])
def test_the_training_form_comes_back_whatever_is_in_meta(kind: str):
    examples = [example | {"meta": META} for example in EXAMPLES[kind]]
    ids = [trace.id for trace in create_traces(items=examples, by=None)]
    dataset = create_dataset(name="first", version="v1", trace_ids=ids, by=None)
    for in_full in (False, True):
        again = store(f"again-{in_full}", b"".join(export_lines(dataset, in_full=in_full)))
        assert again.fingerprint == dataset.fingerprint


LINES = [
    *(line for line, *_ in (*CHATS, *PAIRS, *TRACES, *PROMPTS)),
    {"question": "1+1?", "answer": "1+1=2\n#### 2"},
    {"question": "1+1?", "answer": "2"},
    {"question": "1+1?", "solution": "Add.", "answer": "2"},
    {"prompt": "1+1?", "completion": "2", "topic": {"b": 1, "a": [None]}},
    {"prompt": "1+1?", "final_answer": "2", "meta": {"x": 1}},
]


def test_every_format_is_among_the_lines():
    others = {"examples", "tunix_sft", "tunix_preference", "tunix_prompts", "text", "kto", "oasst"}
    assert {recognise(line) for line in LINES} == FORMATS.keys() - others


@pytest.mark.parametrize("line", LINES, ids=lambda line: ",".join(sorted(line))[:60])
def test_every_format_comes_back(line: dict[str, Any]):
    check_again(store("first", jsonl(line)), as_jsonl)


@each_form
def test_plain_text_comes_back(export: Callable[[Dataset], bytes]):
    check_again(store("first", jsonl({"text": "Once"}), kind="text"), export)


def test_storing_examples_takes_the_lines_without_their_part():
    dataset = make_dataset(3)
    items = [json.loads(line) for line in export_lines(dataset, in_full=True)]
    for item in items:
        del item["split"]
    stored = create_traces(items=items, by=None)
    places = dataset.items.order_by("position")
    assert [trace.pk for trace in stored] == [item.trace_id for item in places]


def test_another_kind_than_the_one_asked_for_is_refused():
    content = as_jsonl(make_dataset(1))
    with pytest.raises(Exception, match="1 line is not valid") as error:
        store("again", content, kind="prompt")
    assert error.value.problems[0].reason == "is a trace, not a prompt"


class TestApi:
    def test_the_form_is_asked_for(self, api):
        dataset = make_dataset(2)
        answer = api.get("/api/datasets/sums-v1/export.jsonl?form=examples")
        assert b"".join(answer.streaming_content) == as_jsonl(dataset)
        assert api.get("/api/datasets/sums-v1/export.jsonl?form=x").status_code == 422

    def test_parquet_is_streamed(self, api):
        pytest.importorskip("pyarrow")
        make_dataset(2)
        answer = api.get("/api/datasets/sums-v1/export.parquet")
        assert answer["Content-Type"] == "application/vnd.apache.parquet"
        assert answer["Content-Disposition"] == 'attachment; filename="sums-v1.parquet"'
        content = b"".join(answer.streaming_content)
        assert content[:4] == content[-4:] == b"PAR1"

    def test_without_the_package_the_answer_says_how_to_install_it(self, api, monkeypatch):
        make_dataset(1)
        monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
        answer = api.get("/api/datasets/sums-v1/export.parquet")
        assert (answer.status_code, parquet.INSTALL in answer.json()["detail"]) == (501, True)
        page = api.get("/datasets/sums-v1").content.decode()
        assert "export.parquet" not in page
