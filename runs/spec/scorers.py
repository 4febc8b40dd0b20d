"""The scorers of evaluations and rewards: their names, versions and parameters.

Plain Python: API, pages and the training program import it. What a scorer computes is in
runs/trainer/evaluation/scorers. A change there that changes a score needs a new version here:
stored scores name the version that made them.

A score is a number from 0 to 1, 1 the best.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from runs.spec.parameters import Parameter
from runs.spec.wording import value_text

PATTERN_MAX_CHARACTERS = 2_000
SCHEMA_MAX_CHARACTERS = 100_000
SCORERS_MAX = 20  # of one evaluation
WEIGHT_MAX = 1_000.0


@dataclass(frozen=True)
class Scorer:
    """One scorer. ``needs_reference``: it compares with the reference answer, and fails for an item
    that has none. ``binary``: its scores are 0 or 1."""

    name: str
    version: int
    help: str
    parameters: dict[str, Parameter]
    needs_reference: bool = True
    binary: bool = True

    def defaults(self) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in self.parameters.items()}


@dataclass(frozen=True)
class Chosen:
    """A scorer as a request chose it, with every parameter."""

    name: str
    version: int
    weight: float
    parameters: dict[str, Any]

    @property
    def hash(self) -> str:
        """Identify what is computed: equal for equal names, versions and parameters."""
        what = [self.name, self.version, self.parameters]
        text = json.dumps(what, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "weight": self.weight,
            "parameters": self.parameters,
        }


def _by_name(*parameters: Parameter) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters}


_IGNORE_CASE = Parameter("ignore_case", bool, False, "Upper and lower case are equal.")
_SEARCHED = Parameter(
    "where",
    str,
    "anywhere",
    "Whether the pattern must match a part of the output or the whole of it.",
    choices=("anywhere", "whole"),
)

_FUNCTION = re.compile(r"([A-Za-z_]\w{0,63}\.py):([A-Za-z_]\w{0,63})", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_function(value: Any) -> str:
    """Return the function of a python scorer. Raises ValueError."""
    if not isinstance(value, str) or not _FUNCTION.fullmatch(value):
        raise ValueError(
            f"must be <file>.py:<function>, such as grade.py:score, not {value_text(value)}"
        )
    return value


def check_sha256(value: Any) -> str:
    """Return the hash of a file. Raises ValueError."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"must be 64 hexadecimal digits, not {value_text(value)}")
    return value


def function_file(function: str) -> str:
    """Return the name of the file that a function is in."""
    return function.partition(":")[0]


SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer(
            "exact_match",
            1,
            "The last non-empty line of the output is that of the reference answer.",
            _by_name(_IGNORE_CASE),
        ),
        Scorer(
            "numeric",
            1,
            "The number that the output ends with, or that it marks as its answer, is that of the"
            " reference answer.",
            _by_name(
                Parameter("absolute", float, 0.0, "Difference that is allowed.", 0, 1e12),
                Parameter("relative", float, 1e-9, "Difference that is allowed, as a share.", 0, 1),
                Parameter(
                    "units",
                    str,
                    "ignore",
                    "Whether the unit behind the number must be the reference's.",
                    choices=("ignore", "require"),
                ),
            ),
        ),
        Scorer(
            "math",
            1,
            "The output is mathematically equal to the reference answer (math-verify).",
            {},
        ),
        Scorer(
            "regex",
            1,
            "The output matches a regular expression (Python's re).",
            _by_name(
                Parameter("pattern", str, None, "The regular expression."),
                _SEARCHED,
                _IGNORE_CASE,
            ),
            needs_reference=False,
        ),
        Scorer(
            "format",
            1,
            "The whole output has the form that a regular expression gives; a dot matches line"
            " breaks too.",
            _by_name(
                Parameter(
                    "pattern",
                    str,
                    r"<think>.*?</think>\s*<answer>.*?</answer>",
                    "The regular expression.",
                ),
            ),
            needs_reference=False,
        ),
        Scorer(
            "contains",
            1,
            "The output contains a text, by default the reference answer.",
            _by_name(
                Parameter(
                    "text", str, None, "The text; null: the reference answer.", nullable=True
                ),
                _IGNORE_CASE,
            ),
        ),
        Scorer(
            "json_schema",
            1,
            "The output is a JSON document that a JSON Schema (2020-12) allows.",
            _by_name(Parameter("schema", dict, None, "The schema, an object.")),
            needs_reference=False,
        ),
        Scorer(
            "multiple_choice",
            1,
            "The letter that the output chooses is that of the reference answer.",
            {},
        ),
        Scorer(
            "token_f1",
            1,
            "F1 of the words shared with the reference answer, without case, punctuation and"
            " articles (SQuAD).",
            {},
            binary=False,
        ),
        Scorer(
            "chrf", 1, "chrF2 of the output against the reference (sacrebleu).", {}, binary=False
        ),
        Scorer(
            "bleu",
            1,
            "Sentence BLEU of the output against the reference (sacrebleu).",
            {},
            binary=False,
        ),
        Scorer(
            "length",
            1,
            "The output has a length within a band, in tokens.",
            _by_name(
                Parameter("min_tokens", int, 0, "Fewest tokens.", 0, 1_000_000),
                Parameter("max_tokens", int, 1_000_000, "Most tokens.", 0, 1_000_000),
            ),
            needs_reference=False,
        ),
        Scorer(
            "python",
            1,
            "A function of the operators gives the score.",
            _by_name(
                Parameter(
                    "function",
                    str,
                    None,
                    "<file>.py:<function>, the file in a folder that operators allow.",
                    check=check_function,
                ),
                Parameter(
                    "sha256",
                    str,
                    None,
                    "Of the file; null: of the file as it is when the request is made.",
                    nullable=True,
                    check=check_sha256,
                ),
            ),
            needs_reference=False,
            binary=False,
        ),
    )
}
DEFAULT_SCORERS = ({"name": "exact_match"},)
_FIELDS = ("name", "version", "weight", "parameters")


