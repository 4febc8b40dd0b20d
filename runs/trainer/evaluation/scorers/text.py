"""Scorers that look at the characters of an output."""

from __future__ import annotations

import re
from collections.abc import Callable

from runs.trainer.evaluation.scorers.item import CannotScore, Item, last_line

_LETTER = r"\(?\**([A-Z])\**\)?"
# How outputs say which letter they choose, the clearest first. The last place counts.
_CHOICES = (
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Z])\)?\}?\s*\}"),
    re.compile(rf"(?i:\banswer\b(?:\s+is)?\s*:?)\s*\**\s*(?:(?i:option)\s+)?{_LETTER}(?![A-Za-z])"),
    re.compile(rf"^[ \t]*{_LETTER}[ \t]*(?:[.):]|$)", re.MULTILINE),
    re.compile(r"\(([A-Z])\)"),
)


def exact_match(*, ignore_case: bool) -> Callable[[Item], float]:
    def score(item: Item) -> float:
        said, expected = last_line(item.text), last_line(item.expected)
        if ignore_case:
            said, expected = said.casefold(), expected.casefold()
        return float(said == expected)

    return score


def contains(*, text: str | None, ignore_case: bool) -> Callable[[Item], float]:
    def score(item: Item) -> float:
        wanted, said = item.expected.strip() if text is None else text, item.text
        if ignore_case:
            wanted, said = wanted.casefold(), said.casefold()
        return float(wanted in said)

    return score


def regex(*, pattern: str, where: str, ignore_case: bool) -> Callable[[Item], float]:
    compiled = _compile(pattern, re.IGNORECASE if ignore_case else re.NOFLAG)
    find = compiled.fullmatch if where == "whole" else compiled.search

    def score(item: Item) -> float:
        return float(find(item.text) is not None)

    return score


def form(*, pattern: str) -> Callable[[Item], float]:
    compiled = _compile(pattern, re.DOTALL)

    def score(item: Item) -> float:
        return float(compiled.fullmatch(item.text.strip()) is not None)

    return score


def _compile(pattern: str, flags: re.RegexFlag) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise CannotScore(f"the pattern is no regular expression: {error}") from error


def length(*, min_tokens: int, max_tokens: int) -> Callable[[Item], float]:
    def score(item: Item) -> float:
        return float(min_tokens <= item.tokens <= max_tokens)

    return score


def multiple_choice() -> Callable[[Item], float]:
    def score(item: Item) -> float:
        options = _options(item)
        expected = _expected_letter(item, options)
        return float(_chosen_letter(item.text, options) == expected)

    return score


def _options(item: Item) -> list[str]:
    options = item.columns.get("choices", [])
    return options if isinstance(options, list) and all(map(_is_text, options)) else []


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _expected_letter(item: Item, options: list[str]) -> str:
    expected = last_line(item.expected)
    if len(bare := expected.strip("().")) == 1 and "A" <= bare.upper() <= "Z":
        return bare.upper()
    if expected in options[:26]:
        return chr(ord("A") + options.index(expected))
    raise CannotScore("the reference answer is neither a letter nor one of the choices")


def _chosen_letter(text: str, options: list[str]) -> str | None:
    """Return the letter that an output chooses, or None."""
    if len(bare := text.strip().strip("().*")) == 1:
        return bare.upper()
    for pattern in _CHOICES:
        if found := pattern.findall(text):
            return str(found[-1])
    if (said := last_line(text)) in options[:26]:
        return chr(ord("A") + options.index(said))
    return None
