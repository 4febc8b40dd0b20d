"""Reading request bodies: bounded, strict JSON."""

import json
from collections import Counter
from typing import Any

import orjson
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from tunixrt.refusals import TooLarge, shorten


def read_bounded(stream: Any, limit: int, declared: str | None) -> bytes:
    """Read a whole request body of at most ``limit`` bytes. Raise TooLarge before reading more than
    that."""
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
        body = read_bounded(stream, settings.TUNIXRT_API_MAX_BODY_BYTES, meta.get("CONTENT_LENGTH"))
        return parse_json(body)


def parse_json(body: bytes) -> Any:
    """Parse one JSON text. Raise ParseError (400) saying where it breaks."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ParseError(f"Malformed JSON: {error}") from error
    _require_unique_keys(body)
    if b"\\u0000" in body and _holds_nul(data):
        raise ParseError("NUL characters (\\u0000) cannot be stored; remove them.")
    return data


KEYS_CHECKED_BYTES = 256 * 1024


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ParseError(f"The key {shorten(repr(twice))} is given twice.")


# Only names are looked at, so no number is converted.
_keys = json.JSONDecoder(object_pairs_hook=_unique, parse_int=len, parse_float=len)


def _require_unique_keys(body: bytes) -> None:
    """Refuse what orjson accepts: it takes the last value of a key that is given twice.

    Longer bodies are lists of traces. Reading five megabytes of brackets a second time would take
    a hundred megabytes of memory once more.
    """
    if len(body) > KEYS_CHECKED_BYTES:
        return
    try:
        _keys.decode(body.decode())
    except RecursionError as error:
        raise ParseError("Malformed JSON: it is nested too deeply.") from error


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
