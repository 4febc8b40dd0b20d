import json

import pytest

from datasets.formats import (
    FORMATS,
    REASON_MAX_CHARACTERS,
    LineError,
    parse_line,
    recognise,
    to_trace,
)
from datasets.schema import training_line
from datasets.tests.factory import trace_body
from tunixrt.tests.cpu import run_within_cpu_seconds

USER = {"role": "user", "content": "1+1?"}
ASSISTANT = {"role": "assistant", "content": "2"}


def converted(line):
    return to_trace(line, recognise(line))[0]


def reason_of(line, format_name):
    with pytest.raises(LineError) as caught:
        to_trace(line, format_name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (trace_body(), "trace"),
        ({"messages": [USER, ASSISTANT]}, "messages"),
        ({"messages": [USER, ASSISTANT], "id": "x"}, "messages"),
        (
            {"id": "x", "messages": [USER, ASSISTANT], "final_answer": None, "split": "train"},
            "tunix_sft",
        ),
        ({"question": "q", "answer": "#### 1"}, "gsm8k"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion"),
        ({"prompt": "p", "completion": "c", "final_answer": "x"}, "prompt_completion"),
    ],
)
def test_formats_are_recognised_by_their_keys(line, name):
    assert recognise(line) == name


@pytest.mark.parametrize(
    "line",
    [{}, {"answer": "x"}, {"Prompt": "p"}, {"question": "q"}, {"text": None}, {"Messages": []}],
)
def test_unknown_formats_are_refused_with_the_keys_found(line):
    with pytest.raises(
        LineError, match="is of no known format: its keys are " + (", ".join(line) or "none")
    ):
        recognise(line)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_line_of_another_format_says_what_is_missing(name):
    assert (
        reason_of({"other": 1}, name)
        == f"is no {name} line: {', '.join(sorted(FORMATS[name].keys))} is missing"
    )


# --- What cannot be imported yet is refused by its name -------------------------------------------

