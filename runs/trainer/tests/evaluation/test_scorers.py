"""What scorers make of outputs, in the process that they run in."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from runs.spec.scorers import SCORERS, choose
from runs.trainer.errors import RewardProblem
from runs.trainer.evaluation.scorers import MAKERS
from runs.trainer.evaluation.scorers.item import Item
from runs.trainer.evaluation.scorers.numbers import find_number
from runs.trainer.evaluation.scoring import Scored, Scoring

PATTERN = r"(a+)+b"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
    "additionalProperties": False,
}
ASKED: dict[str, dict[str, Any]] = {
    "regex": {"pattern": PATTERN},
    "json_schema": {"schema": SCHEMA},
    "length": {"min_tokens": 2, "max_tokens": 4},
}


@pytest.fixture(scope="module")
def scoring() -> Iterator[Scoring]:
    """One process with every scorer."""
    chosen = choose([{"name": name, "parameters": ASKED.get(name, {})} for name in SCORERS])
    with Scoring(chosen, seconds=300) as scoring:
        yield scoring


def test_every_scorer_is_made_and_described():
    assert MAKERS.keys() == SCORERS.keys()


@pytest.mark.parametrize(
    ("name", "text", "reference", "score"),
    [
        ("exact_match", "so:\n 42 \n\n", "x\n42", 1),
        ("exact_match", "It is 42", "42", 0),
        ("exact_match", "", "42", 0),
        ("numeric", "I think 5 - 3 makes 2.", "#### 2", 1),
        ("numeric", "The total is $1,234.50.", "1234.5", 1),
        ("numeric", "The answer is 18. I used 3 steps.", "18", 1),
        ("numeric", "18, or rather\n#### 19\nbecause of 2", "19", 1),
        ("numeric", r"\boxed{\frac{3}{4}} as 1 < 2", "0.75", 1),
        ("numeric", "−7", "-7", 1),
        ("numeric", "x1", "2", 0),
        ("numeric", "no idea", "2", 0),
        ("numeric", "1e999999999", "2", 0),
        ("math", r"The result is $\frac{1}{2}$", "0.5", 1),
        ("math", r"\boxed{x^2 + 2x + 1}", "(x+1)^2", 1),
        ("math", r"\boxed{x^2}", "x^3", 0),
        ("regex", "xaab", None, 1),
        ("regex", "xaac", None, 0),
        ("format", "<think>a\nb</think>\n<answer>4</answer>", None, 1),
        ("format", "<answer>4</answer> and more", None, 0),
        ("contains", "The capital is Paris.", "Paris", 1),
        ("contains", "The capital is paris.", "Paris", 0),
        ("json_schema", '{"age": 3}', None, 1),
        ("json_schema", '```json\n{"age": 3}\n```', None, 1),
        ("json_schema", '{"age": -3}', None, 0),
        ("json_schema", '{"age": NaN}', None, 0),
        ("json_schema", "[" * 100_000, None, 0),
        ("multiple_choice", "B", "B", 1),
        ("multiple_choice", "The answer is (C), since A is wrong.", "C", 1),
        ("multiple_choice", "**Answer: B**", "b", 1),
        ("multiple_choice", "Not A.\nB) because", "B", 1),
        ("multiple_choice", "I do not know", "A", 0),
        ("token_f1", "The cat sat!", "a cat sat down", 0.8),
        ("token_f1", "", "a cat", 0),
        ("chrf", "the same text", "the same text", 1),
        ("bleu", "the very same text", "the very same text", 1),
        ("bleu", "nothing", "the very same text", 0),
    ],
)
def test_scores(scoring: Scoring, name: str, text: str, reference: str | None, score: float):
    assert scoring.score(Item(text, 3, reference))[name].score == pytest.approx(score)


@pytest.mark.parametrize(("tokens", "score"), [(1, 0), (2, 1), (4, 1), (5, 0)])
def test_length_is_a_band_of_tokens(scoring: Scoring, tokens: int, score: float):
    assert scoring.score(Item("", tokens, "x"))["length"].score == score


def test_a_choice_may_be_said_by_its_text(scoring: Scoring):
    columns = {"choices": ["red", "blue"]}
    said = [
        scoring.score(Item(text, 1, reference, columns))["multiple_choice"].score
        for text, reference in (("blue", "blue"), ("red", "B"), ("B", "blue"), ("(A)", "red"))
    ]
    assert said == [1, 0, 1, 1]


@pytest.mark.parametrize("reference", [None, "", " \n"])
def test_without_a_reference_there_is_no_score(scoring: Scoring, reference: str | None):
    scores = scoring.score(Item("42", 2, reference))
    for name, scorer in SCORERS.items():
        assert (scores[name].score is None) == scorer.needs_reference, name
    assert scores["exact_match"].problem == "the example has no reference answer"


@pytest.mark.parametrize(
    ("name", "reference"),
    [("numeric", "none"), ("math", "\\"), ("multiple_choice", "perhaps")],
)
def test_a_reference_that_cannot_be_read_is_a_failure(scoring: Scoring, name: str, reference: str):
    assert scoring.score(Item("1", 1, reference))[name].score is None


def test_an_output_on_which_a_scorer_hangs_costs_its_own_score():
    asked = [{"name": name, "parameters": ASKED.get(name, {})} for name in ("regex", "contains")]
    with Scoring(choose(asked), seconds=2) as scoring:
        hanging = scoring.score(Item("a" * 60, 60, "1"))
        assert hanging["regex"] == Scored(None, "took longer than 2 s")
        assert hanging["contains"] == Scored(0.0)  # made by a new process


@pytest.mark.parametrize(
    "text", ["\x00\ud800\x1b[31m", "9" * 100_000, " \n" * 50_000, "1,234," * 20_000, "(" * 100_000]
)
def test_odd_outputs_have_scores(scoring: Scoring, text: str):
    scores = scoring.score(Item(text, 4, "B 2"))
    failed = {name for name, scored in scores.items() if scored.score is None}
    assert failed <= {"math", "multiple_choice"}, scores  # what they compare with is none of theirs


def test_a_process_that_was_killed_is_started_again():
    with Scoring(choose([{"name": "exact_match"}])) as scoring:
        assert scoring.score(Item("1", 1, "1"))["exact_match"] == Scored(1.0)
        assert scoring._process is not None
        os.kill(scoring._process.pid, signal.SIGKILL)
        scoring._process.wait()
        problem = scoring.score(Item("1", 1, "1"))["exact_match"].problem
        assert problem == "ended the scoring process (signal SIGKILL)"
        assert scoring.score(Item("1", 1, "1"))["exact_match"] == Scored(1.0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "regex", "parameters": {"pattern": "("}}, "no regular expression"),
        ({"name": "format", "parameters": {"pattern": "*"}}, "no regular expression"),
        ({"name": "json_schema", "parameters": {"schema": {"type": 3}}}, "no JSON Schema"),
    ],
)
def test_parameters_that_make_no_scorer_are_named(asked: dict[str, Any], message: str):
    with Scoring(choose([asked])) as scoring, pytest.raises(RewardProblem, match=message) as caught:
        scoring.score(Item("1"))
    assert caught.value.exit_code == 18


def test_a_schema_fetches_nothing():
    asked = {"name": "json_schema", "parameters": {"schema": {"$ref": "http://127.0.0.1:9/x"}}}
    with Scoring(choose([asked])) as scoring:
        assert "refers to something" in scoring.score(Item("1"))["json_schema"].problem


def test_numbers_are_exact():
    found = find_number("0.1")
    assert found is not None
    assert found.value * 10 == 1
    assert find_number("12 km/h") != find_number("12 km")
