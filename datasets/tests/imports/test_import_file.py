import hashlib
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.files.reading import MAX_LINE_BYTES, ImportRefused
from datasets.imports import importing
from datasets.imports.importers import BadLines, parse_held_out, parse_mapping
from datasets.models import TRAINING_FORMATS, Dataset, Kind, Trace
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines
from datasets.services.refusals import DatasetExists, InvalidDataset
from datasets.services.traces import create_traces
from datasets.storage import storing
from datasets.tests.factory import (
    import_upload,
    jsonl,
    jsonl_file,
    make_dataset,
    nothing_is_stored,
    trace_body,
)

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"y": 1, "x": 2}}}


def run_import(content, **more):
    file = io.BytesIO(content) if isinstance(content, bytes) else jsonl_file(*content)
    return import_upload(file=file, **({"name": "sums", "version": "v1", "by": None} | more))


def problems_of(content, **more):
    with pytest.raises(BadLines) as caught:
        run_import(content, **more)
    assert nothing_is_stored()
    return [(problem.line, problem.reason) for problem in caught.value.problems]


@pytest.mark.django_db
def test_a_file_becomes_traces_and_a_dataset(user):
    content = jsonl(trace_body(0), trace_body(1), trace_body(0))
    dataset = run_import(content, description="Sums", file_name="sums.jsonl", by=user)
    assert (dataset.dataset_key, dataset.description, dataset.size, dataset.held_out_size) == (
        "sums-v1",
        "Sums",
        3,
        0,
    )
    assert dataset.created_by == user
    assert dataset.provenance == {
        "source": "import",
        "file": "sums.jsonl",
        "format": "trace",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "kept_in_meta": ["number"],
        "imported_by": "somebody",
    }
    assert Trace.objects.count() == 2
    assert [json.loads(line)["messages"][0]["content"] for line in export_lines(dataset)] == [
        "0+1=?",
        "1+1=?",
        "0+1=?",
    ]


@pytest.mark.django_db
def test_statistics_and_fingerprint_are_those_of_the_same_dataset_made_by_ids():
    imported = run_import([trace_body(number) for number in range(3)])
    made = make_dataset(3, name="made")
    assert imported.stats == made.stats
    assert imported.fingerprint == made.fingerprint


@pytest.mark.django_db
def test_traces_that_are_stored_already_are_used():
    (trace,) = create_traces(items=[trace_body(1)], by=None)
    dataset = run_import([trace_body(0), trace_body(1)])
    assert dataset.items.get(position=1).trace == trace
    assert Trace.objects.count() == 2


@pytest.mark.django_db
def test_more_lines_than_one_batch(monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 4)
    monkeypatch.setattr(storing, "BATCH", 4)
    dataset = run_import([trace_body(number) for number in range(10)])
    assert [json.loads(line)["final_answer"] for line in export_lines(dataset)] == [
        str(number + 1) for number in range(10)
    ]


@pytest.mark.django_db
def test_batches_are_cut_by_bytes_as_well(monkeypatch):
    monkeypatch.setattr(importing, "BATCH_BYTES", 300)
    monkeypatch.setattr(storing, "BATCH_BYTES", 300)
    dataset = run_import([trace_body(number) for number in range(10)])
    assert [json.loads(line)["final_answer"] for line in export_lines(dataset)] == [
        str(number + 1) for number in range(10)
    ]


@pytest.mark.django_db
def test_bom_crlf_empty_lines_and_a_missing_last_newline():
    first, second = (json.dumps(trace_body(number)).encode() for number in range(2))
    dataset = run_import(b"\xef\xbb\xbf" + first + b"\r\n\r\n  \t\n" + second)
    assert dataset.size == 2


@pytest.mark.django_db
def test_every_bad_line_is_named_and_nothing_is_stored():
    content = (
        jsonl(trace_body(0))
        + b"\n{\n"
        + jsonl(trace_body(1), {"prompt": 5, "final_answer": "x"}, {"a": 1}, trace_body(2))
    )
    assert problems_of(content) == [
        (3, "is not JSON: unexpected end of data (character 2)"),
        (5, "prompt: Must be text, not a number"),
        (6, "is no trace line: final_answer, prompt is missing"),
    ]


