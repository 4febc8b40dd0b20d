"""Reading tunix_sft lines; a bad line is named with its number and reason."""

import json

import pytest

from runs.trainer.data.dataset import examples_at, last_line, read_examples, read_prompts
from runs.trainer.errors import DataError
from runs.trainer.tests.helpers import conversation_line, line


def write(path, *lines):
    path.write_bytes(
        b"".join(
            (text if isinstance(text, bytes) else json.dumps(text).encode()) + b"\n"
            for text in lines
        )
    )
    return path


def test_lines_become_examples_in_order(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        line("a", "1+1?", "2", final_answer="2"),
        b"  ",
        line("b", "übung?", "ja", held_out=True),
    )

    first, second = read_examples(path)

    assert (first.line, first.id, first.final_answer, first.held_out) == (1, "a", "2", False)
    assert (second.line, second.id, second.final_answer, second.held_out) == (3, "b", None, True)
    assert second.conversation.messages[0] == {"role": "user", "content": "übung?"}
    assert examples_at(path, [second.offset])[0].conversation == second.conversation


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": [1]}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'"\xff"', "is not UTF-8 (byte 2)"),
        ([1], "is not a JSON object"),
        ({}, "has no messages"),
        ({"messages": []}, "has no messages"),
        ({"messages": ["x"]}, "message 1 is not an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has the role 'robot'"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 has no text"),
        (
            {"messages": [USER, {"role": "assistant", "content": "\ud800"}]},
            "message 2 holds half a character",
        ),
        ({"messages": [USER]}, "the last message is not the assistant's"),
        ({"messages": [ANSWER]}, "has no message of a user"),
        (
            {"messages": [USER, {"role": "assistant", "content": " \n"}]},
            "the assistant's answer is empty",
        ),
        ({"messages": [USER, ANSWER], "final_answer": 3}, "final_answer is neither text nor null"),
        ({"messages": [USER, ANSWER], "split": "test"}, "split is 'test'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, reason):
    path = write(tmp_path / "d.jsonl", line("a", "q", "a"), bad)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith("1 bad line(s) in d.jsonl: line 2: ")
    assert reason in str(caught.value)


def test_a_conversation_is_read_with_what_templates_read(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        conversation_line(
            {"role": "developer", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "", "tool_call_id": "c1", "name": "f", "weight": 1},
            {"role": "assistant", "content": "a", "reasoning": " ", "weight": 0},
            ANSWER,
            USER,
            tools=[TOOL],
        ),
    )

    [example] = read_examples(path)

    found = example.conversation
    assert found.tools == [TOOL]
    assert found.learnt == (2, 5)
    assert found.last_answer == 5
    assert found.messages == [
        {"role": "developer", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "f"},
        {"role": "assistant", "content": "a"},
        ANSWER,
        USER,
    ]


def test_a_trace_is_read_without_what_only_conversations_have(tmp_path):
    """Also where its messages have such fields: only the last one is learnt."""
    earlier = {"role": "assistant", "content": "b", "reasoning": "hm", "weight": 0}
    path = write(tmp_path / "d.jsonl", {"messages": [USER, earlier, USER, ANSWER], "tools": 7})
    [example] = read_examples(path)
    assert example.conversation.learnt == (3,)
    assert example.conversation.tools is None
    assert example.conversation.messages[1] == {"role": "assistant", "content": "b"}


def called(**function):
    return {"role": "assistant", "content": "", "tool_calls": [{**CALL, "function": function}]}


@pytest.mark.parametrize(
    ("messages", "more", "reason"),
    [
        ([USER], {}, "has no message of the assistant that is learnt"),
        ([USER, {**ANSWER, "weight": 0}], {}, "has no message of the assistant that is learnt"),
        ([USER, {**ANSWER, "weight": 0.5}], {}, "the weight of message 2 is 0.5"),
        ([USER, {**ANSWER, "weight": True}], {}, "the weight of message 2 is True"),
        ([USER, {**ANSWER, "weight": []}], {}, "the weight of message 2 is []"),
        ([{"role": "robot", "content": "x"}, ANSWER], {}, "message 1 has the role 'robot'"),
        ([{"role": "tool", "content": None}, ANSWER], {}, "message 1 has no text"),
        ([{"role": "user", "content": ""}, ANSWER], {}, "message 1 (user) is empty"),
        ([{"role": "developer", "content": ""}, ANSWER], {}, "message 1 (developer) is empty"),
        ([USER, {"role": "assistant", "content": " "}], {}, "message 2 is the assistant's, and it"),
        (
            [USER, {"role": "assistant", "content": "", "weight": 0}, ANSWER],
            {},
            "message 2 (assistant) is empty",
        ),
        ([USER, {**ANSWER, "reasoning": 7}], {}, "the reasoning of message 2 is not text"),
        (
            [USER, {**ANSWER, "reasoning": "\ud800"}],
            {},
            "the reasoning of message 2 holds half a character",
        ),
        ([USER, {**ANSWER, "tool_calls": []}], {}, "the tool calls of message 2 are not a list"),
        ([USER, {**ANSWER, "tool_calls": {}}], {}, "the tool calls of message 2 are not a list"),
        ([USER, {**ANSWER, "tool_calls": [7]}], {}, "tool call 1 of message 2 is not an object"),
        (
            [USER, {**ANSWER, "tool_calls": [CALL, {**CALL, "type": "x"}]}],
            {},
            "tool call 2 of message 2 is not an object of the type function",
        ),
        (
            [USER, {**ANSWER, "tool_calls": [{**CALL, "id": 7}]}],
            {},
            "the id of tool call 1 of message 2 is not text",
        ),
        ([USER, called(name="f")], {}, "tool call 1 of message 2 has no arguments"),
        ([USER, called(name="f", arguments="{}")], {}, "tool call 1 of message 2 has no arguments"),
        ([USER, called(arguments={})], {}, "the function of tool call 1 of message 2 has no name"),
        (
            [USER, called(name="f", arguments={"a": ["\udc00"]})],
            {},
            "tool call 1 of message 2 holds half a character",
        ),
        (
            [USER, called(name="f", arguments={"a": float("nan")})],
            {},
            "tool call 1 of message 2 holds a number that JSON does not have",
        ),
        (
            [USER, ANSWER, {"role": "tool", "content": "x", "name": 7}],
            {},
            "the name of message 3 is not text",
        ),
        ([USER, ANSWER], {"tools": {}}, "the tools are not a list"),
        ([USER, ANSWER], {"tools": ["f"]}, "tool 1 is not an object of the type function"),
        (
            [USER, ANSWER],
            {"tools": [TOOL, {"type": "function"}]},
            "tool 2 has no function",
        ),
        (
            [USER, ANSWER],
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "the parameters of tool 1 are not an object",
        ),
        ([USER, ANSWER], {"kind": "preference"}, "kind is 'preference', not conversation"),
        ([USER, ANSWER], {"kind": []}, "kind is [], not conversation"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, messages, more, reason):
    path = write(tmp_path / "d.jsonl", line("a", "q", "a"), conversation_line(*messages, **more))
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith(f"1 bad line(s) in d.jsonl: line 2: {reason}")


def test_many_bad_lines_are_counted_and_the_first_are_named(tmp_path):
    path = write(tmp_path / "d.jsonl", *[b"{"] * 30)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    text = str(caught.value)
    assert text.startswith("30 bad line(s)")
    assert "line 5: " in text
    assert "line 6: " not in text
    assert "and 25 more" in text


def test_an_empty_file_and_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        list(read_examples(write(tmp_path / "empty.jsonl")))
    with pytest.raises(DataError, match=r"cannot read .*missing"):
        list(read_examples(tmp_path / "missing.jsonl"))


def test_the_last_line_is_what_exact_match_compares():
    assert last_line("5+2=7\n 117 \n\n") == "117"
    assert last_line(" \n") == ""


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([line("a", "q", "a", held_out=True)], "every example is held out"),
        (
            [line("a", "q" * 200, "a"), line("b", "q" * 300, "a")],
            "every example is longer than max_seq_length 128",
        ),
    ],
)
def test_nothing_to_learn_from_ends_with_11(make_run, capsys, examples, words):
    run = make_run(examples=examples)
    assert run.train() == 11
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("tunix: data: ")
    assert words in last


def test_all_answers_cut_off_ends_with_11(make_run, capsys):
    run = make_run(examples=[line("a", "q" * 200, "a")], too_long="truncate")
    assert run.train() == 11
    assert "no example has a token of its answer" in capsys.readouterr().err


def test_a_bad_line_ends_the_training_with_11(make_run, capsys):
    run = make_run()
    with open(run.folder / "dataset.jsonl", "a") as file:
        file.write("{}\n")
    assert run.train() == 11
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .startswith("tunix: data: 1 bad line(s) in dataset.jsonl: line 49:")
    )


def prompt_line(**changes):
    return {"id": "p", "kind": "prompt", "messages": [USER]} | changes


def test_prompts_are_read_with_their_columns(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        prompt_line(id="a", final_answer="4", meta={"level": 2}, tools=[TOOL]),
        prompt_line(id="b", split="held_out"),
    )

    first, second = read_prompts(path)

    assert (first.id, first.messages, first.final_answer) == ("a", [USER], "4")
    assert (first.meta, first.held_out, len(first.tools)) == ({"level": 2}, False, 1)
    assert (second.final_answer, second.meta, second.held_out, second.tools) == (
        None,
        {},
        True,
        None,
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line("a", "q", "a"), "kind is None, not prompt"),
        (prompt_line(messages=[USER, ANSWER]), "there is nothing to answer"),
        (prompt_line(meta=[]), "meta is not an object"),
        (prompt_line(final_answer=4), "final_answer is neither text nor null"),
        (prompt_line(messages=[]), "has no messages"),
        (prompt_line(tools=[{}]), "type function"),
    ],
)
def test_a_bad_prompt_is_named(tmp_path, bad, reason):
    path = write(tmp_path / "d.jsonl", prompt_line(), bad)
    with pytest.raises(DataError, match="line 2: ") as caught:
        list(read_prompts(path))
    assert reason in str(caught.value)
