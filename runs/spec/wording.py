"""Values as messages show them, in the same words on every page, in the API and on the command
line. Plain Python: the training program uses it too."""

import json
from typing import Any

SHOWN_CHARACTERS = 80


def shortened(text: str) -> str:
    """Return ``text`` as a message shows it: of long text the beginning."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def number_text(value: float) -> str:
    """Return a number as a message says it: ``100,000,000``, ``0.00002``, never ``1e+08``."""
    text = f"{value:,.15g}"
    return f"{value:,.20f}".rstrip("0").rstrip(".") if "e" in text and abs(value) < 1 else text


def value_text(value: Any) -> str:
    """Return a value as a message shows it: as it stands in a request, ``true`` and not
    ``True``."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)  # YAML knows dates
    except (
        ValueError,
        RecursionError,
    ):  # a number of more than 4,300 digits; lists in lists in lists
        return "this"
    return shortened(
        "".join(
            one if one.isprintable() else f"\\u{ord(one):04x}"
            for one in text[: SHOWN_CHARACTERS + 1]
        )
    )


NUMBER_HINT = "write it without quotes, with a point for decimals, as in 0.0001"


def not_a_number(value: Any, *, whole: bool) -> str:
    """Return what ``value`` should have been instead: ``must be a number, not "0,0001": write
    …``."""
    hint = NUMBER_HINT if not whole else "write digits without quotes and separators"
    said = f"must be a {'whole ' if whole else ''}number, not {value_text(value)}"
    return f"{said}: {hint}" if isinstance(value, str) else said
