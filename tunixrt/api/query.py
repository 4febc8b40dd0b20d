"""Query parameters: read strictly, refused with 422 and the parameter's name."""

import uuid
from collections.abc import Callable
from typing import Any

from django.http import QueryDict

from tunixrt.refusals import InvalidQuery

OFFSET_MAX = 2**63 - 1
TEXT_MAX_LENGTH = 256


def parse_uuid(text: str, name: str) -> uuid.UUID:
    """A UUID of a path in its canonical form of 36 characters. Raises InvalidQuery (422)."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text.lower():
        raise InvalidQuery({name: [f"{text[:64]!r} is not a UUID of 36 characters."]})
    return parsed


class QueryReader:
    """Takes parameters out of a query string and collects what is wrong with them."""

    def __init__(self, query: QueryDict):
        self.query = query
        self.seen: set[str] = {"format"}  # DRF's own
        self.errors: dict[str, list[str]] = {}

    def take(self, name: str, parse: Callable[[str], Any], default: Any = None) -> Any:
        """The parsed parameter, or ``default`` where it is absent or empty. ``parse`` raises
        ValueError with a sentence."""
        self.seen.add(name)
        text = self.query.get(name, "")
        if text == "":
            return default
        try:
            if "\x00" in text:
                raise ValueError("must not hold NUL characters.")
            return parse(text)
        except ValueError as error:
            self.errors.setdefault(name, []).append(str(error))
            return default

    def whole_number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        return self.take(name, lambda text: parse_whole_number(text, minimum, maximum), default)

    def finish(self) -> None:
        """Raises InvalidQuery for what was wrong, and for parameters nobody knows."""
        for name in sorted(set(self.query) - self.seen):
            self.errors[name] = ["is not a known parameter."]
        if self.errors:
            raise InvalidQuery(self.errors)


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
