"""Recipes: lists of operations as JSON, read strictly.

{"steps": [{"operation": "exact_duplicates"}, {"operation": "sample", "n": 1000}]}
"""

import json
from dataclasses import dataclass
from typing import Any

from datasets.cleaning.choosing import Filter, Resplit, Sample
from datasets.cleaning.combining import PARENTS_MAX, Merge, Mix
from datasets.cleaning.duplicates import ExactDuplicates, NearDuplicates
from datasets.cleaning.operation import Operation
from datasets.cleaning.rewriting import InlineReasoning, Length, MapFields, Mask
from datasets.examples.schema import RepeatedKey, json_kind, without_repeats
from datasets.models import Dataset
from tunixrt.reading import Errors, try_body
from tunixrt.refusals import Conflict, Refusal

STEPS_MAX = 30
RECIPE_MAX = 100_000  # characters of its JSON
_ALL: tuple[type[Operation], ...] = (
    Merge, Mix, ExactDuplicates, NearDuplicates, Filter, Length, Mask, InlineReasoning, MapFields,
    Sample, Resplit,
)  # fmt: skip
OPERATIONS: dict[str, type[Operation]] = {
    model.model_fields["operation"].default: model for model in _ALL
}


class SealedParent(Conflict):
    """No dataset is made of a sealed one: its examples would be read, and trained on."""

    def __init__(self, key: str):
        super().__init__(
            f"Dataset {key} is sealed: no dataset is made of it. An operator can unseal it."
        )


class InvalidRecipe(Refusal):
    """``messages``: the place in the recipe, such as ``recipe.steps[0].threshold`` → what is wrong
    with it."""

    code = "invalid_recipe"


@dataclass(frozen=True)
class Recipe:
    steps: tuple[Operation, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the recipe with every parameter, including those that were left out."""
        return {"steps": [step.model_dump(mode="json") for step in self.steps]}


def parse_recipe(value: Any) -> Recipe:
    """Read a recipe: an object, or its JSON text. Raise InvalidRecipe with every fault and its
    place."""
    if isinstance(value, str):
        value = _read_json(value)
    if not isinstance(value, dict):
        raise _wrong("recipe", f"Must be an object with steps, not {json_kind(value)}.")
    errors: Errors = {f"recipe.{str(name)[:80]}": ["Unknown field."] for name in list(value)[:20]}
    errors.pop("recipe.steps", None)
    given = value.get("steps")
    if not isinstance(given, list) or not given:
        errors["recipe.steps"] = ["Must be a list of at least one step."]
        raise InvalidRecipe(messages=errors)
    if len(given) > STEPS_MAX:
        errors["recipe.steps"] = [f"Has {len(given):,} steps; the limit is {STEPS_MAX}."]
        raise InvalidRecipe(messages=errors)
    steps: list[Operation] = []
    for place, step in enumerate(given):
        read, problems = _read_step(step)
        if read is not None and read.combines and place:
            problems = {"operation": [f"{read.operation} can only be the first step."]}
        where = f"recipe.steps[{place}]"
        errors |= {
            f"{where}.{name}".removesuffix(".non_field_errors"): said
            for name, said in problems.items()
        }
        if read is not None:
            steps.append(read)
    if errors:
        raise InvalidRecipe(messages=errors)
    return Recipe(tuple(steps))


def _read_step(step: Any) -> tuple[Operation | None, Errors]:
    if not isinstance(step, dict):
        return None, {"non_field_errors": [f"Must be an object, not {json_kind(step)}."]}
    name = step.get("operation")
    model = OPERATIONS.get(name) if isinstance(name, str) else None
    if model is None:
        return None, {"operation": [f"Must be one of {', '.join(OPERATIONS)}."]}
    known = ", ".join(field for field in model.model_fields if field != "operation") or "none"
    read, errors = try_body(
        model, step, unknown=lambda field: f"Unknown field; known are {known}.", named=20
    )
    if read is not None:
        errors = read.problems()
    return (None if errors else read), errors


def _read_json(text: str) -> Any:
    if len(text) > RECIPE_MAX:
        raise _wrong("recipe", f"Has {len(text):,} characters; the limit is {RECIPE_MAX:,}.")
    try:
        return json.loads(text, object_pairs_hook=without_repeats, parse_constant=_no_constant)
    except RepeatedKey as error:
        raise _wrong("recipe", f"An object {error}.") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _wrong("recipe", f"Is not JSON: {error.msg} ({place}).") from error
    except (ValueError, RecursionError) as error:
        raise _wrong("recipe", "Is not JSON that can be read.") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _wrong(place: str, reason: str) -> InvalidRecipe:
    return InvalidRecipe(messages={place: [reason]})


def check_parents(recipe: Recipe, parents: list[Dataset]) -> None:
    """Raise InvalidRecipe if the recipe cannot be followed with these datasets, SealedParent if one
    of them is sealed."""
    for parent in parents:
        if parent.sealed_at is not None:
            raise SealedParent(parent.dataset_key)
    keys = [parent.dataset_key for parent in parents]
    first = recipe.steps[0]
    errors: Errors = {}
    if not 1 <= len(parents) <= PARENTS_MAX:
        errors["parents"] = [f"Must be 1 to {PARENTS_MAX} datasets, not {len(parents)}."]
    elif len(set(keys)) < len(keys):
        errors["parents"] = ["Names a dataset twice. Weights of mix make one count more."]
    elif len(kinds := {parent.kind for parent in parents}) > 1:
        errors["parents"] = [f"A dataset has examples of one kind, not {', '.join(sorted(kinds))}."]
    elif len(parents) > 1 and not first.combines:
        errors["recipe.steps[0].operation"] = [
            f"Several datasets are first made into one: the first step must be merge or mix, not"
            f" {first.operation}."
        ]
    elif len(parents) == 1 and first.combines:
        errors["parents"] = [f"{first.operation} needs at least two datasets."]
    elif isinstance(first, Mix):
        found = first.problems_with(parents)
        errors |= {f"recipe.steps[0].{name}": said for name, said in found.items()}
    if errors:
        raise InvalidRecipe(messages=errors)