PARTS = [{"type": "text", "text": "What is this?"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
TURNS = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
KTO = {"prompt": "1+1?", "completion": "3", "label": False}
PAIR = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}

# Every format that people have and that has no room yet, with its exact keys.
WITHOUT_ROOM = [
    ({"instruction": "Add.", "input": "1 and 1", "output": "2"}, "Alpaca"),
    ({"instruction": "Add.", "output": "2", "system": "s", "history": [["a", "b"]]}, "Alpaca"),
    ({"instruction": "Add.", "context": "", "response": "2", "category": "closed_qa"}, "Dolly"),
    ({"conversations": TURNS, "system": "s", "tools": "[]"}, "ShareGPT"),
    ({"conversations": TURNS, "difficulty": 3, "source": "math", "domain": "math"}, "ShareGPT"),
    ({"messages": [USER, ASSISTANT], "tools": TOOLS}, "an example with tools (tools)"),
    (
        {"messages": [USER, ASSISTANT], "functions": [{"name": "f"}], "parallel_tool_calls": False},
        "tools (functions, parallel_tool",
    ),
    (
        {"messages": [{"role": "developer", "content": "s"}, USER, ASSISTANT]},
        "(the role developer in message 1)",
    ),
    (
        {"messages": [USER, {"role": "tool", "content": "x"}, ASSISTANT]},
        "(the role tool in message 2)",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        "(tool calls in message 2)",
    ),
    (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            ]
        },
        "(tool calls in message 2)",
    ),
    (
        {"messages": [USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1}]},
        "(weights in message 2)",
    ),
    (
        {"messages": [USER, ASSISTANT | {"reasoning_content": "1+1=2"}]},
        "(reasoning apart from the answer in message 2)",
    ),
    ({"messages": [USER | {"name": "Ada"}, ASSISTANT]}, "(names of speakers in message 1)"),
    ({"messages": [USER | {"content": PARTS}, ASSISTANT]}, "(content in parts in message 1)"),
    (
        {"messages": [USER | {"content": [*PARTS, {"type": "image_url"}]}, ASSISTANT]},
        "(a part of type image_url in message 1)",
    ),
    (
        {"messages": [USER | {"content": [{"type": "input_audio"}]}, ASSISTANT]},
        "(a part of type input_audio in message 1)",
    ),
    ({"messages": [USER, ASSISTANT], "images": ["a.png"]}, "images, audio or video (images)"),
    ({"messages": [USER, ASSISTANT], "system": "Be brief."}, "a system prompt of its own (system)"),
    ({"messages": [USER, ASSISTANT], "final_answer": "2"}, "both a trace and a chat"),
    (trace_body(messages=[USER, ASSISTANT]), "both a trace and a chat"),
    (
        {
            "input": {"messages": [USER]},
            "preferred_output": [ASSISTANT],
            "non_preferred_output": [ASSISTANT],
        },
        "preference data of OpenAI",
    ),
    (PAIR, "preference data (chosen, rejected)"),
    (
        {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
        "preference data (chosen, rejected)",
    ),
    (
        {"instruction": "Add.", "input": "", "chosen": "2", "rejected": "3"},
        "preference data of LLaMA-Factory",
    ),
    (
        {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": TURNS[1]},
        "preference data of LLaMA-Factory",
    ),
    (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No",
        },
        "preference data of Anthropic HH",
    ),
    (
        PAIR
        | {
            "prompt_id": "x",
            "messages": [USER, ASSISTANT],
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        "preference data of UltraFeedback",
    ),
    ({"messages": [USER, ASSISTANT], "rejected": "3"}, "preference data (rejected)"),
    ({"prompt": "p", "completion": "c", "rejected": "r"}, "preference data (rejected)"),
    (KTO, "KTO data (prompt, completion, label)"),
    (KTO | {"label": True}, "KTO data"),
    (KTO | {"label": 0}, "KTO data"),
    (KTO | {"label": 1.0}, "KTO data"),
    (KTO | {"label": "false"}, "KTO data"),
    (KTO | {"label": " True "}, "KTO data"),
    (KTO | {"label": "bad"}, "KTO data"),
    ({"prompt": "1+1?", "completion": "3", "Label": False}, "KTO data (prompt, completion, Label)"),
    ({"prompt": "1+1?", "completion": "3", "is-correct": "no"}, "KTO data"),
    ({"prompt": "1+1?", "completion": "3", "labels": [True, False]}, "KTO data"),
    ({"prompt": "1+1?", "completion": "3", "reward": 0.1}, "an example with a rating (reward)"),
    ({"messages": [USER, ASSISTANT], "Tools": ["f"]}, "an example with tools (Tools)"),
    ({"messages": [USER, ASSISTANT], "score": 0}, "an example with a rating (score)"),
    ({"messages": [USER, ASSISTANT], "ratings": ["1", "5"]}, "an example with a rating (ratings)"),
    (
        {"prompt": "p", "completion": "c", "desirable": False},
        "KTO data (prompt, completion, desirable)",
    ),
    ({"messages": [USER, ASSISTANT], "is_correct": False}, "KTO data (is_correct)"),
    ({"messages": [USER, ASSISTANT], "label": False}, "KTO data (label)"),
    ({"question": "q", "answer": "#### 1", "label": False}, "KTO data (label)"),
    ({"messages": [USER, ASSISTANT], "kto_tag": False}, "KTO data (kto_tag)"),
    ({"prompt": "p"}, "a prompt without an answer to learn"),
    ({"prompt": [USER], "answer": "2"}, "a prompt without an answer to learn"),
    (
        {"prompt": "p", "ground_truth": "2", "data_source": "gsm8k"},
        "a prompt without an answer to learn",
    ),
    (
        {
            "problem": "p",
            "generated_solution": "s",
            "expected_answer": "2",
            "pass_rate_72b_tir": "n/a",
        },
        "OpenMathReasoning",
    ),
    (
        {
            "problem": "p",
            "solution": "s",
            "answer": "2",
            "generations": ["g"],
            "correctness_math_verify": [True],
            "messages": [USER],
        },
        "OpenR1-Math",
    ),
    ({"problem": "p", "solution": "<think>x</think>\n2", "answer": "2"}, "worked mathematics"),
    (
        {"problem": "p", "solution": "s", "level": "Level 1", "type": "Algebra"},
        "worked mathematics",
    ),
    (
        {"source": "x", "problem": "p", "solution": "s", "messages": [USER, ASSISTANT]},
        "worked mathematics",
    ),
    ({"query": "q", "answers": "[]", "tools": "[]"}, "function calls of xLAM"),
    (
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "systemInstruction": {}},
        "a chat of Vertex",
    ),
    (
        {"message_id": "1", "parent_id": None, "role": "prompter", "text": "Hi", "rank": 0},
        "a message of OASST",
    ),
    ({"text": "The quick brown fox."}, "plain text"),
    ({"prompt": [USER], "completion": [ASSISTANT]}, "a prompt and completion made of messages"),
    ({"prompt": "p", "completion": "c", "system": "s"}, "a system prompt of its own (system)"),
    ({"prompt": "p", "completion": "c", "input": "more"}, "further input (input)"),
    ({"question": "q", "answer": "#### 1", "context": "c"}, "further input (context)"),
    ({"prompt": "p", "completion": "c", "tools": "[{}]"}, "an example with tools (tools)"),
    (
        {"prompt": "p", "completion": "c", "reasoning": "r"},
        "reasoning apart from the answer (reasoning)",
    ),
    ({"prompt": "p", "completion": "c", "image": "a.png"}, "images, audio or video (image)"),
    ({"prompt": "p", "completion": "c", "weight": 0.5}, "an example with a weight"),
]


