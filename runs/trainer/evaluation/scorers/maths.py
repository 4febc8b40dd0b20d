"""Mathematical equality, by math-verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runs.trainer.evaluation.scorers.item import CannotScore, Item


def math() -> Callable[[Item], float]:
    import math_verify  # noqa: PLC0415 - sympy takes half a second

    def read(text: str) -> list[Any]:
        # no time limit of its own: it would need signals, and the process has one
        return list(math_verify.parse(text, parsing_timeout=None))

    def score(item: Item) -> float:
        expected = read(item.expected) or read(f"${item.expected.strip()}$")
        if not expected:
            raise CannotScore("the reference answer is no mathematical expression")
        said = read(item.text)
        return float(bool(said) and math_verify.verify(expected, said, timeout_seconds=None))

    return score
