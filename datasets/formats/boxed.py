"""The answer in the box of a worked solution, and whether two answers are the same."""

import re
from fractions import Fraction

# A box, a character with a backslash, or a brace. What over-escaped text has twice counts too.
_TOKEN = re.compile(r"\\{1,4}boxed\s{0,9}\{|\\.|[{}]", re.DOTALL)
_FRACTION = re.compile(r"(-?)(?:\\[dt]?frac\{(\d{1,18})\}\{(\d{1,18})\}|(\d{1,18}) ?/ ?(\d{1,18}))")
_DECIMAL = re.compile(r"-?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def other_answer(solution: str, answer: str) -> str:
    """Return the number in the last box of ``solution`` if ``answer`` is another number; else
    nothing."""
    found = boxes(solution)
    return found[-1] if found and differ_as_numbers(found[-1], answer) else ""


def final_box(solution: str) -> str:
    """Return what the boxes of ``solution`` hold if it is one answer; else nothing."""
    found = set(boxes(solution))
    return found.pop() if len(found) == 1 else ""


def boxes(text: str) -> list[str]:
    """Return what stands in each ``\\boxed{…}`` of a text; boxes within boxes are left out."""
    opened: list[int | None] = []  # where the text of a box begins; None: any other brace
    spans: list[tuple[int, int]] = []
    for token in _TOKEN.finditer(text):
        if token[0] in ("\\{", "\\}"):
            continue  # a brace that is shown
        if token[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None:
                spans.append((begin, token.start()))
        elif token[0].endswith("{"):
            opened.append(token.end() if "boxed" in token[0] else None)
    found, end = [], -1
    for begin, closed in sorted(spans):
        if begin > end:
            found.append(text[begin:closed].strip())
            end = closed
    return found


def same_answer(one: str, other: str) -> bool:
    """Return whether both are the same text or the same number."""
    if one.strip() == other.strip():
        return True
    first = _number(one)
    return first is not None and first == _number(other)


def differ_as_numbers(one: str, other: str) -> bool:
    """Return whether both are numbers, and not the same one. What is not a plain number may be the
    same in another form, and a decimal may be rounded to the digits that it has."""
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return False
    if "." not in one + other or _is_whole(one, first) or _is_whole(other, second):
        return first != second
    places = min(_places(text) for text in (one, other) if "." in text)
    return abs(first - second) > Fraction(1, 2 * 10**places)


def _is_whole(text: str, number: Fraction) -> bool:
    """Return whether a number is written without decimals: then it was not rounded."""
    return number.denominator == 1 and not _places(text)


def _places(text: str) -> int:
    """Return how many decimals a number has."""
    return sum(map(str.isdecimal, text.partition(".")[2]))


def _number(text: str) -> Fraction | None:
    text = text.strip().strip("$").replace("{,}", ",").replace("\\!", "").strip()
    text = _THOUSANDS.sub("", text)
    if match := _FRACTION.fullmatch(text):
        sign, above, below, numerator, denominator = match.groups()
        if not int(below or denominator):
            return None
        return (-1 if sign else 1) * Fraction(int(above or numerator), int(below or denominator))
    return Fraction(text) if _DECIMAL.fullmatch(text) else None
