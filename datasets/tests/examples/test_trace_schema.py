"""The JSON Schema of a trace, against the function that checks traces."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.examples.schema import (
    MAX_STEP_NUMBER,
    MAX_STEP_TYPE_CHARACTERS,
    MAX_STEPS,
    TRACE_SCHEMA,
    InvalidTrace,
    parse_trace,
)
from datasets.tests.factory import trace_body

SCHEMA = jsonschema_rs.Draft202012Validator(TRACE_SCHEMA)
STEP = {"i": 0, "type": "reason", "content": "because"}
TEXT = st.text(max_size=3) | st.none() | st.integers() | st.just("a")
STEPS = st.fixed_dictionaries(
    {"i": st.integers(-1, 3) | st.just(MAX_STEP_NUMBER + 1), "type": TEXT, "content": TEXT},
    optional={"note": TEXT},
)
TRACES = st.fixed_dictionaries(
    {"prompt": TEXT, "final_answer": TEXT},
    optional={
        "steps": st.lists(STEPS, max_size=2) | TEXT,
        "meta": st.dictionaries(st.text(max_size=2), TEXT, max_size=2) | TEXT,
        "trace_version": st.sampled_from(["1.0", "2.0", 1]),
        "promt": TEXT,
    },
)


@given(trace=TRACES)
def test_it_allows_every_trace_that_is_taken(trace: dict[str, Any]):
    try:
        parse_trace(trace)
    except InvalidTrace:
        return
    assert SCHEMA.is_valid(trace)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": " "},
        {"prompt": 1},
        {"final_answer": None},
        {"steps": None},
        {"steps": [STEP | {"i": n} for n in range(MAX_STEPS + 1)]},
        {"steps": [STEP | {"i": -1}]},
        {"steps": [STEP | {"i": MAX_STEP_NUMBER + 1}]},
        {"steps": [STEP | {"type": "x" * (MAX_STEP_TYPE_CHARACTERS + 1)}]},
        {"steps": [STEP | {"note": "n"}]},
        {"steps": [{"i": 0, "type": "reason"}]},
        {"meta": []},
        {"trace_version": "2.0"},
        {"promt": "?"},
    ],
    ids=str,
)
def test_it_forbids_what_is_refused(changes: dict[str, Any]):
    trace = trace_body(0) | changes
    assert not SCHEMA.is_valid(trace)
    with pytest.raises(InvalidTrace):
        parse_trace(trace)
