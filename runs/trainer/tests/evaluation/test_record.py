"""The lines of items.jsonl: bounded, whole, and read again as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from runs.trainer.errors import StorageError
from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.record import (
    FIELD_CHARACTERS,
    OUTPUTS_CHARACTERS,
    Answer,
    ItemsFile,
    item_line,
    most_characters,
    read_lines,
)

USER = {"role": "user", "content": "q"}


def line_of(
    *answers: Answer, messages: Any = (USER,), reference: str = "r", **columns: Any
) -> dict[str, Any]:
    asked = Question("a", "f" * 64, list(messages), None, reference, None, columns)
    return item_line(0, asked, rendered="q", prompt_tokens=1, answers=list(answers))


def test_texts_of_any_kind_come_back_as_they_were(tmp_path: Path):
    texts = ["\x00\x1b[31m", "\u2028\u0085\r\n", "ü😀", "\ud800", "<|end|>", '"\\']
    line = line_of(*(Answer(text, 1, "stop") for text in texts), column="\ud800\x00")

    with ItemsFile(tmp_path / "items.jsonl") as items:
        items.append(line)
        items.append(line)
        assert list(items.read()) == [line, line]

    raw = (tmp_path / "items.jsonl").read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == 2
    assert [Answer.from_json(output).text for output in line["outputs"]] == texts


def test_numbers_that_json_does_not_know_are_text(tmp_path: Path):
    with ItemsFile(tmp_path / "items.jsonl") as items:
        items.append(line_of(Answer("", 1, "stop"), column=float("nan")))
        [line] = items.read()
    assert line["columns"] == {"column": "NaN"}


@pytest.mark.parametrize("torn", [b'{"torn', b"x" * 200_000])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes):
    path = tmp_path / "items.jsonl"
    line = line_of(Answer("a", 1, "stop"))
    path.write_bytes(json.dumps(line).encode() + b"\n" + torn)

    with ItemsFile(path) as items:
        items.append(line)
        assert list(items.read()) == [line, line]

    path.write_bytes(torn)
    with ItemsFile(path) as items:
        assert list(items.read()) == []


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"hash": "a", "outputs": []}',
        b'{"hash": "a", "outputs": [1]}',
        b'{"hash": "a", "outputs": {}}',
        b'{"hash": 1, "outputs": [{"text": "", "tokens": 0, "finish_reason": "stop", "seconds": 0,'
        b' "scores": {}, "problems": {}}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damaged: bytes):
    path = tmp_path / "items.jsonl"
    path.write_bytes(damaged + b"\n")
    with pytest.raises(StorageError, match=r"line 1 of items.jsonl is damaged"):
        list(read_lines(path))


def test_a_line_has_a_bounded_size():
    long = "x" * 10**6
    line = line_of(
        Answer("", 1, "stop"),
        messages=[USER | {"content": long}] * 50,
        reference=long,
        small=1,
        large=long,
        last=2,
    )

    assert line["columns"] == {"small": 1, "last": 2}
    assert len(line["reference"]) == FIELD_CHARACTERS
    assert len(json.dumps(line)) < 4 * FIELD_CHARACTERS
    assert {message["role"] for message in line["prompt"]} == {"user"}
    assert len(json.dumps(line_of(Answer("", 1, "stop"), messages=[USER] * 10**5))) < 10**5


def test_many_samples_share_the_room_of_an_item():
    assert most_characters(1) == 65_536
    assert 64 * most_characters(64) <= OUTPUTS_CHARACTERS