@pytest.mark.django_db
def test_a_format_that_was_named_is_not_guessed():
    assert problems_of([trace_body(0)], format="gsm8k") == [
        (1, "is no gsm8k line: answer, question is missing")
    ]


@pytest.mark.django_db
def test_the_first_readable_line_decides_the_format():
    lines = [
        {"body": "x"},
        {"question": "q", "answer": "#### 1"},
        {"prompt": "p", "completion": "c"},
    ]
    assert problems_of(lines) == [
        (1, "is of no known format: its keys are body; a mapping says which of them is what"),
        (3, "is no gsm8k line: answer, question is missing"),
    ]


@pytest.mark.django_db
def test_a_bad_answer_of_a_later_line_is_never_learnt():
    good = {"prompt": "1+1?", "completion": "2"}
    pair = good | {"chosen": "2", "rejected": "3"}
    (kto, reason), (preference, other) = problems_of([good, good | {"label": False}, pair])
    assert (kto, preference) == (2, 3)
    assert reason == "is a kto line, not a prompt_completion line"
    assert other == "is a preference line, not a prompt_completion line"


@pytest.mark.django_db
def test_a_reason_that_quotes_the_line_stays_short():
    long = "x" * 1_000_000
    bad = [{"messages": [{"role": long, "content": "c"}]}, {long: 1}, trace_body(**{long: 1})]
    content = jsonl(*bad) + f'{{"{long}": 1, "{long}": 2}}'.encode()
    reasons = [reason for _, reason in problems_of(content)]
    assert len(reasons) == 4
    assert max(map(len, reasons)) <= 300


@pytest.mark.django_db
def test_the_first_hundred_bad_lines_are_named_and_all_are_counted():
    with pytest.raises(BadLines) as caught:
        run_import(b"{\n" * 101)
    assert (len(caught.value.problems), caught.value.count) == (100, 101)
    assert caught.value.problems[-1].line == 100
    assert str(caught.value) == "101 lines are not valid, so nothing was stored."
    with pytest.raises(BadLines) as caught:
        run_import(b"{\n" * 101, named_lines=None)
    assert len(caught.value.problems) == 101


@pytest.mark.django_db
def test_long_lines_at_both_sides_of_the_limit():
    line = json.dumps(trace_body(0)).encode()
    longest = line + b" " * (MAX_LINE_BYTES - len(line))
    for ending in (b"\n", b"\r\n", b""):
        assert run_import(longest + ending, version=f"v{len(ending)}").size == 1
        Dataset.objects.all().delete()
    Trace.objects.all().delete()
    assert problems_of(line + b"\n" + longest + b" \n" + line) == [
        (2, "is longer than 4,194,304 bytes")
    ]
    assert problems_of(longest * 3) == [(1, "is longer than 4,194,304 bytes")]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "The file holds no example."),
        (b"\n \r\n\n", "The file holds no example."),
        (b"\xef\xbb\xbf", "The file holds no example."),
        ("{}".encode("utf-16"), "The file is UTF-16."),
        ("{}".encode("utf-16-be"), "The file is UTF-16."),
        (b"\x1f\x8b\x08", "The gzip file is damaged or cut off"),
        (b"PK\x03\x04", "The file is zip."),
    ],
)
def test_files_that_are_refused_as_a_whole(content, reason):
    with pytest.raises(ImportRefused) as caught:
        run_import(content)
    assert reason in str(caught.value) + "".join(
        problem.reason for problem in getattr(caught.value, "problems", [])
    )
    assert nothing_is_stored()


@pytest.mark.django_db
def test_the_limit_at_both_ends():
    lines = [trace_body(number) for number in range(3)]
    one = run_import(jsonl(*lines[:1]) + b"{\n", limit=1)
    assert (one.size, one.provenance["limit"], "sha256" in one.provenance) == (1, 1, False)
    assert run_import(lines, version="v2", limit=5).size == 3
    with pytest.raises(InvalidDataset) as caught:
        run_import(lines, version="v3", limit=0)
    assert caught.value.errors == {"limit": ["Must be at least 1."]}


