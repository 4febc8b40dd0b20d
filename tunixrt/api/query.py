"""Query parameters and ids in paths: read strictly, refused with 422 and the parameter's name.

A query is a model (tunixrt/reading.py) whose fields are annotated with ``whole``, ``choice``,
``text`` or ``read_by``: how the text is read, and how it is described.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.http import QueryDict
from pydantic_core import CoreSchema, core_schema
from rest_framework.request import Request

from tunixrt import reading
from tunixrt.reading import M, Model
from tunixrt.refusals import InvalidQuery

OFFSET_MAX = 2**63 - 1
TEXT_MAX_LENGTH = 256
CURSOR = "``next_cursor`` of the page before; any depth costs what the first page costs."


class NoQuery(Model):
    """No parameter is known here."""


def read_query(model: type[M], request: Request) -> M:
    """Return the query of a request. Raise InvalidQuery (422)."""
    query: QueryDict = request.query_params
    return reading.read_query(model, query)


def parse_uuid(text: str, name: str) -> uuid.UUID:
    """Return a UUID of a path in its canonical form of 36 characters. Raise InvalidQuery (422)."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text.lower():
        raise InvalidQuery({name: [f"{text[:64]!r} is not a UUID of 36 characters."]})
    return parsed


@dataclass(frozen=True)
class Parsed:
    """Annotate a field with it to read text with ``parse``, which raises ValueError with a
    sentence. ``schema`` is the JSON Schema of the text."""

    parse: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


def whole(minimum: int, maximum: int) -> Parsed:
    """Read a whole number within bounds."""
    return Parsed(
        partial(parse_whole_number, minimum=minimum, maximum=maximum),
        {"type": "integer", "minimum": minimum, "maximum": maximum},
    )


def choice(choices: Iterable[str]) -> Parsed:
    """Read one of a few words."""
    names = list(choices)
    return Parsed(parse_choice(names), {"type": "string", "enum": names})


def read_by(parse: Callable[[str], Any], **schema: Any) -> Parsed:
    """Read text with ``parse``."""
    return Parsed(parse, {"type": "string", **schema})


def parse_whole_number(text: str, minimum: int, maximum: int) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
        raise ValueError("must be a whole number.")
    number = int(text)
    if not minimum <= number <= maximum:
        raise ValueError(f"must lie between {minimum} and {maximum}.")
    return number


def parse_choice(choices: list[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}.")
        return text

    return parse


def parse_text(text: str) -> str:
    if len(text) > TEXT_MAX_LENGTH:
        raise ValueError(f"must have at most {TEXT_MAX_LENGTH} characters.")
    return text


text = read_by(parse_text, maxLength=TEXT_MAX_LENGTH)
