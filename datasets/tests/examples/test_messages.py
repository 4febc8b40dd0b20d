"""Messages and tools in the form in which they are stored."""

import pytest

from datasets.examples.messages import (
    MAX_MESSAGES,
    MAX_TOOLS,
    InvalidMessages,
    is_learnt,
    read_messages,
    read_tools,
    reasoning_apart,
    texts_of,
)

USER = {"role": "user", "content": "Weather in SF?"}
ANSWER = {"role": "assistant", "content": "Sunny."}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"b": 1, "a": 2}}}


def call(arguments):
    return {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def asked(**fields):
    """A question and a call, the call made of ``fields``."""
    return [USER, {"role": "assistant", "content": None} | fields]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([USER, ANSWER], [USER, ANSWER]),
        (
            [{"role": "developer", "content": "Be brief."}, USER, ANSWER],
            [{"role": "developer", "content": "Be brief."}, USER, ANSWER],
        ),
        (
            [USER | {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "ab"}],
        ),
        ([USER | {"name": None}, ANSWER | {"audio": None, "tool_calls": []}], [USER, ANSWER]),
        ([USER, ANSWER | {"weight": 1}], [USER, ANSWER]),
        ([USER, ANSWER | {"weight": 0.0}], [USER, ANSWER | {"weight": 0}]),
        ([USER | {"weight": 0}, ANSWER | {"weight": 1.0}], [USER, ANSWER]),
        ([USER, ANSWER | {"reasoning_content": "r"}], [USER, ANSWER | {"reasoning": "r"}]),
        ([USER, ANSWER | {"thinking": "r", "reasoning": ""}], [USER, ANSWER | {"reasoning": "r"}]),
        (
            [{"role": "tool", "content": "", "tool_call_id": "c1", "name": "weather"}],
            [{"role": "tool", "content": "", "tool_call_id": "c1", "name": "weather"}],
        ),
        (
            [{"role": "function", "content": "x", "name": "weather"}],
            [{"role": "tool", "content": "x", "name": "weather"}],
        ),
    ],
)
def test_messages_are_stored_in_one_form(given, stored):
    assert read_messages(given) == stored


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [('{"b": 1, "a": "x"}', {"b": 1, "a": "x"}), ({"b": 1}, {"b": 1}), ("", {}), (None, {})],
)
def test_arguments_as_text_or_object_are_stored_as_an_object(arguments, stored):
    read = read_messages(asked(tool_calls=[call(arguments)]))
    assert read[1] == {"role": "assistant", "content": "", "tool_calls": [call(stored)]}
    assert list(read[1]["tool_calls"][0]["function"]["arguments"]) == list(stored)


def test_the_call_of_before_there_were_several():
    read = read_messages(asked(function_call={"name": "weather", "arguments": '{"a": 1}'}))
    assert read[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": {"a": 1}}}
    ]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "must be a list of messages"),
        ("text", "must be a list of messages"),
        ([USER, "x"], "message 2 must be an object, not text"),
        ([USER] * (MAX_MESSAGES + 1), f"has {MAX_MESSAGES + 1:,} messages"),
        ([{"role": "critic", "content": "x"}], "message 1 has the role 'critic'"),
        ([{"role": ["user"], "content": "x"}], "message 1 has the role ['user']"),
        ([USER | {"content": " \u200b"}], "message 1 (user) is blank"),
        ([USER | {"content": None}], "message 1 (user) is blank"),
        ([USER, ANSWER | {"content": ""}], "message 2 (assistant) is blank"),
        ([USER | {"content": 1}], "the content of message 1: must be text, not a number"),
        ([USER | {"content": {"type": "text"}}], "the content of message 1: must be text"),
        ([USER | {"content": "a\x00"}], "Holds a NUL character"),
        ([USER | {"content": [{"type": "image_url"}]}], "a part of type image_url; only text"),
        ([USER | {"content": ["x"]}], "a part of type None; only text"),
        ([USER | {"name": "Ada"}], "(user) has the field 'name', which would be left out"),
        ([USER | {"weight": 0.5}], "(user) has the field 'weight'"),
        ([USER | {"weight": True}], "(user) has the field 'weight'"),
        ([USER, ANSWER | {"colour": "red"}], "(assistant) has the field 'colour'"),
        ([USER, ANSWER | {"weight": 0.5}], "weight of message 2 must be 0 or 1"),
        ([USER, ANSWER | {"weight": True}], "weight of message 2 must be 0 or 1"),
        ([USER, ANSWER | {"reasoning": "r", "thinking": "s"}], "has its reasoning twice"),
        (asked(tool_calls="x"), "tool_calls of message 2 must be a list, not text"),
        (asked(tool_calls=["x"]), "a call must be an object with a function"),
        (asked(tool_calls=[{"function": {"name": " "}}]), "the name of a function is blank"),
        (asked(tool_calls=[call("{")]), "arguments of weather: is not JSON"),
        (
            asked(tool_calls=[call('{"a": 1, "a": 2}')]),
            "arguments of weather: has the key 'a' twice",
        ),
        (asked(tool_calls=[call("[1]")]), "arguments of weather must be an object, not a list"),
        (asked(tool_calls=[call({})], function_call={"name": "f"}), "tool_calls and function_call"),
    ],
)
def test_messages_that_are_refused(messages, reason):
    with pytest.raises(InvalidMessages) as caught:
        read_messages(messages)
    assert reason in str(caught.value)


# --- Reasoning that an answer begins with ---------------------------------------------------------

