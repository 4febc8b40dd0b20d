"""Recipes are read strictly, and what is wrong is named by its place."""

from typing import Any

import pytest

from datasets.cleaning.recipe import OPERATIONS, InvalidRecipe, check_parents, parse_recipe
from datasets.tests.deriving import chat, dataset_of, qa


def problems(value: Any) -> dict[str, Any]:
    with pytest.raises(InvalidRecipe) as refused:
        parse_recipe(value)
    return dict(refused.value.messages)


EVERY = {
    "merge": {},
    "mix": {"weights": {"a-v1": 1, "b-v1": 2.5}, "total": 100},
    "exact_duplicates": {"compare": "normalised", "keep": "longest"},
    "near_duplicates": {"threshold": 0.9, "ngram": 5, "compare": "question", "keep": "first"},
    "filter": {"where": "characters<100 -meta.source:web", "matching": "drop"},
    "length": {"of": "answer", "min": 1, "max": 100, "longer": "truncate"},
    "mask": {"kinds": ["email", "phone"]},
    "inline_reasoning": {},
    "map_fields": {"fields": {"meta.a": "meta.b", "meta.c": None}, "taken": "overwrite"},
    "sample": {"share": 0.5, "part": "train", "seed": 7},
    "resplit": {"held_out": 0.1, "by": "meta", "field": "source.name", "seed": 1},
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_read_and_written_the_same(operation: str) -> None:
    recipe = parse_recipe({"steps": [{"operation": operation} | EVERY[operation]]})
    written = recipe.as_json()
    assert written["steps"][0].items() >= EVERY[operation].items()
    assert parse_recipe(written) == recipe


@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        (None, "recipe", "not null"),
        ([], "recipe", "not a list"),
        ({}, "recipe.steps", "at least one"),
        ({"steps": []}, "recipe.steps", "at least one"),
        ({"steps": {}}, "recipe.steps", "at least one"),
        ({"steps": [{}] * 31}, "recipe.steps", "the limit is 30"),
        ({"steps": [{"operation": "sample", "n": 1}], "x": 1}, "recipe.x", "Unknown"),
        ({"steps": [7]}, "recipe.steps[0]", "not a number"),
        ({"steps": [{"operation": ["mask"]}]}, "recipe.steps[0].operation", "Must be one of"),
        ("{", "recipe", "line 1, column 2"),
        ("[" * 50_000, "recipe", "JSON"),
        ('{"steps": [{"operation": "sample", "n": 1, "n": 2}]}', "recipe", "twice"),
        ('{"steps": NaN}', "recipe", "JSON"),
        (" " * 100_001, "recipe", "limit"),
    ],
)
def test_recipes_of_another_form(value: Any, place: str, said: str) -> None:
    assert said in problems(value)[place][0]


