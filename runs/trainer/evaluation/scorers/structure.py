"""Outputs that are documents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from runs.trainer.evaluation.scorers.item import CannotScore, Item

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)


def json_schema(*, schema: dict[str, Any]) -> Callable[[Item], float]:
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise CannotScore(f"the schema is no JSON Schema: {error.message}") from error
    # with a registry of its own: the default one fetches what a $ref names
    validator = Draft202012Validator(schema, registry=Registry())

    def score(item: Item) -> float:
        fenced = _FENCE.fullmatch(item.text)
        try:
            document = json.loads(fenced[1] if fenced else item.text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        try:
            return float(validator.is_valid(document))
        except Unresolvable as error:
            raise CannotScore(
                f"the schema refers to something it does not hold: {error}"
            ) from error

    return score


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
