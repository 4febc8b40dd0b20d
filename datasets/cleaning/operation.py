"""What every operation of a recipe has, and what it reports."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets.cleaning.items import Item, Work
from tunixrt.reading import Errors, Model
from tunixrt.refusals import shorten

SHOWN = 10  # examples of what a step changed or left out
SHOWN_CHARACTERS = 300
REASONS_MAX = 100


@dataclass
class StepReport:
    """What a step did. ``examples``: the first that it left out or changed."""

    operation: str
    parameters: dict[str, Any]
    parents: list[str]
    came: int = 0
    left_out: int = 0
    changed: int = 0
    went: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def leave_out(self, item: Item, reason: str, detail: str = "") -> None:
        self.left_out += 1
        self._say(item, "left out", reason, detail, item.example.prompt)

    def change(self, item: Item, reason: str, detail: str = "", *, text: str | None = None) -> None:
        """Count a change. ``text``: what is shown of the example as it is now."""
        self.changed += 1
        self._say(item, "changed", reason, detail, item.example.prompt if text is None else text)

    def _say(self, item: Item, what: str, reason: str, detail: str, text: str) -> None:
        if reason in self.reasons or len(self.reasons) < REASONS_MAX:
            self.reasons[reason] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(
                {
                    "dataset": self.parents[item.parent],
                    "position": item.position,
                    "what": what,
                    "reason": reason,
                    "detail": shorten(detail, SHOWN_CHARACTERS),
                    "text": shorten(text, SHOWN_CHARACTERS),
                }
            )

    def place(self, item: Item) -> str:
        return f"example {item.position + 1:,} of {self.parents[item.parent]}"

    def as_dict(self, *, texts: bool = True) -> dict[str, Any]:
        examples = self.examples
        if not texts:
            examples = [
                {name: said for name, said in row.items() if name not in ("text", "detail")}
                for row in examples
            ]
        return {
            "operation": self.operation,
            "parameters": self.parameters,
            "came": self.came,
            "left_out": self.left_out,
            "changed": self.changed,
            "went": self.went,
            "reasons": dict(self.reasons),
            "notes": self.notes,
            "examples": examples,
        }


class Operation(Model):
    """A step of a recipe: its fields are the parameters.

    ``combines``: it makes one stream of several datasets, so it can only be the first step.
    """

    operation: str
    title: ClassVar[str] = ""
    combines: ClassVar[bool] = False

    def problems(self) -> Errors:
        """Return what is wrong with the parameters together."""
        return {}

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        raise NotImplementedError
