"""The grammar that the filter languages share: conditions such as ``status:failed loss<1.5 "two
words"``.

runs/queries/filters.py finds runs with it, datasets/cleaning/filtering.py examples. A language is
its names, each with a reader of its values and the operators that it takes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RANGE = (":", "=", "<", "<=", ">", ">=")
_SKIP = re.compile(r"\s*")
_NAMED = re.compile(r"([A-Za-z_]+)(:|<=|>=|<|>|=)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLAIN = re.compile(r'[^\s"]+')


class FilterError(ValueError):
    """What is wrong with a filter. ``position`` counts characters from 0."""

    def __init__(self, problem: str, position: int):
        super().__init__(f"Character {position + 1}: {problem}")
        self.problem = problem
        self.position = position


@dataclass(frozen=True)
class Term:
    """One condition: ``name`` is a name of the language, or empty for a word; ``value`` is what its
    reader made of the text; ``negated`` asks for the opposite."""

    name: str
    operator: str
    value: Any
    negated: bool = False


@dataclass(frozen=True)
class Name:
    """``read`` raises ValueError with the end of a sentence."""

    read: Callable[[str], Any]
    operators: tuple[str, ...] = (":", "=")


@dataclass(frozen=True)
class Language:
    """A filter language.

    Args:
        names: the names of conditions, in small letters.
        find: returns the name for those that are too many to list, or None.
        known: how an error lists the names; empty: all of ``names``.
        pattern: a name and its operator, as two groups.
        words: beginnings of words that hold a colon and need no quotes.
        negation: whether a hyphen before a condition asks for the opposite.
    """

    names: dict[str, Name]
    find: Callable[[str], Name | None] = lambda name: None
    known: str = ""
    pattern: re.Pattern[str] = _NAMED
    words: tuple[str, ...] = ()
    negation: bool = False

    def _name(self, text: str) -> tuple[str, Name] | None:
        if (known := self.names.get(text.lower())) is not None:
            return text.lower(), known
        found = self.find(text)
        return None if found is None else (text, found)

    def parse(self, text: str) -> list[Term]:
        """Return the terms of a filter, all of which hold for what it finds. Raise FilterError."""
        terms: list[Term] = []
        position = _skip(text, 0)
        while position < len(text):
            negated = self.negation and text[position] == "-"
            position += negated
            start, operator = position, ":"
            found: tuple[str, Name] | None = None
            named = self.pattern.match(text, position)
            if named and not text.lower().startswith(self.words or "\n", position):
                operator, start = named[2], named.end()
                found = self._name(named[1])
                if found is None:
                    known = self.known or ", ".join(sorted(self.names))
                    raise FilterError(
                        f"{named[1].lower()!r} is no filter. There are {known}. Put text that"
                        f" holds {operator} in quotes.",
                        position,
                    )
            value, end = read_value(text, start)
            if found is None:
                terms.append(Term("", operator, value, negated))
            else:
                name, reader = found
                if operator not in reader.operators:
                    raise FilterError(
                        f"{name} takes {' '.join(reader.operators)}, not {operator}",
                        start - len(operator),
                    )
                try:
                    terms.append(Term(name, operator, reader.read(value), negated))
                except ValueError as error:
                    raise FilterError(str(error), start) from error
            position = _skip(text, end)
        return terms

    def split(self, text: str) -> list[str]:
        """Return the terms of a filter as they were typed. What cannot be read, from there on, is
        one of them."""
        terms: list[str] = []
        position = _skip(text, 0)
        while position < len(text):
            start = position + (self.negation and text[position] == "-")
            named = self.pattern.match(text, start)
            try:
                _, end = read_value(text, named.end() if named else start)
            except FilterError:
                end = len(text.rstrip())
            terms.append(text[position:end])
            position = _skip(text, end)
        return terms


def _skip(text: str, position: int) -> int:
    space = _SKIP.match(text, position)
    return space.end() if space else position


def read_value(text: str, start: int) -> tuple[str, int]:
    """Return the word or quoted text that begins at ``start``, and where it ends. Raise
    FilterError."""
    if text.startswith('"', start):
        quoted = _QUOTED.match(text, start)
        if quoted is None:
            raise FilterError("this quotation mark is never closed.", start)
        value, end = re.sub(r"\\(.)", r"\1", quoted[1]), quoted.end()
    elif plain := _PLAIN.match(text, start):
        value, end = plain[0], plain.end()
    else:
        raise FilterError("a value is missing here.", start)
    if not value.strip():
        raise FilterError("a value is missing here.", start)
    return value, end
