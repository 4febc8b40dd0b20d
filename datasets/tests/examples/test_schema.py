import hashlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.examples.kinds import training_line
from datasets.examples.schema import (
    MAX_META_DEPTH,
    MAX_META_NUMBER,
    MAX_STEP_NUMBER,
    MAX_STEP_TYPE_CHARACTERS,
    MAX_STEPS,
    MAX_TRACE_BYTES,
    InvalidTrace,
    parse_trace,
)
from datasets.tests.factory import trace_body


def errors_of(body):
    with pytest.raises(InvalidTrace) as caught:
        parse_trace(body)
    return caught.value.errors


def step(i=0, kind="reasoning", content="x"):
    return {"i": i, "type": kind, "content": content}


def nested(levels):
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


def test_a_valid_trace_keeps_its_fields():
    trace = parse_trace(trace_body(4, trace_version="1.0"))
    assert (trace.prompt, trace.final_answer, trace.trace_version) == ("4+1=?", "5", "1.0")
    assert trace.steps == [{"i": 0, "type": "reasoning", "content": "4 and one"}]
    assert trace.meta == {"number": 4}


def test_steps_meta_and_version_may_be_left_out():
    trace = parse_trace({"prompt": "p", "final_answer": "a"})
    assert (trace.steps, trace.meta, trace.trace_version) == ([], {}, "1.0")


def test_content_hash_is_the_sha256_of_the_canonical_json():
    content = {
        "final_answer": "é",
        "meta": {"a": 1, "b": [True, None]},
        "prompt": "p",
        "steps": [],
        "trace_version": "1.0",
    }
    canonical = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    body = {"prompt": "p", "final_answer": "é", "meta": {"b": [True, None], "a": 1}}
    assert parse_trace(body).content_hash == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "q"},
        {"final_answer": "x"},
        {"steps": []},
        {"meta": {}},
        {"meta": {"number": "0"}},
    ],
)
def test_every_field_is_in_the_content_hash(changes):
    assert parse_trace(trace_body()).content_hash != parse_trace(trace_body(**changes)).content_hash


@pytest.mark.parametrize("body", [None, 1, "text", [], [trace_body()]])
def test_a_trace_is_an_object(body):
    assert "Must be an object" in errors_of(body)["trace"][0]


@pytest.mark.parametrize("field", ["prompt", "final_answer"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "Must be text, not null."),
        (1, "Must be text, not a number."),
        (True, "Must be text, not true or false."),
        (["a"], "Must be text, not a list."),
        ("", "Must not be blank."),
        (" \n\t", "Must not be blank."),
        ("\u200b\u2060", "Must not be blank."),
        ("a\x00b", "Holds a NUL character (\\u0000), which cannot be stored."),
    ],
)
def test_prompt_and_final_answer_are_text(field, value, reason):
    assert errors_of(trace_body(**{field: value})) == {field: [reason]}


@pytest.mark.parametrize("field", ["prompt", "final_answer"])
def test_prompt_and_final_answer_are_required(field):
    body = trace_body()
    del body[field]
    assert errors_of(body) == {field: ["This field is required."]}


def test_unknown_fields_are_refused_with_their_names():
    assert errors_of(trace_body(promt="x", id="1")) == {
        "promt": ["Unknown field."],
        "id": ["Unknown field."],
    }


@pytest.mark.parametrize("version", ["1.1", "2", 1.0, None, ""])
def test_the_version_is_1_0(version):
    assert errors_of(trace_body(trace_version=version)) == {"trace_version": ['Must be "1.0".']}


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ("text", "Must be a list, not text."),
        ({}, "Must be a list, not an object."),
        (["x"], "steps[0]: must be an object, not text."),
        ([{"i": 0, "type": "t"}], "steps[0]: content is missing."),
        ([step() | {"note": 1}], "steps[0]: unknown field note."),
        ([step(i="0")], f"steps[0].i: must be a whole number from 0 to {MAX_STEP_NUMBER}."),
        ([step(i=1.0)], f"steps[0].i: must be a whole number from 0 to {MAX_STEP_NUMBER}."),
        ([step(i=True)], f"steps[0].i: must be a whole number from 0 to {MAX_STEP_NUMBER}."),
        ([step(i=-1)], f"steps[0].i: must be a whole number from 0 to {MAX_STEP_NUMBER}."),
        (
            [step(i=MAX_STEP_NUMBER + 1)],
            f"steps[0].i: must be a whole number from 0 to {MAX_STEP_NUMBER}.",
        ),
        (
            [step(1), step(0)],
            "steps[1].i: 0 does not come after 1; steps are listed in ascending order.",
        ),
        (
            [step(1), step(1)],
            "steps[1].i: 1 does not come after 1; steps are listed in ascending order.",
        ),
        ([step(kind="")], "steps[0].type: Must not be blank."),
        ([step(kind=5)], "steps[0].type: Must be text, not a number."),
        (
            [step(kind="t" * (MAX_STEP_TYPE_CHARACTERS + 1))],
            "steps[0].type: the limit is 64 characters.",
        ),
        ([step(content=" ")], "steps[0].content: Must not be blank."),
        (
            [step(content="\x00")],
            "steps[0].content: Holds a NUL character (\\u0000), which cannot be stored.",
        ),
    ],
)
def test_steps_that_are_refused(steps, reason):
    assert errors_of(trace_body(steps=steps)) == {"steps": [reason]}


