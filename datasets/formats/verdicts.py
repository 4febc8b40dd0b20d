"""True and false, also as tables write them."""

from typing import Any

from datasets.formats.lines import Line, LineError


def verdict_of(value: Any) -> bool | None:
    """Return the verdict that a value stands for, or None. 1 and 0 are treated as true and
    false."""
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    said = value.strip().lower() if isinstance(value, str) else ""
    return {"true": True, "false": False, "1": True, "0": False}.get(said)


def is_true(value: Any) -> bool:
    return verdict_of(value) is True


# Whether NuminaMath 1.5 takes a problem and its solution for valid: Yes, or what is wrong.
VALIDITY = ("problem_is_valid", "solution_is_valid")


def check_valid(line: Line, *names: str) -> None:
    """Raise LineError for what the dataset itself takes for wrong."""
    for name in names:
        value = line.get(name)
        if value not in (None, "", "Yes") and not is_true(value):
            raise LineError(f"{name}: is {str(value)[:60]!r}, not 'Yes'; leave the line out")