@pytest.mark.django_db
def test_arguments_are_checked_before_the_file_is_read():
    make_dataset()
    file = jsonl_file(trace_body())
    refused: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"version": "v1"}, DatasetExists),
        ({"name": "../x"}, InvalidDataset),
        ({"format": "parquet"}, InvalidDataset),
        ({"held_out": 0}, InvalidDataset),
        ({"held_out": 1.0}, InvalidDataset),
        ({"held_out": True}, InvalidDataset),
    ]
    for arguments, error in refused:
        with pytest.raises(error):
            import_upload(file=file, **({"name": "sums", "version": "v2", "by": None} | arguments))
    assert file.tell() == 0


# --- The held-out part ----------------------------------------------------------------------------


def held_out_prompts(dataset):
    return {
        item.trace.prompt for item in dataset.items.filter(split="held_out").select_related("trace")
    }


@pytest.mark.django_db
def test_a_number_of_examples_is_held_out_whatever_the_order_of_the_lines():
    lines = [trace_body(number) for number in range(40)]
    dataset = run_import(lines, held_out=7)
    assert (dataset.held_out_size, dataset.stats["held_out"], dataset.stats["train"]) == (7, 7, 33)
    assert dataset.provenance["held_out"] == 7
    again = run_import(lines[::-1], version="v2", held_out=7)
    assert len(held_out_prompts(dataset)) == 7
    assert held_out_prompts(dataset) == held_out_prompts(again)


@pytest.mark.django_db
@pytest.mark.parametrize(("share", "number"), [(0.1, 4), (0.5, 20), (0.001, 1), (0.97, 39)])
def test_a_share_of_the_examples_is_held_out(share, number):
    dataset = run_import([trace_body(number) for number in range(40)], held_out=share)
    assert dataset.items.filter(split="held_out").count() == dataset.held_out_size == number


@pytest.mark.django_db
@pytest.mark.parametrize("held_out", [3, 4, 0.99])
def test_something_must_be_left_to_train_on(held_out):
    with pytest.raises(InvalidDataset) as caught:
        run_import([trace_body(number) for number in range(3)], held_out=held_out)
    assert "leave none to train on" in caught.value.errors["held_out"][0]
    assert nothing_is_stored()


@pytest.mark.django_db
def test_copies_of_an_example_stay_together():
    dataset = run_import([trace_body(number % 5) for number in range(20)], held_out=2)
    assert dataset.held_out_size == 4
    assert len(held_out_prompts(dataset)) == 1


@pytest.mark.django_db
def test_lines_may_name_the_held_out_part():
    lines = [trace_body(0), trace_body(1, split="held_out"), trace_body(2, split="train")]
    dataset = run_import(lines)
    assert held_out_prompts(dataset) == {"1+1=?"}
    assert dataset.held_out_size == 1


@pytest.mark.django_db
def test_an_example_in_both_parts_is_refused():
    with pytest.raises(InvalidDataset) as caught:
        run_import([trace_body(0), trace_body(1), trace_body(1, split="held_out")])
    assert caught.value.errors == {
        "split": ["These examples stand in both parts (counted from 1): 2."]
    }
    assert nothing_is_stored()