def choose(value: Any) -> tuple[Chosen, ...]:
    """Return the scorers that a request asks for.

    Args:
        value: ``[{name, version?, weight?, parameters?}]`` as it came.

    Raises:
        ValueError: what is wrong, one sentence.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list with at least one scorer")
    if len(value) > SCORERS_MAX:
        raise ValueError(f"has {len(value)} scorers; at most {SCORERS_MAX} are possible")
    chosen = tuple(_choose(number, asked) for number, asked in enumerate(value, 1))
    seen: set[str] = set()
    for number, one in enumerate(chosen, 1):
        if one.hash in seen:
            raise ValueError(f"scorer {number}: {one.name} is chosen twice with equal parameters")
        seen.add(one.hash)
    return chosen


def _choose(number: int, asked: Any) -> Chosen:
    where = f"scorer {number}"
    if not isinstance(asked, dict):
        raise ValueError(f'{where}: must be an object such as {{"name": "exact_match"}}')
    for field in asked:
        if field not in _FIELDS:
            raise ValueError(
                f"{where}: unknown field {value_text(field)}; known are {', '.join(_FIELDS)}"
            )
    name = asked.get("name")
    if not isinstance(name, str) or name not in SCORERS:
        raise ValueError(f"{where}: {value_text(name)} is not one of {', '.join(SCORERS)}")
    scorer = SCORERS[name]
    version = asked.get("version", scorer.version)
    if isinstance(version, bool) or version != scorer.version:
        raise ValueError(
            f"{where}: {name} has the version {scorer.version} here, not {value_text(version)}"
        )
    return Chosen(
        name,
        scorer.version,
        _weight(where, asked.get("weight", 1.0)),
        _parameters(where, scorer, asked.get("parameters", {})),
    )


def _weight(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: weight must be a number, not {value_text(value)}")
    if not 0 < value <= WEIGHT_MAX:
        raise ValueError(f"{where}: weight must be greater than 0 and at most {WEIGHT_MAX:g}")
    return float(value)


def _parameters(where: str, scorer: Scorer, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: parameters must be an object")
    for name in given:
        if name not in scorer.parameters:
            known = ", ".join(scorer.parameters) or "none"
            raise ValueError(
                f"{where}: {scorer.name} has no parameter {value_text(name)}; it has: {known}"
            )
    values = scorer.defaults() | given
    for name, value in values.items():
        if problem := scorer.parameters[name].problem(value):
            raise ValueError(f"{where}: {name} {problem}")
        longest = SCHEMA_MAX_CHARACTERS if name == "schema" else PATTERN_MAX_CHARACTERS
        if isinstance(value, str | dict) and _size(value) > longest:
            raise ValueError(f"{where}: {name} is longer than {longest:,} characters")
    if values.get("min_tokens", 0) > values.get("max_tokens", 0):
        raise ValueError(f"{where}: min_tokens is greater than max_tokens")
    return values


def _size(value: str | dict[str, Any]) -> float:
    """Return the characters of a text, or of an object as JSON; infinite where it is nested too
    deeply to be written."""
    if isinstance(value, str):
        return len(value)
    try:
        return len(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return math.inf


def labels(chosen: tuple[Chosen, ...]) -> tuple[str, ...]:
    """Return what the scores of each are called: the name, with the hash where two share it."""
    names = [one.name for one in chosen]
    return tuple(
        one.name if names.count(one.name) == 1 else f"{one.name}-{one.hash[:6]}" for one in chosen
    )