@pytest.mark.parametrize(
    ("step", "field", "said"),
    [
        ({"operation": "near_duplicates", "threshold": 1.5}, "threshold", "between 0.5 and 1"),
        ({"operation": "near_duplicates", "threshold": True}, "threshold", "wrong"),
        ({"operation": "near_duplicates", "threshold": "0.8"}, "threshold", "wrong"),
        ({"operation": "near_duplicates", "ngram": 0}, "ngram", "between 1 and 20"),
        ({"operation": "near_duplicates", "kep": "first"}, "kep", "known are threshold, ngram"),
        ({"operation": "exact_duplicates", "keep": "last"}, "keep", "held_out, first, longest"),
        ({"operation": "filter"}, "where", "required"),
        ({"operation": "filter", "where": "   "}, "where", "empty"),
        ({"operation": "filter", "where": "colour:red"}, "where", "Character 1"),
        ({"operation": "filter", "where": "characters<many"}, "where", "Character 12"),
        ({"operation": "filter", "where": 'text:"open'}, "where", "never closed"),
        ({"operation": "filter", "where": "part:middle"}, "where", "train, held_out"),
        ({"operation": "filter", "where": "meta.level>high"}, "where", "no number"),
        ({"operation": "filter", "where": "a " * 1_500}, "where", "2,000 characters"),
        ({"operation": "filter", "where": "a " * 60}, "where", "50 conditions"),
        ({"operation": "length"}, "min", "Give min, max or both"),
        ({"operation": "length", "min": 9, "max": 3}, "min", "more than max"),
        ({"operation": "length", "min": 9, "longer": "truncate"}, "longer", "give max"),
        ({"operation": "mask", "kinds": []}, "kinds", "must be a list"),
        ({"operation": "mask", "kinds": ["name"]}, "kinds", "unknown"),
        ({"operation": "map_fields", "fields": {}}, "fields", "object"),
        ({"operation": "map_fields", "fields": {"prompt": "meta.a"}}, "fields", "field of meta"),
        ({"operation": "map_fields", "fields": {"meta.a": "prompt"}}, "fields", "must become"),
        (
            {"operation": "map_fields", "fields": {"meta.a": "meta.c", "meta.b": "meta.c"}},
            "fields",
            "twice",
        ),
        ({"operation": "sample"}, "n", "either n or share"),
        ({"operation": "sample", "n": 1, "share": 0.5}, "n", "either n or share"),
        ({"operation": "sample", "share": 1.0}, "share", "between"),
        ({"operation": "resplit", "held_out": 0.0}, "held_out", "between"),
        ({"operation": "resplit", "held_out": 0.1, "by": "meta"}, "field", "Name a field"),
        ({"operation": "resplit", "held_out": 0.1, "field": "a"}, "field", "only then"),
        ({"operation": "resplit", "held_out": 0.1, "by": "meta", "field": "a..b"}, "field", "name"),
        ({"operation": "mix", "weights": {}}, "weights", "object"),
        ({"operation": "mix", "weights": {"a-v1": 0}}, "weights", "between"),
        ({"operation": "mix", "weights": {"a-v1": float("nan")}}, "weights", "between"),
        ({"operation": "mix", "weights": {"a-v1": "1"}}, "weights", "no number"),
        ({"operation": "mix", "weights": {"a-v1": 1}, "total": 10**9}, "total", "between"),
    ],
)
def test_wrong_parameters_are_named(step: dict[str, Any], field: str, said: str) -> None:
    found = problems({"steps": [{"operation": "sample", "n": 1}, step]})
    assert said in found[f"recipe.steps[1].{field}"][0]


def test_every_fault_is_named_at_once() -> None:
    found = problems({"steps": [{"operation": "sample"}, {"operation": "mask", "kinds": 1}, 3]})
    assert sorted(found) == ["recipe.steps[0].n", "recipe.steps[1].kinds", "recipe.steps[2]"]


def test_combining_comes_first() -> None:
    found = problems({"steps": [{"operation": "sample", "n": 1}, {"operation": "merge"}]})
    assert "first step" in found["recipe.steps[1].operation"][0]


@pytest.mark.django_db
def test_parents_must_fit() -> None:
    one = dataset_of(qa("a"), name="one")
    two = dataset_of(qa("b"), name="two")
    talk = dataset_of(chat("a", "b"), name="talk")
    merge = {"operation": "merge"}
    sample = {"operation": "sample", "n": 1}
    mix = {"operation": "mix", "weights": {"one-v1": 1, "three-v1": 1}}
    for steps, parents, place, said in (
        ([sample], [], "parents", "1 to 20"),
        ([merge], [one] * 2, "parents", "twice"),
        ([merge], [one], "parents", "at least two"),
        ([merge], [one, talk], "parents", "one kind"),
        ([sample], [one, two], "recipe.steps[0].operation", "merge or mix"),
        ([mix], [one, two], "recipe.steps[0].weights", "two-v1 has no weight"),
    ):
        with pytest.raises(InvalidRecipe) as refused:
            check_parents(parse_recipe({"steps": steps}), parents)
        assert said in refused.value.messages[place][0]
