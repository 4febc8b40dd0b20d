"""Which examples an evaluation asks, and in which order."""

import json
from pathlib import Path
from typing import Any

import pytest

from runs.trainer.errors import DataError
from runs.trainer.evaluation.items import Question, read_questions
from runs.trainer.tests.helpers import conversation_line, line

ASKED = {"part": "auto", "limit": None, "system_prompt": None}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1+1?"}


def write(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "dataset.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return path


def prompt_line(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "kind": "prompt", "messages": [USER | {"content": name}]} | changes


def read(path: Path, format: str = "tunix_prompts", **changes: Any) -> list[Question]:
    return read_questions(path, format=format, **(ASKED | changes))


def test_the_part_is_the_held_out_one_if_there_is_one(tmp_path: Path):
    path = write(tmp_path, prompt_line("a"), prompt_line("b", split="held_out"))

    assert [question.id for question in read(path)] == ["b"]
    assert [question.id for question in read(path, part="held_out")] == ["b"]
    assert {question.id for question in read(path, part="all")} == {"a", "b"}

    path = write(tmp_path, prompt_line("a"))

    assert [question.id for question in read(path)] == ["a"]
    with pytest.raises(DataError, match="has no held-out part; ask for part: all"):
        read(path, part="held_out")


def test_a_limit_takes_the_same_questions_whatever_their_order(tmp_path: Path):
    lines = [prompt_line(f"question {number}") for number in range(20)]
    some = read(write(tmp_path, *lines), limit=5)

    assert read(write(tmp_path, *reversed(lines)), limit=5) == some
    assert [question.hash for question in some] == sorted(question.hash for question in some)
    assert read(write(tmp_path, *lines, *lines)) == read(write(tmp_path, *lines))


def test_the_expected_answer_is_the_last_one_that_is_learnt(tmp_path: Path):
    path = write(
        tmp_path,
        line("trace", "1+1?", "1+1=2\n2", final_answer="2"),
        conversation_line(
            SYSTEM,
            USER,
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "No.", "weight": 0},
        ),
    )

    trace, chat = sorted(read(path, "tunix_sft"), key=lambda question: question.id, reverse=True)

    assert (trace.reference, [one["content"] for one in trace.messages]) == ("2", ["1+1?"])
    assert trace.answer == {"role": "assistant", "content": "1+1=2\n2"}
    assert (chat.reference, chat.messages) == ("2", [SYSTEM, USER])


def test_an_answer_to_nothing_is_no_question(tmp_path: Path):
    path = write(tmp_path, conversation_line({"role": "assistant", "content": "Hello."}))
    with pytest.raises(DataError, match="line 1: nothing is said before the answer"):
        read(path, "tunix_sft")


def test_a_system_prompt_takes_the_place_of_the_example_s_own(tmp_path: Path):
    path = write(tmp_path, prompt_line("a", messages=[SYSTEM, USER]), prompt_line("b"))
    plain = {question.id: question for question in read(path)}

    for question in read(path, system_prompt="Be kind."):
        assert question.messages[0] == {"role": "system", "content": "Be kind."}
        assert [one["role"] for one in question.messages] == ["system", "user"]
        assert question.hash == plain[question.id].hash


def test_the_hash_is_of_what_is_asked_and_expected(tmp_path: Path):
    asked = [USER | {"content": "Which is right?"}]
    lines = {
        "a": prompt_line("a", messages=asked, meta={"choices": ["1", "2"]}),
        "b": prompt_line("b", messages=asked, meta={"choices": ["1", "3"]}),
        "c": prompt_line("c", messages=asked),
        "d": prompt_line("d", messages=asked, final_answer="2"),
    }

    questions = {question.id: question for question in read(write(tmp_path, *lines.values()))}
    [again] = read(write(tmp_path, lines["a"] | {"id": "other"}))

    assert len({question.hash for question in questions.values()}) == 4
    assert again.hash == questions["a"].hash
    assert questions["a"].columns == {"choices": ["1", "2"]}
