"""Numbers in outputs: found, read exactly, and compared with a tolerance."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from runs.trainer.evaluation.scorers.item import CannotScore, Item

_DIGITS_MAX = 400  # of a number, and of its exponent's value
# 1,234.5 · -3 · .5 · 2e-3 · 3/4; thousands are separated by commas in groups of three
_NUMBER = re.compile(
    r"(?P<sign>[-+−]?)\s?[$€£]?\s?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<decimals>\.\d+)?"
    r"(?P<exponent>[eE][-+]?\d+)?"
    r"(?:\s?/\s?(?P<below>\d+)(?![\d./]))?"
)
_UNIT = re.compile(r"\s?([%°]?[^\W\d_]*(?:/[^\W\d_]+|[²³]|\^[23])?)")
_MARKS = (
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"####\s*(.*)"),
    re.compile(r"(?i:\b(?:final\s+)?answer(?:\s+is\b)?)\s*[:=]?\s*(.*)"),
)


_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_SENTENCE_END = re.compile(r"\.(?:\s|$)")


@dataclass(frozen=True)
class Number:
    value: Fraction
    unit: str


def numeric(*, absolute: float, relative: float, units: str) -> Callable[[Item], float]:
    def score(item: Item) -> float:
        expected = find_number(item.expected)
        if expected is None:
            raise CannotScore("the reference answer has no number")
        said = find_number(item.text)
        if said is None:
            return 0.0
        room = max(Fraction(absolute), Fraction(relative) * abs(expected.value))
        if abs(said.value - expected.value) > room:
            return 0.0
        return float(units == "ignore" or said.unit == expected.unit)

    return score


def find_number(text: str) -> Number | None:
    """Return the number that a text gives as its answer: the last in what it marks as the answer
    (``\\boxed{}``, ``####``, "answer is"), else the last of all; None where there is none."""
    text = _FRACTION.sub(r"\1/\2", text)
    for mark in _MARKS:
        for marked in reversed(mark.findall(text)):
            if (found := _last_number(_SENTENCE_END.split(marked, 1)[0])) is not None:
                return found
    return _last_number(text)


def _last_number(text: str) -> Number | None:
    for match in reversed(list(_NUMBER.finditer(text))):
        if (match["whole"] or match["decimals"]) and (number := _read(match, text)) is not None:
            return number
    return None


def _read(match: re.Match[str], text: str) -> Number | None:
    whole = (match["whole"] or "0").replace(",", "")
    decimals, below = match["decimals"] or "", match["below"] or "1"
    raised = match["exponent"] or "e0"
    if max(map(len, (whole, decimals, below, raised))) > _DIGITS_MAX or int(below) == 0:
        return None
    if abs(exponent := int(raised[1:])) > _DIGITS_MAX:
        return None
    value = Fraction(f"{whole}{decimals}") * Fraction(10) ** exponent / int(below)
    # "5-3": the minus belongs to a difference
    before = text[match.start() - 1 : match.start()]
    negative = match["sign"] not in ("", "+") and not before.isalnum()
    unit = _UNIT.match(text, match.end())
    return Number(-value if negative else value, unit[1].casefold() if unit else "")
