"""True and false, also as tables write them."""

from typing import Any


def verdict_of(value: Any) -> bool | None:
    """The value that is meant, or None."""
    if isinstance(value, bool):
        return value
    said = value.strip().lower() if isinstance(value, str) else ""
    return {"true": True, "false": False}.get(said)


def is_true(value: Any) -> bool:
    return verdict_of(value) is True
