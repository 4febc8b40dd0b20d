"""Examples of all kinds: what is stored of them, and the lines that training programs read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.examples import kinds
from datasets.examples.kinds import Outline, outline_of, parse_example, parts_of, training_line
from datasets.examples.schema import MAX_TRACE_BYTES, InvalidTrace
from datasets.formats.lines import parse_line
from datasets.formats.table import recognise, to_example
from datasets.models import Kind
from datasets.tests.factory import trace_body
from tunixrt.readable import is_blank

USER = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "2"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"z": 1, "a": 2}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"y": 1, "x": 1}}}

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Count."},
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "I add."},
        {"role": "tool", "content": "2", "name": "add"},
        ANSWER | {"weight": 0},
        USER,
        ANSWER,
    ],
    "tools": TOOLS,
    "final_answer": "2",
    "meta": {"source": "x"},
}
PREFERENCE = {
    "prompt": [USER],
    "chosen": [ANSWER],
    "rejected": [ANSWER | {"content": "3"}],
    "scores": {"chosen": 9, "rejected": 1.5},
    "tools": TOOLS,
    "meta": {"source": "x"},
}
PROMPT = {"prompt": [USER], "final_answer": "2", "tools": TOOLS, "meta": {"level": 3}}
ALL = [
    (trace_body(1), Kind.TRACE),
    (CONVERSATION, Kind.CONVERSATION),
    (PREFERENCE, Kind.PREFERENCE),
    (PROMPT | {"kind": "prompt"}, Kind.PROMPT),
]


def errors_of(value):
    with pytest.raises(InvalidTrace) as caught:
        parse_example(value)
    return caught.value.errors


@pytest.mark.parametrize(("value", "kind"), ALL)
def test_a_kind_is_told_by_its_fields(value, kind):
    assert parse_example(value).kind == kind
    assert parse_example(value | {"trace_version": "1.0"}).kind == kind


def test_a_prompt_with_an_answer_is_a_trace_unless_asked_for():
    value = {"prompt": "1+1?", "final_answer": "2"}
    assert parse_example(value).kind == Kind.TRACE
    assert parse_example(value, kind="prompt").kind == Kind.PROMPT
    assert json.loads(parse_example(value, kind="prompt").content) == {"messages": [USER]}


def test_texts_stand_for_messages():
    pair = parse_example({"prompt": "1+1?", "chosen": "2", "rejected": "3"})
    assert json.loads(pair.content) == {
        "prompt": [USER],
        "chosen": [ANSWER],
        "rejected": [ANSWER | {"content": "3"}],
    }


def test_lists_show_the_first_question():
    assert parse_example(CONVERSATION).prompt == "1+1?"
    long = {"messages": [USER | {"content": "x" * 5_000}, ANSWER]}
    assert len(parse_example(long).prompt) == kinds.MAX_SUMMARY


@pytest.mark.parametrize(("value", "kind"), ALL[1:])
def test_the_hash_covers_everything_and_the_order_of_keys_that_templates_write(value, kind):
    first = parse_example(value)
    assert first.content_hash == parse_example(dict(reversed(value.items()))).content_hash
    hashes = {first.content_hash}
    for changed in (
        value | {"meta": {"source": "y"}},
        value | {"tools": None},
        value
        | {"tools": [{"type": "function", "function": {"parameters": {"a": 2}, "name": "add"}}]},
    ):
        hashes.add(parse_example(changed).content_hash)
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"kind": "essay"}, "kind", "Must be one of trace, conversation, preference, prompt."),
        ({"kind": ["trace"]}, "kind", "Must be one of"),
        (42, "trace", "Must be an object, not a number."),
        ({"messages": [USER, ANSWER], "note": 1}, "note", "Unknown field."),
        ({"chosen": "2", "rejected": "3"}, "prompt", "This field is required."),
        ({"kind": "prompt"}, "prompt", "This field is required."),
        ({"messages": [USER, ANSWER], "trace_version": "2"}, "trace_version", 'Must be "1.0".'),
        ({"messages": [USER]}, "messages", "the last message must be the assistant's"),
        ({"messages": [USER, ANSWER, USER]}, "messages", "the last message must be the"),
        ({"messages": [ANSWER]}, "messages", "there is no message of the user"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, "messages", "there is nothing to learn"),
        ({"messages": [USER, ANSWER], "final_answer": 2}, "final_answer", "Must be text"),
        ({"messages": [USER, ANSWER], "meta": []}, "meta", "Must be an object"),
        (PREFERENCE | {"rejected": [ANSWER]}, "messages", "chosen and rejected are the same"),
        (PREFERENCE | {"rejected": [USER]}, "messages", "rejected: the last message must be"),
        (PREFERENCE | {"chosen": []}, "messages", "chosen: must be a list of messages"),
        (PREFERENCE | {"prompt": [ANSWER]}, "messages", "a prompt must end with a message of"),
        (PREFERENCE | {"scores": {"chosen": 1}}, "messages", "scores must be numbers"),
        (PREFERENCE | {"scores": {"chosen": True, "rejected": 1}}, "messages", "scores must be"),
        (
            {"messages": [USER | {"content": "x" * MAX_TRACE_BYTES}, ANSWER]},
            "trace",
            "the limit is 1,048,576",
        ),
        ({"messages": [USER | {"content": "\ud800"}, ANSWER]}, "trace", "a lone surrogate"),
    ],
)
def test_examples_that_are_refused(value, field, reason):
    assert reason in errors_of(value)[field][0]


def test_arguments_that_are_nested_too_deeply_are_refused():
    deep: list = []
    for _ in range(100):
        deep = [deep]
    call = {"function": {"name": "f", "arguments": {"a": deep}}}
    message = {"role": "assistant", "tool_calls": [call]}
    assert "nested" in errors_of({"messages": [USER, message]})["messages"][0]


# --- Lines ----------------------------------------------------------------------------------------


def test_the_line_of_a_conversation():
    line = json.loads(training_line("some-id", parse_example(CONVERSATION), "train"))
    assert line == {
        "id": "some-id",
        "kind": "conversation",
        "messages": CONVERSATION["messages"],
        "tools": TOOLS,
        "final_answer": "2",
        "meta": {"source": "x"},
        "split": "train",
    }
    assert list(line["tools"][0]["function"]["parameters"]) == ["z", "a"]
    assert list(line["messages"][2]["tool_calls"][0]["function"]["arguments"]) == ["y", "x"]


def test_the_line_of_a_pair():
    line = json.loads(training_line("some-id", parse_example(PREFERENCE), "held_out"))
    assert line == {"id": "some-id", "kind": "preference", "split": "held_out", **PREFERENCE}


def test_the_line_of_a_prompt():
    line = json.loads(training_line("some-id", parse_example(PROMPT, kind="prompt"), "train"))
    assert line.pop("messages") == [USER]
    assert line == {
        "id": "some-id",
        "kind": "prompt",
        "tools": TOOLS,
        "final_answer": "2",
        "meta": {"level": 3},
        "split": "train",
    }


@pytest.mark.parametrize(("value", "kind"), ALL[1:])
def test_a_line_comes_back_as_the_same_example(value, kind):
    example = parse_example(value)
    line = parse_line(training_line("x", example, "held_out"))
    again, split = to_example(line, recognise(line))
    assert (again, split) == (example, "held_out")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


@given(question=texts, answer=texts, reasoning=texts)
def test_any_text_goes_into_a_line_and_comes_back(question, answer, reasoning):
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "reasoning": reasoning},
    ]
    if is_blank(question) or is_blank(answer):
        assert "is blank" in errors_of({"messages": messages})["messages"][0]
        return
    example = parse_example({"messages": messages})
    raw = training_line("x", example, "train")
    assert raw.count(b"\n") == 1
    assert to_example(parse_line(raw), "tunix_sft")[0] == example


# --- Showing --------------------------------------------------------------------------------------


def test_what_is_given_and_what_is_learnt():
    outline = outline_of(parse_example(CONVERSATION))
    assert outline.given == ["Count.", "1+1?", "2", "2", "1+1?"]
    assert outline.learnt[0] == "I add." and outline.learnt[-1] == "2"
    assert '"x":1' in outline.learnt[2]
    assert outline.roles == [message["role"] for message in CONVERSATION["messages"]]
    assert outline_of(parse_example(PREFERENCE)) == Outline(
        ["1+1?"], ["2", "3"], ["user", "assistant"], tools=True
    )
    assert outline_of(parse_example(PROMPT, kind="prompt")) == Outline(
        ["1+1?"], ["2"], ["user"], tools=True
    )
    assert outline_of(parse_example(trace_body(1))) == Outline(
        ["1+1=?"], ["1 and one\n2"], ["user", "assistant"]
    )


def test_what_a_page_shows():
    (conversation,) = parts_of(parse_example(CONVERSATION))
    call = conversation.messages[2]
    assert (call.reasoning, call.calls) == ("I add.", ['add({"y":1,"x":1})'])
    assert [message.learnt for message in conversation.messages] == [
        *(False, False, True, False, False, False, True),
    ]
    assert [part.title for part in parts_of(parse_example(PREFERENCE))] == [
        *("Prompt", "Chosen", "Rejected"),
    ]
    _, reference = parts_of(parse_example(PROMPT, kind="prompt"))
    assert [(m.role, m.content) for m in reference.messages] == [("reference answer", "2")]
