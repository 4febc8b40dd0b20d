"""The scorers that a request may choose."""

import re
from typing import Any

import pytest

from runs.spec.scorers import DEFAULT_SCORERS, PATTERN_MAX_CHARACTERS, SCORERS, choose, labels
from tunixrt.tests.plugin import ROOT

NESTED: dict[str, Any] = {}
for _ in range(2000):
    NESTED = {"items": NESTED}


def test_defaults_are_filled_in():
    (chosen,) = choose(DEFAULT_SCORERS)
    assert chosen.as_json() == {
        "name": "exact_match",
        "version": 1,
        "weight": 1.0,
        "parameters": {"ignore_case": False},
    }
    assert choose([chosen.as_json()]) == (chosen,)


def test_the_hash_says_what_is_computed():
    first, again, heavier, other = (
        choose([asked])[0]
        for asked in (
            {"name": "numeric"},
            {"name": "numeric", "parameters": {"absolute": 0.0}},
            {"name": "numeric", "weight": 2},
            {"name": "numeric", "parameters": {"absolute": 1}},
        )
    )
    assert first.hash == again.hash == heavier.hash != other.hash


def test_the_hash_does_not_depend_on_the_order_of_keys():
    schemas = ({"type": "object", "minProperties": 1}, {"minProperties": 1, "type": "object"})
    first, second = (
        choose([{"name": "json_schema", "parameters": {"schema": schema}}])[0] for schema in schemas
    )
    assert first.hash == second.hash


def test_scorers_of_one_name_are_told_apart():
    chosen = choose(
        [
            {"name": "regex", "parameters": {"pattern": "a"}},
            {"name": "regex", "parameters": {"pattern": "b"}},
            {"name": "chrf"},
        ]
    )
    first, second, third = labels(chosen)
    assert first != second
    assert first.startswith("regex-")
    assert third == "chrf"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "must be a list"),
        ([], "at least one scorer"),
        ("exact_match", "must be a list"),
        ([{"name": "chrf"}] * 21, "at most 20"),
        (["exact_match"], "must be an object"),
        ([{"name": "EXACT"}], "is not one of exact_match"),
        ([{"name": ["exact_match"]}], "is not one of"),
        ([{}], "null is not one of"),
        ([{"name": "chrf", "wieght": 2}], 'unknown field "wieght"'),
        ([{"name": "chrf", "version": 2}], "has the version 1 here, not 2"),
        ([{"name": "chrf", "version": True}], "has the version 1 here"),
        ([{"name": "chrf", "weight": "2"}], "weight must be a number"),
        ([{"name": "chrf", "weight": 0}], "greater than 0"),
        ([{"name": "chrf", "weight": float("nan")}], "weight must be a number"),
        ([{"name": "chrf", "weight": 1e9}], "at most 1000"),
        ([{"name": "chrf", "parameters": []}], "parameters must be an object"),
        ([{"name": "chrf", "parameters": {"n": 2}}], 'no parameter "n"; it has: none'),
        ([{"name": "regex"}], "pattern must not be null"),
        ([{"name": "regex", "parameters": {"pattern": "x" * 3000}}], "longer than 2,000"),
        ([{"name": "python"}], "function must not be null"),
        *(
            ([{"name": "python", "parameters": {"function": function}}], "must be <file>.py:<func")
            for function in ("grade:f", "a/grade.py:f", "../grade.py:f", ".py:f", "grade.py:f\n", 3)
        ),
        (
            [{"name": "python", "parameters": {"function": "a.py:f", "sha256": "a" * 63}}],
            "must be 64 hexadecimal digits",
        ),
        ([{"name": "json_schema", "parameters": {"schema": "x"}}], "must be an object"),
        ([{"name": "json_schema", "parameters": {"schema": NESTED}}], "longer than 100,000"),
        ([{"name": "numeric", "parameters": {"relative": 2}}], "at most 1"),
        (
            [{"name": "length", "parameters": {"min_tokens": 5, "max_tokens": 4}}],
            "min_tokens is greater",
        ),
        ([{"name": "chrf"}, {"name": "chrf", "weight": 2}], "scorer 2: chrf is chosen twice"),
    ],
)
def test_what_is_wrong_is_said(asked: Any, message: str):
    with pytest.raises(ValueError, match=message):
        choose(asked)


def test_a_parameter_may_be_as_long_as_the_limit_says_in_characters_of_any_script():
    for character in "xü雪":
        pattern = character * PATTERN_MAX_CHARACTERS
        choose([{"name": "regex", "parameters": {"pattern": pattern}}])
        with pytest.raises(ValueError, match="longer than 2,000 characters"):
            choose([{"name": "regex", "parameters": {"pattern": pattern + character}}])


def test_every_scorer_has_a_sentence_and_names_its_parameters():
    for name, scorer in SCORERS.items():
        assert scorer.name == name
        assert scorer.help.endswith(".")
        assert all(key == parameter.name for key, parameter in scorer.parameters.items())


def test_the_document_lists_them():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*?) \| (.*?)\|$", text, re.MULTILINE)
    assert documented == [
        (
            scorer.name,
            str(scorer.version),
            scorer.help,
            "".join(f"{name}, " for name in map("`{}`".format, scorer.parameters)).removesuffix(
                ", "
            )
            + (" " if scorer.parameters else ""),
        )
        for scorer in SCORERS.values()
    ]
