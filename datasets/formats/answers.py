"""The answer that stands beside a question: its names, and whether it is the one that is learnt."""

from collections.abc import Sequence
from typing import Any

import orjson

from datasets.examples.messages import InvalidMessages, reasoning_apart
from datasets.examples.schema import NAME_SHOWN, json_kind
from datasets.formats.boxed import differ_as_numbers, other_answer, same_answer
from datasets.formats.lines import Line, LineError
from tunixrt.readable import is_blank
from tunixrt.refusals import shorten

# What an answer is called that stands beside a question, the most usual name first.
ANSWERS = ("answer", "expected_answer", "final_answer", "ground_truth")


def take_answer(line: Line, names: Sequence[str] = ANSWERS) -> tuple[str, str]:
    """Take the answer out of a line: the name of its field, and its text; empty without one.

    A number is an answer as well. Raise LineError for other values, and where the line has two
    answers that differ; another one that is the same is kept.
    """
    name, answer = "", ""
    for other in names:
        value = line.get(other)
        if not name and not _is_empty(value):
            name, answer = other, text_of_answer(value, other)
        elif name and is_answer(value):
            check_same_answer(name, answer, other, text_of_answer(value, other))
    if name:
        del line[name]
    return name, answer


def _is_empty(value: Any) -> bool:
    return value in (None, []) or (isinstance(value, str) and is_blank(value))


def is_answer(value: Any) -> bool:
    """Return whether a value can be compared with an answer."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number or (isinstance(value, str) and not is_blank(value))


def text_of_answer(value: Any, name: str) -> str:
    """Return an answer as text. Raise LineError where it is neither text nor a number."""
    if isinstance(value, str):
        return value
    if is_answer(value):
        return orjson.dumps(value).decode()
    raise LineError(f"{name}: must be text or a number, not {json_kind(value)}")


def check_same_answer(name: str, answer: str, other: str, second: str) -> None:
    """Raise LineError where two fields hold different answers."""
    if not same_answer(answer, second):
        raise LineError(
            f"{name} is {shorten(repr(answer), NAME_SHOWN)}, but {other} is"
            f" {shorten(repr(second), NAME_SHOWN)}; leave one of them out"
        )


def check_beside(line: Line, name: str, answer: str) -> None:
    """Raise LineError where ``answer``, which was read from the field ``name``, is a number or ends
    in one in a box, and another number stands beside it in ``line``."""
    beside = {other: line[other] for other in ANSWERS if other in line and is_answer(line[other])}
    if not beside:
        return
    _, alone = apart(answer, name)
    for other, value in beside.items():
        second = text_of_answer(value, other)
        if differ_as_numbers(alone, second) or other_answer(alone, second):
            raise LineError(
                f"{name}: ends in another number than {other}, {second[:40]}; leave one of them out"
            )


def apart(text: str, name: str) -> tuple[str, str]:
    """Return the reasoning of an answer, and the answer without it. Raise LineError."""
    try:
        return reasoning_apart(text)
    except InvalidMessages as error:
        raise LineError(f"{name}: {error}") from error
