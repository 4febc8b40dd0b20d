"""Fields of meta by their names: ``source.name`` is the field ``name`` of the object ``source``."""

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from datasets.examples.schema import json_kind, text_problem

PATH_MAX = 200  # characters


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"This field must be text, not {json_kind(value)}.")
    if not value or len(value) > PATH_MAX:
        raise ValueError(f"This field must have 1 to {PATH_MAX} characters.")
    if problem := text_problem(value, required=True):
        raise ValueError(problem)
    if any(not name for name in value.split(".")):
        raise ValueError("This field must name fields of meta, with a point between them.")
    return value.removeprefix("meta.")


MetaPath = Annotated[
    str,
    PlainValidator(_path),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": PATH_MAX}),
]


def at(meta: Any, path: str) -> tuple[bool, Any]:
    """Return whether there is such a field, and its value. Names may contain dots themselves."""
    value = meta
    while True:
        if not isinstance(value, dict):
            return False, None
        if path in value:
            return True, value[path]
        name, point, path = path.partition(".")
        if not point or name not in value:
            return False, None
        value = value[name]