@pytest.mark.parametrize(("line", "name"), WITHOUT_ROOM)
def test_what_has_no_room_yet_is_refused_by_name(line, name):
    with pytest.raises(LineError) as caught:
        recognise(line)
    reason = str(caught.value)
    assert name in reason
    assert "which cannot be imported yet: " in reason
    assert len(reason) <= 300


@pytest.mark.parametrize("format_name", list(FORMATS))
def test_nor_is_it_imported_as_another_format_that_is_named(format_name):
    for line, name in WITHOUT_ROOM:
        assert name in reason_of(line, format_name)


def test_a_line_of_the_more_specific_of_our_formats_is_not_taken_for_the_other():
    line = {"id": "x", "messages": [USER, ASSISTANT], "final_answer": None, "split": "train"}
    assert reason_of(line, "messages") == "is a tunix_sft line, not a messages line"
    assert (
        reason_of(line | {"tools": TOOLS}, "tunix_sft")
        == "tools: an export of this system has no such field"
    )


@pytest.mark.parametrize("empty", [None, [], "", {}, "[]"])
def test_empty_fields_of_a_table_change_nothing(empty):
    line = {"messages": [USER, ASSISTANT], "tools": empty, "system": empty, "images": empty}
    assert recognise(line) == "messages"
    assert converted(line).final_answer == "2"


def test_a_document_around_the_examples_is_named():
    with pytest.raises(
        LineError,
        match="its keys are data, version; if the examples stand in 'data', write them one a line",
    ):
        recognise({"data": [{"prompt": "p", "completion": "c"}], "version": 1})


def test_reasons_do_not_grow_with_the_line():
    with pytest.raises(LineError) as caught:
        recognise({f"{number} {'x' * 1_000}": [{}] for number in range(100)})
    assert len(str(caught.value)) <= 300


def test_our_traces():
    trace = converted(trace_body(4))
    assert (trace.prompt, trace.final_answer, trace.meta) == ("4+1=?", "5", {"number": 4})
    assert reason_of(trace_body(4, note=1), "trace") == "note: Unknown field"


def test_chat_of_two_messages():
    trace = converted({"messages": [USER, ASSISTANT]})
    assert (trace.prompt, trace.steps, trace.final_answer, trace.meta) == ("1+1?", [], "2", {})


def test_longer_chats_are_kept_whole():
    messages = [
        {"role": "system", "content": "s"},
        USER,
        ASSISTANT,
        {"role": "user", "content": "2+2?"},
    ]
    trace = converted({"messages": [*messages, {"role": "assistant", "content": "4"}]})
    assert trace.prompt == "2+2?"
    assert trace.meta == {"messages": messages}
    assert json.loads(training_line("x", trace, "train"))["messages"] == [
        *messages,
        {"role": "assistant", "content": "4"},
    ]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "messages: must be a list of messages"),
        ("text", "messages: must be a list of messages"),
        ([USER], "messages: the last message must be the assistant's"),
        ([USER, ASSISTANT, USER], "messages: the last message must be the assistant's"),
        ([ASSISTANT], "messages: there is no message of the user"),
        (
            [USER, {"role": "assistant", "content": " "}],
            "messages: the assistant's answer is blank",
        ),
        (
            [USER, {"role": "critic", "content": "x"}, ASSISTANT],
            "messages: message 2 has the role 'critic'",
        ),
        (
            [USER | {"colour": "red"}, ASSISTANT],
            "messages: message 1 must be an object with role and content, and nothing else",
        ),
        (
            [{"role": "user", "content": {"type": "text"}}, ASSISTANT],
            "messages: the content of message 1: Must be text",
        ),
        ([{"role": "user", "content": ""}, ASSISTANT], "prompt: Must not be blank"),
    ],
)
def test_chats_that_are_refused(messages, reason):
    assert reason in reason_of({"messages": messages}, "messages")


