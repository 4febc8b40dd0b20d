"""What a scorer is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class CannotScore(ValueError):
    """An item that a scorer cannot judge; the message says why. It counts as failed, never as
    wrong."""


@dataclass(frozen=True)
class Item:
    """An output and what it is compared with.

    ``text``: the output without control tokens. ``tokens``: its length. ``reference``: the answer
    that is expected. ``columns``: the further columns of the example.
    """

    text: str
    tokens: int = 0
    reference: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """The reference answer. Raise CannotScore where there is none."""
        if self.reference is None or not self.reference.strip():
            raise CannotScore("the example has no reference answer")
        return self.reference


def last_line(text: str) -> str:
    """Return the last line that is not blank, without blanks around it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