@pytest.mark.django_db
def test_parts_are_named_in_one_way_only():
    with pytest.raises(InvalidDataset) as caught:
        run_import([trace_body(0), trace_body(1, split="train")], held_out=1)
    assert "name their part themselves" in caught.value.errors["held_out"][0]
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), (" ", None), ("0", None), ("1", 1), (" 200 ", 200), ("0.1", 0.1), (".25", 0.25)],
)
def test_held_out_as_text(text, value):
    assert parse_held_out(text) == value
    assert type(parse_held_out(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["-1", "1.0", "1.5", "0.0", "10%", "many", "1e2", "nan", "٣", "1" * 10, "0.1.2"]
)
def test_held_out_as_text_that_is_refused(text):
    with pytest.raises(InvalidDataset):
        parse_held_out(text)


# --- A round trip, hostile input, memory ----------------------------------------------------------


@pytest.mark.django_db
def test_our_own_export_can_be_imported():
    dataset = make_dataset(5, held_out=2)
    exported = b"".join(export_lines(dataset))
    again = run_import(exported, name="again")
    assert again.provenance["format"] == "tunix_sft"
    without_ids = [
        [{**json.loads(line), "id": ""} for line in content]
        for content in (exported.splitlines(), export_lines(again))
    ]
    assert without_ids[0] == without_ids[1]


KINDS = {
    Kind.TRACE: [trace_body(number) for number in range(3)],
    Kind.CONVERSATION: [
        {
            "messages": [
                {"role": "user", "content": f"{number}?"},
                {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "r"},
                {"role": "tool", "content": "1", "tool_call_id": "c1"},
                {"role": "assistant", "content": "one", "weight": 0},
                {"role": "assistant", "content": str(number)},
            ],
            "tools": [{"name": "f", "parameters": {"z": 1, "a": 2}}],
            "source": {"page": number},
        }
        for number in range(3)
    ],
    Kind.PREFERENCE: [
        {"prompt": f"{number}?", "chosen": "a", "rejected": "b", "score_chosen": 1.5}
        | {"score_rejected": 0, "id": number}
        for number in range(3)
    ],
    Kind.PROMPT: [{"prompt": f"{number}?", "answer": number, "level": 1} for number in range(3)],
}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != Kind.TRACE])
def test_examples_of_every_kind_come_back_from_their_export_as_they_were(kind):
    dataset = run_import(KINDS[kind], held_out=1)
    assert (dataset.kind, dataset.size) == (kind, 3)
    assert dataset.format == TRAINING_FORMATS[kind]

    again = run_import(b"".join(export_lines(dataset)), name="again")

    assert again.provenance["format"] == TRAINING_FORMATS[kind]
    assert (again.kind, again.fingerprint, again.stats) == (
        kind,
        dataset.fingerprint,
        dataset.stats,
    )
    assert Trace.objects.count() == 3


@pytest.mark.django_db
def test_a_dataset_has_one_kind():
    lines = [{"prompt": "1?", "answer": "1"}, trace_body()]
    (problem,) = problems_of(lines, kind=None)
    assert problem == (2, "is a trace line, not a prompt line")
    ids = [
        trace.id
        for trace in create_traces(
            items=[trace_body(), {"prompt": "1?", "chosen": "a", "rejected": "b"}], by=None
        )
    ]
    with pytest.raises(InvalidDataset) as caught:
        create_dataset(name="mixed", version="v1", trace_ids=ids, by=None)
    (reason,) = caught.value.errors["trace_ids"]
    assert reason == (
        f"A dataset has examples of one kind: {ids[0]} is a trace, {ids[1]} is a preference."
    )


@pytest.mark.django_db
def test_lines_of_one_format_that_become_another_kind_are_refused():
    exported = {"id": "x", "final_answer": None, "split": "train"}
    turn = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}]
    lines = [exported | {"messages": turn}, exported | {"messages": turn * 2}]
    assert problems_of(lines) == [
        (2, "is a conversation, the lines before are of kind trace: a dataset has one kind")
    ]


# --- Kinds that are asked for, and mappings -------------------------------------------------------


@pytest.mark.django_db
def test_a_kind_that_is_asked_for():
    dataset = run_import([{"question": "1+1?", "answer": "2"}], kind="prompt")
    assert (dataset.kind, dataset.provenance["kind"]) == (Kind.PROMPT, "prompt")
    with pytest.raises(InvalidDataset) as caught:
        run_import([{"text": "x"}], version="v2", kind="essay")
    assert "Must be one of trace, conversation" in caught.value.errors["kind"][0]


@pytest.mark.django_db
def test_fields_that_a_training_does_not_see_are_named():
    lines = [
        {"prompt": "1+1?", "completion": "2", "source": "x", "score": 3},
        {"prompt": "2+2?", "completion": "4", "source": "y", "id": 2},
    ]
    assert "an example with a rating (score)" in problems_of(lines)[0][1]
    provenance = run_import(lines, ignore=["score"]).provenance
    assert provenance["kept_in_meta"] == ["source", "score", "id"]
    assert provenance["ignore"] == ["score"]