def test_prompt_and_completion():
    trace = converted({"prompt": "35+82=?", "completion": " 117"})
    assert (trace.prompt, trace.steps, trace.final_answer, trace.meta) == (
        "35+82=?",
        [],
        " 117",
        {},
    )


@pytest.mark.parametrize("field", ["prompt", "completion"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1, "must be text, not a number"),
        ("", "must not be blank"),
        ("\u200b", "must not be blank"),
        (None, "null"),
    ],
)
def test_prompts_and_completions_that_are_refused(field, value, reason):
    assert reason in reason_of(
        {"prompt": "p", "completion": "c"} | {field: value}, "prompt_completion"
    )


def test_gsm8k():
    line = {
        "question": "How many clips?",
        "answer": (
            "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n\n She sold 1,000 more.\n#### 1,024"
        ),
    }
    trace = converted(line)
    assert trace.prompt == "How many clips?"
    assert trace.steps == [
        {"i": 0, "type": "reasoning", "content": "Natalia sold 48/2 = 24 clips in May."},
        {"i": 1, "type": "reasoning", "content": "She sold 1,000 more."},
    ]
    assert trace.final_answer == "1024"
    assert (
        json.loads(training_line("x", trace, "train"))["messages"][-1]["content"]
        == "Natalia sold 48/2 = 24 clips in May.\nShe sold 1,000 more.\n1024"
    )


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("#### 5", "5"),
        ("a\n####5", "5"),
        ("a\r\n#### 5\r\n", "5"),
        ("a\n#### -1,234,567", "-1234567"),
        ("a\n#### 1,5", "1,5"),
        ("a\n#### $1,000.50", "$1000.50"),
        ("a\n#### yes, 3", "yes, 3"),
    ],
)
def test_final_answers_of_gsm8k(answer, final):
    assert converted({"question": "q", "answer": answer}).final_answer == final


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("24", "answer: has no line `#### <final answer>`"),
        ("a\n#### ", "answer: nothing follows `####`"),
        ("a #### 5", "answer: `####` must stand at the start of a line"),
        ("a\n#### 5\nmore", "must be the last one"),
        ("a\n#### 5\n#### 6", "must be the last one"),
        (5, "answer: must be text, not a number"),
    ],
)
def test_answers_of_gsm8k_that_are_refused(answer, reason):
    assert reason in reason_of({"question": "q", "answer": answer}, "gsm8k")


def test_further_fields_of_foreign_formats_are_kept():
    assert converted({"question": "q", "answer": "#### 1", "source": {"page": 3}}).meta == {
        "source": {"page": 3}
    }
    assert converted({"messages": [USER, ASSISTANT], "id": 7}).meta == {"id": 7}
    assert (
        reason_of({"prompt": "p", "completion": "c", "messages": []}, "prompt_completion")
        == "messages: this format has no such field"
    )


@pytest.mark.parametrize(
    "line",
    [
        trace_body(4),
        trace_body(
            4,
            steps=[
                {"i": 0, "type": "t", "content": "one\n\nstep"},
                {"i": 5, "type": "t", "content": "two"},
            ],
        ),
        trace_body(4, steps=[]),
        {"messages": [{"role": "system", "content": ""}, USER, ASSISTANT, USER, ASSISTANT]},
        {"question": "q", "answer": "a\nb\n#### 3"},
        {"prompt": "p", "completion": "several\nlines\n"},
    ],
)
def test_our_own_export_comes_back_as_it_was(line):
    exported = training_line("x", converted(line), "held_out")
    again, split = to_trace(json.loads(exported), "tunix_sft")
    assert split == "held_out"
    assert training_line("x", again, "held_out") == exported


