"""Statistics and fingerprint of a dataset, gathered example by example in constant memory."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from datasets.examples.kinds import has_final_answer, outline_of
from datasets.examples.messages import ROLES
from datasets.examples.schema import HasContent

MESSAGES_APART = 8


@dataclass
class Range:
    """Least, mean and greatest of the numbers seen."""

    count: int = 0
    total: int = 0
    least: int | None = None
    greatest: int | None = None

    def add(self, value: int) -> None:
        self.count += 1
        self.total += value
        if self.least is None or value < self.least:
            self.least = value
        if self.greatest is None or value > self.greatest:
            self.greatest = value

    def as_dict(self) -> dict[str, float | None]:
        mean = round(self.total / self.count, 1) if self.count else None
        return {"min": self.least, "mean": mean, "max": self.greatest}


@dataclass
class Histogram:
    """How many numbers fall into each of at most ``CLASSES`` classes of equal width, which doubles
    when a number does not fit."""

    CLASSES = 24
    width: int = 16
    counts: list[int] = field(default_factory=list)

    def add(self, value: int) -> None:
        while value // self.width >= self.CLASSES:
            self.width *= 2
            self.counts = [
                sum(self.counts[place : place + 2]) for place in range(0, len(self.counts), 2)
            ]
        place = value // self.width
        if place >= len(self.counts):
            self.counts += [0] * (place + 1 - len(self.counts))
        self.counts[place] += 1

    def as_list(self) -> list[list[int]]:
        """Return ``[from, up to, count]`` of every class up to the greatest number; both ends
        included."""
        return [
            [place * self.width, (place + 1) * self.width - 1, count]
            for place, count in enumerate(self.counts)
        ]


def _bytes(text: str) -> int:
    """Return the bytes of its UTF-8, counted without encoding it where every character is one
    byte."""
    return len(text) if text.isascii() else len(text.encode())


@dataclass
class Lengths:
    """Lengths of prompts, answers and whole examples, without the template of a training line; how
    many messages they have, and whose."""

    examples: int = 0
    with_final_answer: int = 0
    prompt: Range = field(default_factory=Range)
    answer: Range = field(default_factory=Range)
    characters: Range = field(default_factory=Range)
    bytes: Range = field(default_factory=Range)
    histogram: Histogram = field(default_factory=Histogram)
    messages: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    with_tools: int = 0
    with_reasoning: int = 0

    def add(self, trace: HasContent) -> None:
        outline = outline_of(trace)
        given, learnt = outline.given, outline.learnt
        prompt_characters, answer_characters = sum(map(len, given)), sum(map(len, learnt))
        self.examples += 1
        self.with_final_answer += has_final_answer(trace)
        self.prompt.add(prompt_characters)
        self.answer.add(answer_characters)
        self.characters.add(prompt_characters + answer_characters)
        self.histogram.add(prompt_characters + answer_characters)
        self.bytes.add(sum(map(_bytes, given)) + sum(map(_bytes, learnt)))
        self.messages[len(outline.roles)] += 1
        for role in outline.roles:
            self.roles[role] += 1
        self.with_tools += outline.tools
        self.with_reasoning += outline.reasoning

    def as_stats(self, held_out_size: int) -> dict[str, Any]:
        """Return the dataset's ``stats``. Lengths in characters, except ``…_bytes`` (UTF-8)."""
        return {
            "examples": self.examples,
            "train": self.examples - held_out_size,
            "held_out": held_out_size,
            "with_final_answer": self.with_final_answer,
            "with_tools": self.with_tools,
            "with_reasoning": self.with_reasoning,
            "prompt_characters": self.prompt.as_dict(),
            "answer_characters": self.answer.as_dict(),
            "example_characters": self.characters.as_dict(),
            "example_characters_histogram": self.histogram.as_list(),
            "longest_example_characters": self.characters.greatest,
            "shortest_example_bytes": self.bytes.least,
            "longest_example_bytes": self.bytes.greatest,
            "messages_histogram": self._message_classes(),
            "roles": {role: self.roles[role] for role in ROLES if self.roles[role]},
        }

    def _message_classes(self) -> list[list[int]]:
        """Return ``[from, up to, examples]`` by the number of messages: one by one up to
        MESSAGES_APART, then in classes that grow by two. Leave out empty classes."""
        classes: Counter[tuple[int, int]] = Counter()
        for count, examples in self.messages.items():
            start = end = count
            if count > MESSAGES_APART:
                end = 1 << (count - 1).bit_length()
                start = end // 2 + 1
            classes[start, end] += examples
        return [[start, end, examples] for (start, end), examples in sorted(classes.items())]


class Fingerprint:
    """``sha256:`` and the hash over one line ``<content hash> <split>`` per example, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, content_hash: str, split: str) -> None:
        self._hash.update(f"{content_hash} {split}\n".encode())

    def __str__(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