def test_steps_at_their_limits():
    steps = [step(0), step(MAX_STEP_NUMBER, "t" * MAX_STEP_TYPE_CHARACTERS)]
    assert parse_trace(trace_body(steps=steps)).steps == steps


def test_number_of_steps_at_both_ends():
    most = [step(number) for number in range(MAX_STEPS)]
    assert len(parse_trace(trace_body(steps=most)).steps) == MAX_STEPS
    assert parse_trace(trace_body(steps=[])).steps == []
    assert errors_of(trace_body(steps=[*most, step(MAX_STEPS)])) == {
        "steps": ["Has 1,001 steps; the limit is 1,000."]
    }


def test_every_bad_step_is_named():
    assert len(errors_of(trace_body(steps=[step(), 1, step(1, content=""), step(7)]))["steps"]) == 2


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ([], "Must be an object, not a list."),
        (None, "Must be an object, not null."),
        ({"a": float("nan")}, f"Holds a number beyond ±{MAX_META_NUMBER}; write it as text."),
        ({"a": float("inf")}, f"Holds a number beyond ±{MAX_META_NUMBER}; write it as text."),
        (
            {"a": MAX_META_NUMBER + 1},
            f"Holds a number beyond ±{MAX_META_NUMBER}; write it as text.",
        ),
        (
            {"a": -MAX_META_NUMBER - 1},
            f"Holds a number beyond ±{MAX_META_NUMBER}; write it as text.",
        ),
        ({"a": {"b\x00": 1}}, "Holds a NUL character (\\u0000), which cannot be stored."),
        ({"a": ["\x00"]}, "Holds a NUL character (\\u0000), which cannot be stored."),
        ({"a": nested(MAX_META_DEPTH)}, f"Is nested more than {MAX_META_DEPTH} levels deep."),
        ({1: 2}, "Has the key 1; keys are text."),
        ({"a": {1, 2}}, "Holds set, which is no JSON."),
    ],
)
def test_meta_that_is_refused(meta, reason):
    assert errors_of(trace_body(meta=meta)) == {"meta": [reason]}


def test_meta_at_its_limits():
    meta = {
        "a": MAX_META_NUMBER,
        "b": -MAX_META_NUMBER,
        "c": nested(MAX_META_DEPTH - 1),
        "": None,
        "d": 1e-300,
    }
    assert parse_trace(trace_body(meta=meta)).meta == meta


@pytest.mark.parametrize("place", ["prompt", "final_answer"])
def test_a_lone_surrogate_is_refused(place):
    assert errors_of(trace_body() | {place: "\ud800"}) == {
        "trace": ["Holds half a character (a lone surrogate)."]
    }


def test_size_at_both_sides_of_the_limit():
    overhead = parse_trace(trace_body(prompt="a")).size - 1
    longest = "a" * (MAX_TRACE_BYTES - overhead)
    assert parse_trace(trace_body(prompt=longest)).size == MAX_TRACE_BYTES
    assert errors_of(trace_body(prompt=longest + "a")) == {
        "trace": ["Has 1,048,577 bytes as JSON; the limit is 1,048,576."]
    }


def test_training_line_of_a_trace_with_steps():
    trace = parse_trace(trace_body(4, steps=[step(0, content="one"), step(1, content="two")]))
    assert json.loads(training_line("some-id", trace, "held_out")) == {
        "id": "some-id",
        "messages": [
            {"role": "user", "content": "4+1=?"},
            {"role": "assistant", "content": "one\ntwo\n5"},
        ],
        "final_answer": "5",
        "split": "held_out",
    }


def test_training_line_without_steps_has_no_final_answer():
    line = json.loads(
        training_line("some-id", parse_trace({"prompt": "p", "final_answer": "a"}), "train")
    )
    assert line["messages"][-1] == {"role": "assistant", "content": "a"}
    assert line["final_answer"] is None


@given(text=st.text(min_size=1))
def test_a_training_line_is_one_line_whatever_the_text(text):
    body = {"prompt": text, "final_answer": text}
    try:
        trace = parse_trace(body)
    except InvalidTrace:
        assert not text.strip() or "\x00" in text
        return
    line = training_line("x", trace, "train")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line)["messages"][1]["content"] == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    value=json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(trace_body(), json_values))
)
def test_anything_is_a_trace_or_refused_with_reasons(value):
    try:
        trace = parse_trace(value)
    except InvalidTrace as caught:
        refused = caught.errors
        assert refused
        assert all(refused.values())
    else:
        assert training_line("x", trace, "train").endswith(b"\n")


@pytest.mark.parametrize(
    "value",
    [
        {
            "prompt": "p",
            "final_answer": "a",
            "steps": [{f"field-{field}": 1 for field in range(4_000)}] * 1_000,
        },
        {
            "prompt": "p",
            "final_answer": "a",
            "steps": [{"i": 0, "type": "", "content": ""}] * 1_000,
        },
        {"prompt": "p", "final_answer": "a"} | {f"field-{field}": 1 for field in range(500_000)},
        {"prompt": "p", "final_answer": "a", "steps": [{"k" * 1_000_000: 1}]},
    ],
    ids=["fields of steps", "steps", "fields", "a long name"],
)
def test_what_is_wrong_is_told_in_a_few_kilobytes(value: dict):
    tracemalloc.start()
    with pytest.raises(InvalidTrace) as caught:
        parse_trace(value)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (
        sum(len(field) + sum(map(len, said)) for field, said in caught.value.errors.items())
        < 10_000
    )
    assert len(str(caught.value)) < 10_000
    assert most < 10 * 2**20