@pytest.mark.django_db
def test_a_mapping_says_which_column_is_meant():
    content = b"frage;antwort;id\r\n1+1?;2;7\r\n"
    assert problems_of(content) == [
        (
            2,
            "is of no known format: its keys are antwort, frage, id; a mapping says which of them"
            " is what",
        )
    ]
    mapping = {"prompt": "frage", "completion": "antwort"}
    dataset = run_import(content, mapping=mapping)
    (trace,) = Trace.objects.all()
    assert (trace.prompt, trace.final_answer, trace.meta) == ("1+1?", "2", {"id": "7"})
    assert dataset.provenance["mapping"] == mapping


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"colour": "a"}, "'colour' is no field of a format; known are"),
        ({"prompt": 1}, "Must give a field or column of the file"),
        ({"prompt": "a", "completion": "a"}, "twice"),
    ],
)
def test_mappings_that_are_refused(mapping, reason):
    with pytest.raises(InvalidDataset) as caught:
        run_import([trace_body()], mapping=mapping)
    assert reason in caught.value.errors["mapping"][0]


@pytest.mark.django_db
def test_a_mapping_that_does_not_fit_the_lines():
    lines = [{"a": "x", "completion": "y"}, {"prompt": "x", "a": "y"}, {"b": "x"}]
    assert problems_of(lines, mapping={"prompt": "a"})[:2] == [
        (2, "has prompt beside the field that the mapping names"),
        (3, "has no a, which the mapping names"),
    ]


def test_a_mapping_as_text():
    assert parse_mapping("") == {}
    assert parse_mapping('{"prompt": "frage"}') == {"prompt": "frage"}
    for text in ("{", "[]", '{"prompt": "a", "prompt": "b"}', '{"prompt": "\ud800"}'):
        with pytest.raises(InvalidDataset, match="Must be a JSON object"):
            parse_mapping(text)


@pytest.mark.django_db
def test_nothing_is_stored_when_the_file_cannot_be_read_to_its_end():
    lines = [trace_body(number) for number in range(5)]

    class FileThatBreaks(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 300:
                raise OSError("the disk is gone")
            return super().read(min(size, 200))

    with pytest.raises(OSError, match="the disk is gone"):
        import_upload(file=FileThatBreaks(jsonl(*lines)), name="sums", version="v1", by=None)
    assert nothing_is_stored()


hostile = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([jsonl(trace_body(number)) for number in range(3)]),
    st.sampled_from([b"\n", b"\r\n", b"\x00\n", b"\xef\xbb\xbf", b"{}\n", b'{"messages": []}\n']),
    st.just(b'{"prompt": "a", "completion": "b"}\n'),
)


@pytest.mark.django_db
@settings(max_examples=60)
@given(parts=st.lists(hostile, max_size=5))
def test_any_bytes_are_stored_whole_or_not_at_all(parts):
    content = b"".join(parts)
    Dataset.objects.all().delete()
    Trace.objects.all().delete()
    try:
        dataset = run_import(content)
    except ImportRefused:
        assert nothing_is_stored()
    else:
        assert len(list(export_lines(dataset))) == dataset.size == dataset.items.count() > 0


class Endless:
    """A file of ``count`` lines that is made while it is read."""

    def __init__(self, count):
        self.left = count
        self.line = b""

    def read(self, size):
        if not self.line and self.left:
            self.left -= 1
            self.line = jsonl({"prompt": f"{self.left} " + "x" * 5_000, "completion": "y"})
        piece, self.line = self.line[:size], self.line[size:]
        return piece


def peak_of_import(count, version):
    tracemalloc.start()
    try:
        assert (
            import_upload(
                file=Endless(count), name="large", version=version, held_out=0.5, by=None
            ).size
            == count
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.django_db
def test_memory_does_not_grow_with_the_file(monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 50)
    monkeypatch.setattr(storing, "BATCH", 50)
    monkeypatch.setattr(storing, "TARGET_SECONDS", 60.0)  # batches grow however slow the machine is
    peak_of_import(200, "small")
    small, large = peak_of_import(1_000, "again"), peak_of_import(2_500, "v1")  # 5 and 12 MB
    assert large < 1.5 * small
    assert large < 4_000_000
