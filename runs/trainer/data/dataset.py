"""Reading ``dataset.jsonl`` (format tunix_sft): one example a line, streamed, bad lines named.

A line is ``{"id", "messages": [{"role", "content"}, …], "final_answer": str|null, "split":
"train"|"held_out"}``; the last message is the assistant's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.trainer.errors import DataError

ROLES = ("system", "user", "assistant")
SPLITS = ("train", "held_out")
NAMED_LINES = 5  # bad lines named in the error; the rest are counted


@dataclass(frozen=True, slots=True)
class Example:
    """One line. ``offset`` is where it starts in the file, in bytes; ``line`` counts from 1."""

    line: int
    offset: int
    id: str
    messages: list[dict[str, str]]
    final_answer: str | None
    held_out: bool


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples in file order.

    Raises:
        DataError: the file cannot be read; or, after the last line, that there were bad lines or no
            lines at all. The number and reason of the first few bad lines are in the sentence.
    """
    problems: list[str] = []
    bad = good = 0
    try:
        with open(path, "rb") as file:
            offset = 0
            for number, raw in enumerate(file, start=1):
                start, offset = offset, offset + len(raw)
                if not raw.strip():
                    continue
                try:
                    example = parse_line(raw, number, start)
                except ValueError as error:
                    bad += 1
                    if len(problems) < NAMED_LINES:
                        problems.append(f"line {number}: {error}")
                    continue
                good += 1
                yield example
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if bad:
        more = f"; and {bad - len(problems)} more" if bad > len(problems) else ""
        raise DataError(
            f"{bad} bad line(s) in {path.name}: {'; '.join(problems)}{more}. Correct or remove them"
        )
    if not good:
        raise DataError(f"{path.name} is empty: nothing can be learnt from no examples")


def parse_line(raw: bytes, line: int, offset: int) -> Example:
    """Check one line. Raises ValueError with the reason in words."""
    try:
        value = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("has no messages")
    clean = [_check_message(message, position) for position, message in enumerate(messages)]
    if clean[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not any(message["role"] == "user" for message in clean):
        raise ValueError("has no message of a user")
    if not clean[-1]["content"].strip():
        raise ValueError("the assistant's answer is empty")
    final_answer = value.get("final_answer")
    if final_answer is not None and not isinstance(final_answer, str):
        raise ValueError("final_answer is neither text nor null")
    split = value.get("split", "train")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, neither train nor held_out")
    return Example(
        line, offset, str(value.get("id", line)), clean, final_answer, split == "held_out"
    )


def _check_message(message: Any, position: int) -> dict[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"message {position + 1} is not an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(
            f"message {position + 1} has the role {role!r}, not one of {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise ValueError(f"message {position + 1} has no text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"message {position + 1} holds half a character (a lone surrogate)"
        ) from None
    return {"role": role, "content": content}


def examples_at(path: Path, offsets: list[int]) -> list[Example]:
    """The examples whose lines start at these byte offsets."""
    found = []
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            found.append(parse_line(file.readline(), 1 if offset == 0 else 2, offset))
    return found


def last_line(text: str) -> str:
    """The last line that is not blank, stripped: what exact match compares."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
