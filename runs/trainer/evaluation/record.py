"""``items.jsonl``: what an evaluation keeps of each item, one line as soon as it is scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.trainer.data.conversation import Messages
from runs.trainer.errors import StorageError
from runs.trainer.evaluation.items import Question
from runs.trainer.reporting.metrics import strict

# Why an output ends where it ends; why there is none; that none was asked for.
STOP, LENGTH = "stop", "length"
PROMPT_TOO_LONG, NOTHING = "prompt_too_long", "nothing"
MEASURED = "measured"
TEXT_CHARACTERS = 65_536  # of an output
OUTPUTS_CHARACTERS = 2**21  # of all outputs of an item
FIELD_CHARACTERS = 32_768  # of the prompt, the rendered prompt, the reference, the columns


@dataclass
class Answer:
    """An output, or what was measured in place of one.

    ``scores`` and ``problems`` are by the labels of the scorers; a score that there is not is None
    and has a problem. ``more``: what the method says besides.
    """

    text: str
    tokens: int
    finish_reason: str
    seconds: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def without(cls, finish_reason: str, problem: str, labels: tuple[str, ...]) -> Answer:
        """Return an item that has no output: it has no score either."""
        return cls("", 0, finish_reason).fail(problem, labels)

    def fail(self, problem: str, labels: tuple[str, ...]) -> Answer:
        self.scores = dict.fromkeys(labels)
        self.problems = dict.fromkeys(labels, problem)
        return self

    def as_json(self) -> dict[str, Any]:
        line = {
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "seconds": round(self.seconds, 3),
            "scores": self.scores,
            "problems": self.problems,
        }
        return line | self.more

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Answer:
        known = {name: line[name] for name in ("text", "tokens", "finish_reason", "seconds")}
        more = {name: value for name, value in line.items() if name not in _FIELDS}
        return cls(**known, scores=line["scores"], problems=line["problems"], more=more)


_FIELDS = ("text", "tokens", "finish_reason", "seconds", "scores", "problems")


def most_characters(samples: int) -> int:
    """Return how many characters of an output are kept, and scored."""
    return min(TEXT_CHARACTERS, OUTPUTS_CHARACTERS // samples)


def item_line(
    index: int, question: Question, *, rendered: str, prompt_tokens: int, answers: list[Answer]
) -> dict[str, Any]:
    """Return the line of an item. Long prompts, references and columns are shortened."""
    return {
        "index": index,
        "id": question.id,
        "hash": question.hash,
        "prompt": _shortened(question.messages),
        "rendered": rendered[:FIELD_CHARACTERS],
        "prompt_tokens": prompt_tokens,
        "reference": None if question.reference is None else question.reference[:FIELD_CHARACTERS],
        "columns": _bounded(question.columns),
        "outputs": [answer.as_json() for answer in answers],
    }


def _shortened(messages: Messages) -> Messages:
    if len(json.dumps(messages)) <= FIELD_CHARACTERS:
        return messages
    share = FIELD_CHARACTERS // len(messages)
    return [
        {"role": message["role"], "content": message["content"][:share]}
        for message in messages[: FIELD_CHARACTERS // 64]
    ]


def _bounded(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the columns, in their order, without those that find no room."""
    room, kept = FIELD_CHARACTERS, {}
    for name, value in columns.items():
        size = len(json.dumps([name, value]))
        if size <= room:
            kept[name] = value
            room -= size
    return kept


class ItemsFile:
    """Appends lines, each whole. A line that a kill has torn is cut off when the file is opened.

    Args:
        path: of the file, which is made if it is not there.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the evaluation
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        with open(self._path, "rb") as file:
            end = size = file.seek(0, 2)
            while end:
                start = max(0, end - 2**16)
                file.seek(start)
                if (found := file.read(end - start).rfind(b"\n")) >= 0:
                    end = start + found + 1
                    break
                end = start
        if end < size:
            self._file.truncate(end)

    def append(self, line: dict[str, Any]) -> None:
        """Write a line in one call, in ASCII: no text of a model breaks what reads it."""
        self._file.write(json.dumps(strict(line), allow_nan=False).encode() + b"\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that are there.

        Raises:
            StorageError: one is damaged.
        """
        return read_lines(self._path)

    def __enter__(self) -> ItemsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of an items file. Raise StorageError: one is damaged."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = json.loads(raw)
                answers = [Answer.from_json(output) for output in line["outputs"]]
                if not answers or not isinstance(line["hash"], str):
                    raise ValueError("it has no outputs")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise StorageError(
                    f"line {number} of {path.name} is damaged ({type(error).__name__}: {error});"
                    " move the file away to start over"
                ) from error
            yield line


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
