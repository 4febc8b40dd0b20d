"""Read what clients send: one model describes a body or a query, checks it, and documents it.

A model is a pydantic class. ``read_body`` and ``read_query`` turn what came into an instance of it
or raise a refusal that names every wrong field; tunixrt/api/schema.py makes the OpenAPI document
from the same models. Types are strict: ``"3"`` is not a number, ``1`` is not a boolean.

docs/adr/0010-one-reader.md says why pydantic, with the measurements.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from django.http import QueryDict
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tunixrt.refusals import InvalidQuery, Refusal, shorten

NAMED_FIELDS = 50  # unknown fields that an answer names
NAME_SHOWN = 80
UNKNOWN = "Unknown field."
NOT_AN_OBJECT = "The request must be a JSON object."
UNSTORABLE = "This field holds characters that cannot be stored (NUL or half a surrogate pair)."
UNSTORABLE_TEXT = re.compile("[\x00\ud800-\udfff]")

Errors = dict[str, list[str]]
Say = Callable[[str, ErrorDetails], str | None]


class Model(BaseModel):
    """What a body or a query may hold. Validation is strict, and nothing else is allowed."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True
    )


M = TypeVar("M", bound=Model)


def storable(text: str) -> str:
    """Return ``text``. Raise ValueError if a database cannot store it."""
    if UNSTORABLE_TEXT.search(text):
        raise ValueError(UNSTORABLE)
    return text


# --- bodies ---------------------------------------------------------------------------------------


def read_body(model: type[M], data: Any, *, named: int = NAMED_FIELDS) -> M:
    """Return ``data`` as an instance of ``model``. Raise Refusal (400) with all that is wrong."""
    if not isinstance(data, dict):
        raise Refusal(messages={"non_field_errors": [NOT_AN_OBJECT]})
    value, errors = try_body(model, data, named=named)
    if value is None:
        raise Refusal(messages=errors)
    return value


def try_body(
    model: type[M],
    data: dict[Any, Any],
    *,
    context: Any = None,
    unknown: Callable[[str], str] = lambda name: UNKNOWN,
    say: Say | None = None,
    named: int = NAMED_FIELDS,
) -> tuple[M | None, Errors]:
    """Return an instance, or None and what is wrong with each field.

    Unknown fields get the sentence of ``unknown``, the first ``named`` of them by name; ``say`` may
    have a sentence of its own for a field.
    """
    errors: Errors = {}
    fields = model.model_fields
    if strangers := data.keys() - fields.keys():
        errors = _unknown_fields(strangers, unknown, named)
        data = {name: value for name, value in data.items() if name in fields}
    try:
        value = model.model_validate(data, context=context)
    except ValidationError as error:
        return None, error_messages(error, model, say) | errors
    return (None, errors) if errors else (value, errors)


def _unknown_fields(names: Iterable[Any], unknown: Callable[[str], str], named: int) -> Errors:
    """Return a message for each of the first names, and how many more there are."""
    ordered = sorted(map(str, names))
    errors = {shorten(name, NAME_SHOWN): [unknown(name)] for name in ordered[:named]}
    more = len(ordered) - named
    if more > 0:
        errors["non_field_errors"] = [f"{more:,} more unknown fields."]
    return errors


def error_messages(error: ValidationError, model: type[Model], say: Say | None = None) -> Errors:
    """Return what is wrong with each field, in sentences."""
    found: Errors = {}
    for details in error.errors(include_url=False):
        name = str(details["loc"][0]) if details["loc"] else "non_field_errors"
        if name not in found:
            sentence = (say and say(name, details)) or error_message(details, name, model)
            found[name] = [sentence]
    return found


def error_message(details: ErrorDetails, name: str, model: type[Model]) -> str:
    """Return what is wrong with one field, in a sentence."""
    value, limits = details["input"], details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return str(limits["error"])
        case "missing":
            return "This field is required."
        case "string_type" | "none_required" if value is None:
            return "This field may not be null."
        case "string_type":
            return "This field must be text."
        case "string_unicode":
            return UNSTORABLE
        case "string_too_short":
            return "This field may not be empty."
        case "string_too_long":
            return f"This field has at most {limits['max_length']} characters, not {len(value)}."
        case "bool_type":
            return "This field must be true or false."
        case "literal_error":
            choices = _property(model, name).get("enum") or [_property(model, name).get("const")]
            return f"This field must be one of {', '.join(map(str, choices))}."
        case "list_type":
            return "This field must be a list."
        case "greater_than_equal" | "less_than_equal":
            bounds = _property(model, name)
            low, high = bounds["minimum"], bounds["maximum"]
            return f"This field must lie between {low:,.15g} and {high:,.15g}."
    return f"This field is wrong: {details['msg']}."


@cache
def _properties(model: type[Model]) -> dict[str, dict[str, Any]]:
    return dict(model.model_json_schema().get("properties", {}))


def _property(model: type[Model], name: str) -> dict[str, Any]:
    """Return the schema of one field; of one that may be null, of its value."""
    found = _properties(model)[name]
    return next((one for one in found.get("anyOf", ()) if one.get("type") != "null"), found)


# --- queries --------------------------------------------------------------------------------------


def read_query(model: type[M], query: QueryDict) -> M:
    """Return a query string as an instance of ``model``: of each parameter the last value, of lists
    all values; an empty value is no value. Raise InvalidQuery (422) with all that is wrong."""
    fields = _properties(model)
    given: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name in query:
        if name in fields:
            values = [value for value in query.getlist(name) if value]
            if any("\x00" in value for value in values):
                errors[name] = ["must not hold NUL characters."]
            elif values and query[name]:
                given[name] = values if fields[name].get("type") == "array" else query[name]
        elif name != "format":  # that is DRF's own
            errors[name] = ["is not a known parameter."]
    try:
        value = model.model_validate(given)
    except ValidationError as error:
        errors = error_messages(error, model) | errors
    else:
        if not errors:
            return value
    raise InvalidQuery({name: errors[name] for name in sorted(errors)})
