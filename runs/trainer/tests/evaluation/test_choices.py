"""Which choice of a question is right."""

from typing import Any

import pytest

from runs.trainer.evaluation.choices import read_choices
from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.scorers.item import CannotScore


def asked(reference: str | None, choices: Any) -> Question:
    return Question("a", "h", [], None, reference, None, {"choices": choices})


@pytest.mark.parametrize(
    ("reference", "choices", "right"),
    [
        ("Paris", ["Rome", "Paris"], 1),
        (" Paris ", ["Rome", "Paris\n"], 1),
        ("B", ["Rome", "Paris"], 1),
        ("(b)", ["Rome", "Paris"], 1),
        ("B.", ["Rome", "Paris"], 1),
        ("1", ["Rome", "Paris"], 1),
        ("0", ["Rome", "Paris"], 0),
        ("2", ["1", "2", "3"], 1),  # the text goes before the place
        ("B", ["C", "A", "B"], 2),  # and before the letter
        ("25", [f"option {number}" for number in range(26)], 25),
    ],
)
def test_the_reference_is_a_text_a_letter_or_a_place(
    reference: str, choices: list[str], right: int
):
    assert read_choices(asked(reference, choices)) == (choices, right)


@pytest.mark.parametrize("reference", ["C", "2", "-1", "", "١", "Rome and Paris", None])
def test_a_reference_that_is_none_of_them_cannot_be_scored(reference: str | None):
    with pytest.raises(CannotScore):
        read_choices(asked(reference, ["Rome", "Paris"]))


@pytest.mark.parametrize(
    "choices",
    [None, "AB", [], ["one"], ["a", 1], ["a", " "], [f"{n}" for n in range(27)], {"a": 1}],
)
def test_choices_are_two_to_twenty_six_texts(choices: Any):
    with pytest.raises(CannotScore, match="is not a list of 2 to 26 texts"):
        read_choices(asked("A", choices))
