"""Multiple choice: the options of a question, and which of them is right."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.scorers.item import CannotScore

COLUMN = "choices"
FEWEST, MOST = 2, 26


def read_choices(question: Question) -> tuple[list[str], int]:
    """Return the options and the place of the right one.

    The reference answer is the text of an option, its letter, or its place counted from 0; the
    first of these that it can be.

    Raises:
        CannotScore: what is missing.
    """
    options = question.columns.get(COLUMN)
    if not _are_options(options):
        raise CannotScore(f"the column {COLUMN} is not a list of {FEWEST} to {MOST} texts")
    assert isinstance(options, list)
    if question.reference is None:
        raise CannotScore("the example has no reference answer")
    reference = question.reference.strip()
    for place, option in enumerate(options):
        if option.strip() == reference:
            return options, place
    letters = ascii_uppercase[: len(options)]
    if len(letter := reference.strip("().").upper()) == 1 and letter in letters:
        return options, letters.index(letter)
    if reference.isascii() and reference.isdecimal() and int(reference) < len(options):
        return options, int(reference)
    raise CannotScore("the reference answer is none of the choices, nor the letter or place of one")


def _are_options(value: Any) -> bool:
    return (
        isinstance(value, list)
        and FEWEST <= len(value) <= MOST
        and all(isinstance(option, str) and option.strip() for option in value)
    )
