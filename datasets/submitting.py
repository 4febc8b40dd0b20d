"""Asking for work on datasets that a process of its own does (datasets/imports.py)."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from django.contrib.auth.models import User

from datasets.cleaning.recipe import Recipe, check_parents
from datasets.models import Dataset, Import
from datasets.services import check_identity
from tunixrt.refusals import NotHere

WORK = "datasets.imports"


def submit_derivation(
    *,
    recipe: Recipe,
    parents: Sequence[Dataset],
    name: str,
    version: str,
    description: str,
    by: User,
) -> Import:
    """Have a dataset made of ``parents`` by ``recipe``. Raises InvalidRecipe, InvalidDataset,
    DatasetExists."""
    check_parents(recipe, list(parents))
    check_identity(name=name, version=version, description=description)
    made: Import = _work("submit_derivation")(
        recipe=recipe.as_json(),
        parents=list(parents),
        name=name,
        version=version,
        description=description,
        by=by,
    )
    return made


def submit_overlap(*, dataset: Dataset, other: Dataset, by: User) -> Import:
    """Have the overlap of two datasets computed."""
    made: Import = _work("submit_overlap")(dataset=dataset, other=other, by=by)
    return made


def _work(name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(WORK), name)
    except (ImportError, AttributeError) as error:
        raise NotHere(
            "This server cannot start such work on datasets by itself; use manage.py."
        ) from error
    return found
