"""One line of JSON Lines, and why it cannot be read."""

import json
from typing import Any

import orjson

from datasets.examples.schema import RepeatedKey, json_kind, without_repeats
from tunixrt.readable import is_blank

REASON_MAX_CHARACTERS = 300


class LineError(ValueError):
    """Why one line cannot be read; at most ``REASON_MAX_CHARACTERS``, whatever the line
    contains. ``text``: the line, if it is not even JSON."""

    text: str | None = None

    def __init__(self, reason: str):
        super().__init__(
            reason
            if len(reason) <= REASON_MAX_CHARACTERS
            else f"{reason[: REASON_MAX_CHARACTERS - 2]} …"
        )


def parse_line(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of one line. Raise LineError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise LineError(f"is not valid UTF-8 at byte {error.start + 1} of the line") from error
    try:
        value = orjson.loads(text)
        if not isinstance(value, dict):
            hint = (
                "; write one object a line, without a list around them"
                if isinstance(value, list)
                else ""
            )
            raise LineError(f"is {json_kind(value)}, not an object{hint}")
        # orjson is strict about everything but keys that come twice.
        if not _has_all_quotes(raw, value):
            json.loads(text, object_pairs_hook=without_repeats)
    except orjson.JSONDecodeError as error:
        raise LineError(_json_reason(error, text)) from error
    except RepeatedKey as error:
        raise LineError(str(error)) from error
    except RecursionError as error:
        raise LineError("is nested too deeply") from error
    return value


def _has_all_quotes(raw: bytes, value: Any) -> bool:
    """Return whether no key can have come twice, since as many quotes are left as were read.

    An escaped quote (``\\u0022``) could stand for one that is lost. The check of every key takes
    ten times as long.
    """
    if b"\\u" in raw:
        return False
    try:
        return orjson.dumps(value).count(b'"') == raw.count(b'"')
    except TypeError:  # nested too deeply
        return False


def _json_reason(error: orjson.JSONDecodeError, text: str) -> str:
    rest = text[error.pos :].lstrip("-")
    if rest.startswith(("NaN", "Infinity")):
        return f"is not JSON: NaN and Infinity are no JSON numbers (character {error.pos + 1})"
    if error.msg.startswith("depth limit"):
        return "is nested too deeply"
    if "surrogate" in error.msg:
        return f"holds half a character, a lone surrogate (character {error.pos + 1})"
    if error.msg.startswith("number is infinity"):
        return f"holds a number too large for any reader (character {error.pos + 1})"
    return f"is not JSON: {error.msg} (character {error.pos + 1})"


Line = dict[str, Any]


def plain_text(line: Line, *names: str) -> list[str]:
    """Take text fields out of a line. Raise LineError where one is missing, blank or no text."""
    if missing := [name for name in names if name not in line]:
        raise LineError(f"{', '.join(missing)}: is missing")
    texts = [line.pop(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise LineError(f"{name}: must be text, not {json_kind(text)}")
        if is_blank(text):
            raise LineError(f"{name}: must not be blank")
    return texts


def take_text(line: Line, name: str) -> str:
    """Take a text field out of a line that may be missing, null or blank: then it is empty. Raise
    LineError."""
    text = line.pop(name, None)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise LineError(f"{name}: must be text, not {json_kind(text)}")
    return "" if is_blank(text) else text
