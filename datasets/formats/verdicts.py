"""True and false, also as tables write them."""

from typing import Any


def verdict_of(value: Any) -> bool | None:
    """The value that is meant, or None. 1 and 0 count as true and false."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    said = value.strip().lower() if isinstance(value, str) else ""
    return {"true": True, "false": False, "1": True, "0": False}.get(said)


def is_true(value: Any) -> bool:
    return verdict_of(value) is True
