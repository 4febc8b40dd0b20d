"""Reading tunix_sft lines; a bad line is named with its number and reason."""

import json

import pytest

from runs.trainer.data.dataset import examples_at, last_line, read_examples
from runs.trainer.errors import DataError
from runs.trainer.tests.helpers import line


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
