"""Reading request bodies: bounded, strict JSON."""

from typing import Any

import orjson
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from tunixrt.refusals import TooLarge


def read_bounded(stream: Any, limit: int, declared: str | None) -> bytes:
    """Read a whole request body of at most ``limit`` bytes. Raises TooLarge before reading more
    than that."""
    if declared and declared.isdigit() and int(declared) > limit:
        raise TooLarge(limit)
    body = stream.read(limit + 1)
    if len(body) > limit:
        raise TooLarge(limit)
    return body


class JSONParser(BaseParser):
    """RFC 8259 JSON only: no NaN, no lone surrogates, no NUL characters (PostgreSQL cannot store
    them)."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        meta = parser_context["request"].META if parser_context else {}
        body = read_bounded(stream, settings.API_MAX_BODY_BYTES, meta.get("CONTENT_LENGTH"))
        return parse_json(body)


def parse_json(body: bytes) -> Any:
    """Parse one JSON text. Raises ParseError (400) saying where it breaks."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ParseError(f"Malformed JSON: {error}") from error
    if b"\\u0000" in body and _holds_nul(data):
        raise ParseError("NUL characters (\\u0000) cannot be stored; remove them.")
    return data


def _holds_nul(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if "\x00" in item:
                return True
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False