@pytest.mark.parametrize(
    ("final_answer", "reason"),
    [("3", "is not the end of"), (2, "must be text or null"), ("", "blank")],
)
def test_exports_that_do_not_fit_together(final_answer, reason):
    messages = [USER, {"role": "assistant", "content": "one\n2" if final_answer != "" else "one\n"}]
    line = {"id": "x", "messages": messages, "final_answer": final_answer, "split": "train"}
    assert reason in reason_of(line, "tunix_sft")


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_lines_may_name_their_part(split):
    for line in (trace_body(), {"messages": [USER, ASSISTANT]}, {"prompt": "p", "completion": "c"}):
        trace, named = to_trace(line | {"split": split}, recognise(line))
        assert named == split
        assert "split" not in trace.meta


@pytest.mark.parametrize("split", ["test", "", None, 1, ["train"], {}])
def test_other_parts_are_refused(split):
    assert 'split: must be "train" or "held_out"' in reason_of(
        trace_body() | {"split": split}, "trace"
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "is not JSON: "),
        (b"{'a': 1}", "is not JSON: "),
        (b'{"a": 1,}', "is not JSON: "),
        (
            b'{"\xc3\xa9\xf0\x9f\x98\x80": NaN}',
            "is not JSON: NaN and Infinity are no JSON numbers (character 8)",
        ),
        (b'{"a": NaN}', "is not JSON: NaN and Infinity are no JSON numbers (character 7)"),
        (b'{"a": -Infinity}', "is not JSON: NaN and Infinity are no JSON numbers (character 8)"),
        (b'{"a": 1e999}', "holds a number too large for any reader (character 7)"),
        (b'{"a": "\\ud800"}', "holds half a character, a lone surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "holds half a character, a lone surrogate"),
        (b'{"a": "\xff"}', "is not valid UTF-8 at byte 8 of the line"),
        (b'{"a": "\xed\xa0\x80"}', "is not valid UTF-8 at byte 8 of the line"),
        (b'{"a": "\x01"}', "is not JSON: "),
        (b"[1]", "is a list, not an object; write one object a line, without a list around them"),
        (b'"text"', "is text, not an object"),
        (b"null", "is null, not an object"),
        (b"1", "is a number, not an object"),
        (b"true", "is true or false, not an object"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b'{"m": [{"b": 1, "b": 1}]}', "has the key 'b' twice"),
        (b'{"a": 1}{"a": 2}', "is not JSON: "),
        (b"\xef\xbb\xbf{}", "is not JSON: "),
        (b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "is nested too deeply"),
        (b'{"a": ' + b"[" * 1_100 + b"]" * 1_100 + b"}", "is nested too deeply"),
    ],
)
def test_lines_that_are_no_objects(raw, reason):
    with pytest.raises(LineError) as caught:
        parse_line(raw)
    assert reason in str(caught.value)


def test_a_line_that_is_an_object():
    assert parse_line(b'\t{"a": ["\xc3\xa9", "\\u00e9", 1.5, null]} ') == {
        "a": ["é", "é", 1.5, None]
    }


def test_a_line_nested_as_deep_as_parsers_go_is_refused_all_the_same():
    raw = b'{"prompt": "p", "completion": "c", "a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    with pytest.raises(LineError, match="nested"):
        to_trace(parse_line(raw), "prompt_completion")


def test_a_line_of_many_keys_takes_linear_time_and_a_long_key_is_not_repeated_whole():
    reasons = run_within_cpu_seconds(
        30,
        """
import json, os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django.setup()
from datasets.formats import LineError, parse_line
many = ",".join(f'"{number}": 1' for number in range(300_000))
for line in ('{%s, "299999": 2}' % many, '{"%s": 1, "%s": 2}' % ("k" * 900_000, "k" * 900_000)):
    try:
        parse_line(line.encode())
    except LineError as error:
        print(error)
""",
    )

    first, second = reasons.splitlines()
    assert first == "has the key '299999' twice"
    assert len(second) == REASON_MAX_CHARACTERS and second.endswith(" …")


@pytest.mark.parametrize(
    "beside", [{"label": "algebra"}, {"label": None}, {"chosen": None, "rejected": None}]
)
def test_a_topic_or_an_empty_field_beside_an_example_is_no_judgement(beside):
    line = {"prompt": "1+1?", "completion": "2"} | beside
    assert converted(line).final_answer == "2"
