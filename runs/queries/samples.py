"""The examples of a run as it was given them, from ``dataset.jsonl`` in its folder: which parts are
learnt, which only given.

Of a trace the last message, the assistant's, is learnt, of a conversation every message of the
assistant without ``weight: 0``; all else is given (docs/training.md). Where within the text tokens
begin and end, and what the model's chat template puts around the messages, only its tokenizer
knows: of the first examples the training writes it into ``seen.json``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from datasets.examples.messages import is_learnt, texts_of
from datasets.models import Kind
from runs.queries.logs import OffsetPastEnd
from runs.runfolder import files, names

LINE_MAX_BYTES = 4 << 20
TEXT_MAX_CHARACTERS = 20_000
SEEN_MAX, SEEN_TOKENS_MAX, SEEN_TOKEN_MAX = 10, 2000, 200  # whatever a trainer of its own may write


@dataclass(frozen=True)
class Message:
    """A message of an example. ``learnt``: its tokens count in the loss."""

    role: str
    text: str
    learnt: bool
    cut: int = 0  # characters that are not shown


@dataclass(frozen=True)
class Sample:
    id: str
    held_out: bool
    messages: list[Message]
    final_answer: str | None


@dataclass(frozen=True)
class SamplePage:
    """``next_offset``: the byte the next page begins at; None on the last one. ``unreadable``:
    lines that are no example."""

    samples: list[Sample]
    next_offset: int | None
    unreadable: int = 0


def read_samples(folder: Path, *, offset: int, limit: int) -> SamplePage:
    """Return up to ``limit`` examples from byte ``offset`` on, which begins a line.

    Raise FileNotFoundError where the run has no data of its own, OffsetPastEnd, and BrokenFile for
    what is not a regular file.
    """
    descriptor = files.open_regular(folder / names.DATASET)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset > size:
            raise OffsetPastEnd(size)
        file.seek(offset)
        samples: list[Sample] = []
        unreadable = 0
        while len(samples) + unreadable < limit and (raw := file.readline(LINE_MAX_BYTES)):
            if not raw.strip():
                continue
            sample = _parse(raw)
            if sample is None:
                unreadable += 1
            else:
                samples.append(sample)
        position = file.tell()
    return SamplePage(samples, position if position < size else None, unreadable)


@dataclass(frozen=True)
class SeenExample:
    """An example as the model sees it: texts of its tokens and whether each is learnt; ``more``:
    tokens that are not shown."""

    tokens: list[tuple[str, bool]]
    length: int
    more: int


def read_seen(folder: Path) -> list[SeenExample]:
    """Return what the training wrote about its first examples; nothing where there is none that can
    be read."""
    try:
        content = files.read_json(folder / names.SEEN) or {}
        return [_seen(example) for example in content["examples"][:SEEN_MAX]]
    except (OSError, files.BrokenFile, KeyError, TypeError, ValueError):
        return []


def _seen(example: dict[str, Any]) -> SeenExample:
    tokens = [
        files.clean_text(str(token)[:SEEN_TOKEN_MAX])
        for token in example["tokens"][:SEEN_TOKENS_MAX]
    ]
    length = int(example["length"])
    # Runs of an earlier version: everything from the first learnt token on.
    spans = example.get("learnt") or [[example["learnt_from"], length]]
    learnt = {
        index
        for start, end in spans[:SEEN_TOKENS_MAX]
        for index in range(max(0, int(start)), min(int(end), len(tokens)))
    }
    shown = [(token, index in learnt) for index, token in enumerate(tokens)]
    return SeenExample(shown, length, max(0, length - len(tokens)))


def _parse(raw: bytes) -> Sample | None:
    try:
        line: dict[str, Any] = orjson.loads(raw)
        given = line["messages"]
        whole = line.get("kind") == Kind.CONVERSATION
        messages = [
            _message(
                str(message["role"]),
                "\n\n".join(filter(None, map(str, texts_of(message)))),
                learnt=is_learnt(message) if whole else place == len(given) - 1,
            )
            for place, message in enumerate(given)
        ]
        final = line.get("final_answer")
        held_out = line.get("split") == "held_out"
        return Sample(
            str(line.get("id", "")), held_out, messages, None if final is None else str(final)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _message(role: str, text: str, *, learnt: bool) -> Message:
    shown = text[:TEXT_MAX_CHARACTERS]
    return Message(role, shown, learnt, cut=len(text) - len(shown))
