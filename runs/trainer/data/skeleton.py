"""A conversation without its texts: a placeholder stands for each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from runs.trainer.data.control_tokens import REASONING_TAGS
from runs.trainer.data.conversation import Messages, Tools
from runs.trainer.errors import DataError

Pieces = tuple[str | int, ...]  # what the template writes, and numbers of texts

# One character a text, of the private use area of plane 15; whatever the texts hold, skeletons hold
# only placeholders.
FIRST, LAST = 0xF0000, 0xFFFFD
PLACEHOLDERS = re.compile(f"([{chr(FIRST)}-{chr(LAST)}])")


@dataclass(slots=True)
class Skeleton:
    """A conversation without its texts. Tools and tool calls stay as they are.

    Attributes:
        messages: the messages with placeholders.
        key: equal for equal messages and tools.
        owners: the message of each text.
        required: numbers of the texts that the template must show.
        reasoning: number of the last message's reasoning.
    """

    messages: Messages
    tools: Tools | None
    key: tuple[Any, ...]
    owners: tuple[int, ...]
    required: frozenset[int]
    reasoning: int | None


def make_skeleton(
    messages: Messages, tools: Tools | None, tags: re.Pattern[str], *, answer_alone: bool = False
) -> tuple[Skeleton, list[str]]:
    """Return the skeleton and its texts; with ``answer_alone`` those of the last message only.

    White space around a text stays, so that a template trims both alike; so do the tags of an
    assistant's message, which templates look for: ``tags`` matches those that it may contain as
    tokens.

    Raises:
        DataError: there are more texts than placeholders.
    """
    marked: Messages = []
    key: list[Any] = []
    texts: list[str] = []
    owners: list[int] = []
    required: set[int] = set()
    reasoning: int | None = None
    last = len(messages) - 1

    def place(segment: str, text: str, position: int) -> str:
        """Return ``segment`` with a placeholder for its text."""
        if len(texts) > LAST - FIRST:
            raise DataError(f"the conversation has more than {LAST - FIRST:,} texts; split it")
        before = len(segment) - len(segment.lstrip())
        placeholder = chr(FIRST + len(texts))
        texts.append(text)
        owners.append(position)
        return f"{segment[:before]}{placeholder}{segment[before + len(text) :]}"

    for position, message in enumerate(messages):
        role, content = message["role"], message["content"]
        out = message
        if not answer_alone or position == last:
            out = {"role": role, "content": content}
            if len(message) > 2:
                out = {**message}
                if "reasoning_content" in message:
                    # templates leave the reasoning of earlier turns out, on purpose
                    if position == last:
                        reasoning = len(texts)
                    thought = message["reasoning_content"]
                    out["reasoning_content"] = place(thought, thought.strip(), position)
            segments = [content]
            if role == "assistant" and "<" in content:
                segments = tags.split(content)
                if not any(segment.strip() for segment in segments[::2]):
                    segments = [content]
            numbers: list[int] = []
            for index, segment in enumerate(segments):
                text = segment.strip()
                if index % 2 or not text:
                    if segment == REASONING_TAGS[1] and position < last:
                        numbers.clear()  # as above
                    continue
                numbers.append(len(texts))
                segments[index] = place(segment, text, position)
            required.update(numbers)
            out["content"] = "".join(segments)
        marked.append(out)
        if len(out) > 2:
            rest = {name: out[name] for name in out if name not in ("role", "content")}
            key.append((role, out["content"], json.dumps(rest)))
        else:
            key.append((role, out["content"]))
    if tools is not None:
        key.append(json.dumps(tools))
    skeleton = Skeleton(marked, tools, tuple(key), tuple(owners), frozenset(required), reasoning)
    return skeleton, texts


def pieces_of(text: str) -> Pieces:
    """Return the pieces of a rendered skeleton."""
    parts = PLACEHOLDERS.split(text)
    return tuple(
        ord(part) - FIRST if index % 2 else part for index, part in enumerate(parts) if part
    )