THOUGHT = ("Look out.", "Sunny.")


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("<think>Look out.</think>Sunny.", THOUGHT),
        ("\n <think>\nLook out.\n</think>\n\nSunny.", THOUGHT),
        (
            "<|begin_of_thought|>\n\nLook out.\n\n<|end_of_thought|>\n\n"
            "<|begin_of_solution|>\n\nSunny.\n\n<|end_of_solution|>\n",
            THOUGHT,
        ),
        ("<|begin_of_thought|>Look out.<|end_of_thought|>Sunny.", THOUGHT),
        # nothing was thought
        ("<think>\n\n</think>\n\nSunny.", ("", "Sunny.")),
        # tags that stand anywhere else are text
        ("Sunny. <think>hm</think>", ("", "Sunny. <think>hm</think>")),
        ("Look out.</think>Sunny.", ("", "Look out.</think>Sunny.")),
        ("<thinking>hm</thinking>Sunny.", ("", "<thinking>hm</thinking>Sunny.")),
        ("<think>a</think>The tag is </think>.", ("a", "The tag is </think>.")),
        ("<|begin_of_solution|>Sunny.<|end_of_solution|>", ("", "Sunny.")),
        (" Sunny.\n", ("", " Sunny.\n")),
    ],
)
def test_reasoning_that_an_answer_begins_with(text, apart):
    assert reasoning_apart(text) == apart
    stored = read_messages([USER, ANSWER | {"content": text}], tagged=True)
    reasoning, content = apart
    expected = {"role": "assistant", "content": content}
    assert stored == [USER, expected | {"reasoning": reasoning} if reasoning else expected]
    # imported again, it is the same
    assert read_messages(stored, tagged=True) == read_messages(stored) == stored


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "<think>Look out. Sun"}, "message 2 begins with <think> and has no </think>"),
        (
            {"content": "<|begin_of_thought|>Look out"},
            "begins with <|begin_of_thought|> and has no <|end_of_thought|>",
        ),
        (
            {
                "content": "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>Sun",
            },
            "begins with <|begin_of_solution|> and has no <|end_of_solution|>",
        ),
        (
            {"content": "<|begin_of_solution|>Sun"},
            "begins with <|begin_of_solution|> and has no <|end_of_solution|>",
        ),
        (
            {
                "content": "<|begin_of_thought|>a<|end_of_thought|>"
                "<|begin_of_solution|>b<|end_of_solution|>c"
            },
            "has text after <|end_of_solution|>",
        ),
        ({"content": "<think>Look out.</think>\n"}, "message 2 (assistant) is blank"),
        (
            {"content": "<think>a</think>Sunny.", "reasoning_content": "b"},
            "message 2 has its reasoning twice, and not the same",
        ),
    ],
)
def test_reasoning_that_is_refused(message, reason):
    with pytest.raises(InvalidMessages) as caught:
        read_messages([USER, {"role": "assistant"} | message], tagged=True)
    assert reason in str(caught.value)


def test_the_same_reasoning_twice_is_kept_once_and_in_the_same_place():
    calls = [call({})]
    message = {"content": "<think> a </think>", "tool_calls": calls, "weight": 0}
    (_, split) = read_messages([USER, ANSWER | message], tagged=True)
    (_, given) = read_messages([USER, ANSWER | message | {"content": "", "reasoning": "a"}])
    (_, both) = read_messages([USER, ANSWER | message | {"reasoning": "a"}], tagged=True)
    assert list(split.items()) == list(given.items()) == list(both.items())
    # an answer without reasoning of its own in the tags
    empty = ANSWER | {"content": "<think></think>x", "reasoning_content": "a"}
    assert read_messages([USER, empty], tagged=True)[1]["reasoning"] == "a"


def test_tags_of_others_are_text():
    messages = [
        {"role": role, "content": "<think>a</think>b"}
        for role in ("system", "developer", "user", "tool")
    ]
    assert read_messages(messages, tagged=True) == messages


def test_tags_stay_text_where_messages_are_stored_as_they_are():
    message = ANSWER | {"content": "<think>a</think>b"}
    assert read_messages([USER, message]) == [USER, message]


# --- Tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        [TOOL],
        [TOOL["function"]],
        '[{"name": "weather", "parameters": {"b": 1, "a": 2}}]',
    ],
)
def test_tools_are_stored_in_one_form_and_keep_their_order(given):
    (tool,) = read_tools(given)
    assert tool == TOOL
    assert list(tool["function"]["parameters"]) == ["b", "a"]


@pytest.mark.parametrize("given", [None, "", [], "[]", {}])
def test_no_tools(given):
    assert read_tools(given) == []


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("{", "tools: is not JSON"),
        ({"a": 1}, "tools: must be a list, not an object"),
        (["f"], "tools: a tool must be an object, not text"),
        ([{"type": "function", "function": {}}], "tools: the name of a function: must be text"),
        ([{"type": "retrieval", "function": {"name": "f"}}], "only tools of type function"),
        ([{"function": "f"}], "a tool has no function with a name"),
        ([TOOL] * (MAX_TOOLS + 1), f"tools: has {MAX_TOOLS + 1:,} tools"),
    ],
)
def test_tools_that_are_refused(tools, reason):
    with pytest.raises(InvalidMessages) as caught:
        read_tools(tools)
    assert reason in str(caught.value)


def test_only_answers_without_weight_0_are_learnt():
    assert [
        is_learnt(message)
        for message in (USER, ANSWER, ANSWER | {"weight": 0}, {"role": "tool", "content": "x"})
    ] == [False, True, False, False]


def test_everything_that_a_message_says():
    message = ANSWER | {"reasoning": "r", "tool_calls": [call({"é": 1})]}
    assert texts_of(message)[:2] == ["r", "Sunny."]
    assert '{"é":1}' in texts_of(message)[2]
