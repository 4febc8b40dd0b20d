"""The answer in the box of a worked solution, and whether it is another one than the answer beside
the solution."""

import math
import re
from fractions import Fraction

# Braces within braces, once: \boxed{\frac{1}{2}}.
BOXED = re.compile(r"\\boxed\s{0,9}\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRACTION = re.compile(r"(-?)(?:\\[dt]?frac\{(\d{1,18})\}\{(\d{1,18})\}|(\d{1,18}) ?/ ?(\d{1,18}))")
_DECIMAL = re.compile(r"-?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})")
_ROUNDED = 0.01  # share by which a number with a point may differ
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def other_answer(solution: str, answer: str) -> str:
    """Return the last number in a box of ``solution``, if no box may hold ``answer``; else
    nothing."""
    found = BOXED.findall(solution)
    return found[-1].strip() if found and all(_differ(one, answer) for one in found) else ""


def _differ(one: str, other: str) -> bool:
    """Whether both are numbers, and not the same one. What is no plain number may be the same in
    another form."""
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return False
    if "." in one or "." in other:
        return not math.isclose(first, second, rel_tol=_ROUNDED)
    return first != second


def _number(text: str) -> Fraction | None:
    text = text.strip().strip("$").replace("{,}", ",").replace("\\!", "").strip()
    text = _THOUSANDS.sub("", text)
    if match := _FRACTION.fullmatch(text):
        sign, above, below, numerator, denominator = match.groups()
        if not int(below or denominator):
            return None
        return (-1 if sign else 1) * Fraction(int(above or numerator), int(below or denominator))
    return Fraction(text) if _DECIMAL.fullmatch(text) else None
