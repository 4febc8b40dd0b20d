"""What the scorers of runs/spec/scorers.py compute.

They run in runs/trainer/evaluation/scorer_program.py, a process with limits: regular expressions
can take forever, and so can mathematics. Libraries are imported where a scorer needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runs.trainer.evaluation.scorers import (
    function,
    maths,
    numbers,
    overlap,
    structure,
    text,
)
from runs.trainer.evaluation.scorers.item import Item

Score = Callable[[Item], float]

# By name: what makes the function that scores an item, of the scorer's parameters.
MAKERS: dict[str, Callable[..., Score]] = {
    "exact_match": text.exact_match,
    "numeric": numbers.numeric,
    "math": maths.math,
    "regex": text.regex,
    "format": text.form,
    "contains": text.contains,
    "json_schema": structure.json_schema,
    "multiple_choice": text.multiple_choice,
    "token_f1": overlap.token_f1,
    "chrf": overlap.chrf,
    "bleu": overlap.bleu,
    "length": text.length,
    "python": function.python,
}


def make_scorer(name: str, parameters: dict[str, Any]) -> Score:
    """Return the function that scores an item from 0 to 1.

    Raises:
        CannotScore: the parameters make no scorer, such as a broken regular expression.
    """
    return MAKERS[name](**parameters)
