"""What scorers make of outputs, in the process that they run in."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runs.spec.scorers import SCORERS, choose, labels
from runs.trainer.errors import RewardProblem
from runs.trainer.evaluation.scorers import MAKERS
from runs.trainer.evaluation.scorers.item import Item
from runs.trainer.evaluation.scorers.numbers import find_number
from runs.trainer.evaluation.scoring import Scored, Scoring

GRADES = """
import os, sys, time
kept = []
def as_expected(*, output, reference, columns, tokens):
    return output == reference and columns == {"topic": "sums"} and tokens == 3
def half(**item): return 0.5
def nan(**item): return float("nan")
def too_much(**item): return 1.5
def nothing(**item): return None
def a_list(**item): return []
def a_text(**item): return "1"
def raising(**item): raise RuntimeError("no idea")
def leaving(**item): sys.exit(0)
def environment(**item): return float(len(os.environ) <= 4)
def writing(**item):
    print("{\\"score\\": 1}", flush=True)
    return 0
def hungry(**item): return len("x" * 2**40)
def hanging(**item):
    while True: time.sleep(1)
def narrow(output): return 1
constant = 3
"""
PATTERN = r"(a+)+b"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
    "additionalProperties": False,
}
HALF = {"function": "grades.py:half", "sha256": hashlib.sha256(GRADES.encode()).hexdigest()}
ASKED: dict[str, dict[str, Any]] = {
    "regex": {"pattern": PATTERN},
    "json_schema": {"schema": SCHEMA},
    "length": {"min_tokens": 2, "max_tokens": 4},
    "python": HALF,
}


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of functions, in a folder of operators."""
    path = tmp_path_factory.mktemp("scorers") / "grades.py"
    path.write_text(GRADES)
    return path


@pytest.fixture(scope="module")
def scoring(grades: Path) -> Iterator[Scoring]:
    """One process with every scorer."""
    chosen = choose([{"name": name, "parameters": ASKED.get(name, {})} for name in SCORERS])
    with Scoring(chosen, files={"grades.py": str(grades)}, seconds=300) as scoring:
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


@pytest.fixture(scope="module")
def by_function(grades: Path) -> dict[str, Scored]:
    """What each function says of one output; one process, started again where one ends it."""
    names = ("as_expected", "half", "nan", "too_much", "nothing", "a_list", "a_text", "raising")
    names += ("leaving", "environment", "writing", "hungry", "hanging", "narrow")
    asked = [
        {"name": "python", "parameters": HALF | {"function": f"grades.py:{name}"}} for name in names
    ]
    chosen = choose(asked)
    with Scoring(chosen, files={"grades.py": str(grades)}, seconds=2) as scoring:
        found = scoring.score(Item("4", 3, "4", {"topic": "sums"}))
    return {name: found[label] for name, label in zip(names, labels(chosen), strict=True)}


class TestFunctionsOfOperators:
    @pytest.mark.parametrize(
        ("function", "scored"),
        [
            ("as_expected", Scored(1.0)),
            ("half", Scored(0.5)),
            ("environment", Scored(1.0)),
            ("writing", Scored(0.0)),
            ("nan", Scored(None, "gave nan, not a number from 0 to 1")),
            ("too_much", Scored(None, "gave 1.5, not a number from 0 to 1")),
            ("raising", Scored(None, "RuntimeError: no idea")),
            ("leaving", Scored(None, "ended the scoring process (exit code 0)")),
            ("hanging", Scored(None, "took longer than 2 s")),
            ("hungry", Scored(None, "needs more than 4,096 MiB of memory")),
        ],
    )
    def test_a_function_gives_a_score_or_the_reason_why_there_is_none(
        self, by_function: dict[str, Scored], function: str, scored: Scored
    ):
        assert by_function[function] == scored

    @pytest.mark.parametrize(
        ("function", "kind"), [("nothing", "NoneType"), ("a_list", "list"), ("a_text", "str")]
    )
    def test_what_is_no_number_is_no_score(
        self, by_function: dict[str, Scored], function: str, kind: str
    ):
        assert by_function[function] == Scored(
            None, f"grades.py:{function} gave a value of type {kind}, not a number from 0 to 1"
        )

    def test_a_function_takes_all_of_an_item(self, by_function: dict[str, Scored]):
        assert by_function["narrow"].problem.startswith("TypeError: ")

    @pytest.mark.parametrize(
        ("source", "function", "message"),
        [
            ("def score(**item): return 1", "score", "grade.py was changed: it has the hash"),
            (None, "score", "grade.py cannot be read: No such file"),
            ("def other(**item): return 1", "score", "grade.py has no function score"),
            ("score = 1", "score", "grade.py has no function score"),
            ("raise OSError('x')", "score", "grade.py cannot be loaded: OSError: x"),
            ("def (", "score", "grade.py cannot be loaded: SyntaxError"),
            ("import beside", "score", "cannot be loaded: ModuleNotFoundError"),
        ],
    )
    def test_a_file_that_makes_no_scorer_is_named(
        self, tmp_path: Path, source: str | None, function: str, message: str
    ):
        path = tmp_path / "grade.py"
        (tmp_path / "beside.py").write_text("")  # what no hash covers
        digest = hashlib.sha256((source or "").encode()).hexdigest()
        if source is not None:
            path.write_text(source + (" " if "changed" in message else ""))
        asked = {"function": f"grade.py:{function}", "sha256": digest}
        chosen = choose([{"name": "python", "parameters": asked}])
        files = {"grade.py": str(path)}
        with Scoring(chosen, files=files) as scoring, pytest.raises(RewardProblem) as caught:
            scoring.start()
        assert message in str(caught.value)
        assert caught.value.exit_code == 18

    def test_a_link_is_no_file_of_the_folder(self, tmp_path: Path, grades: Path):
        (tmp_path / "grades.py").symlink_to(grades)
        chosen = choose([{"name": "python", "parameters": HALF}])
        files = {"grades.py": str(tmp_path / "grades.py")}
        with Scoring(chosen, files=files) as scoring, pytest.raises(RewardProblem, match="be read"):
            scoring.start()

    @pytest.mark.parametrize(
        ("parameters", "files", "message"),
        [
            (HALF, {}, "in none of the folders that operators allow"),
            ({"function": "grades.py:half"}, None, "sha256 is missing; that of grades.py is "),
        ],
    )
    def test_a_manifest_must_name_the_file_and_its_hash(
        self, grades: Path, parameters: dict[str, Any], files: dict[str, str] | None, message: str
    ):
        chosen = choose([{"name": "python", "parameters": parameters}])
        named = {"grades.py": str(grades)} if files is None else files
        with Scoring(chosen, files=named) as scoring, pytest.raises(RewardProblem, match=message):
            scoring.start()
