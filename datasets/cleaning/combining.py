"""One dataset of several: one after another, or mixed by weights.

An example that is held out in one of them and to be learnt in another stays held out only: a model
would otherwise be evaluated on what it has learnt.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from datasets.cleaning.items import Item, Work
from datasets.cleaning.operation import Operation, StepReport
from datasets.cleaning.scratch import scratch
from datasets.examples.schema import json_kind
from datasets.models import Dataset, Split
from tunixrt.reading import Errors
from tunixrt.refusals import Refusal

PARENTS_MAX = 20
TOTAL_MAX = 10_000_000
_BOTH = "held out in another of the datasets"


class NothingToMix(Refusal):
    code = "nothing_to_mix"


class Merge(Operation):
    """All examples of the datasets, one dataset after another."""

    title: ClassVar = "Merge"
    combines: ClassVar = True
    operation: Literal["merge"] = "merge"

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        with _HeldOut(work) as held_out:
            for item in items:
                if item.split == Split.TRAIN and held_out.holds(item):
                    report.leave_out(item, _BOTH)
                else:
                    yield item


def _weights(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise ValueError(
            "This field must be an object: the key of each dataset and its weight, such as"
            ' {"sums-v1": 3, "chats-v2": 1}.'
        )
    for key, weight in value.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ValueError(f"The weight of {str(key)[:100]} is {json_kind(weight)}, no number.")
        if not 1e-6 <= weight <= 1e6:
            raise ValueError(
                f"The weight of {str(key)[:100]} must lie between 0.000001 and 1,000,000."
            )
    return {str(key): float(weight) for key, weight in value.items()}


Weights = Annotated[
    dict[str, float],
    PlainValidator(_weights),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    ),
]


class Mix(Operation):
    """Training examples of the datasets by weights, evenly interleaved; then their held-out
    examples, each once.

    With ``total``, a dataset that is used up begins again from its first example. Without it, the
    mixture ends when the first dataset is used up.
    """

    title: ClassVar = "Mix by weights"
    combines: ClassVar = True
    operation: Literal["mix"] = "mix"
    weights: Weights = Field(description="The key of each dataset, and its weight.")
    total: int | None = Field(
        None,
        ge=1,
        le=TOTAL_MAX,
        description="Training examples in all; null: until the first dataset is used up.",
    )

    def problems_with(self, parents: list[Dataset]) -> Errors:
        """Return what is wrong with the weights of these datasets."""
        keys = [parent.dataset_key for parent in parents]
        errors = [f"{key} has no weight." for key in keys if key not in self.weights]
        errors += [
            f"{key[:100]} is none of the datasets." for key in self.weights if key not in keys
        ]
        return {"weights": errors[:20]} if errors else {}

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        """Yield the mixture. ``items`` is not read: the mixture reads each dataset on its own."""
        weights = [self.weights[parent.dataset_key] for parent in work.parents]
        shares = [weight / sum(weights) for weight in weights]
        taken = [0] * len(shares)
        total = None if self.total is None else max(1, round(self.total * work.fraction))
        with _HeldOut(work) as held_out:
            sources = [
                _Source(work, parent, held_out, report, repeats=total is not None)
                for parent in range(len(shares))
            ]
            made = 0
            while (total is None or made < total) and not work.is_cut:
                # the one that is furthest behind its share; of equals the first
                number = max(
                    range(len(shares)),
                    key=lambda place: (shares[place] * (made + 1) - taken[place], -place),
                )
                item = sources[number].next()
                if item is None:
                    break
                taken[number] += 1
                made += 1
                yield item
            report.came = sum(source.examples for source in sources)
            report.notes["training_examples"] = {
                parent.dataset_key: {"taken": taken[number], "times_begun": sources[number].rounds}
                for number, parent in enumerate(work.parents)
            }
            for source in sources:
                source.close()
            for parent in range(len(shares)):
                for item in work.items(parent, split=Split.HELD_OUT):
                    report.came += 1
                    yield item


class _Source:
    """The training examples of a dataset, again from the first one where it ``repeats``."""

    def __init__(
        self, work: Work, parent: int, held_out: "_HeldOut", report: StepReport, *, repeats: bool
    ):
        self._work, self._parent, self._held_out = work, parent, held_out
        self._report, self._repeats = report, repeats
        self.examples = 0  # different places that were read
        self.rounds = 0
        self._begin()

    def _begin(self) -> None:
        self._items = self._work.items(self._parent, split=Split.TRAIN, again=self.rounds > 0)
        self.rounds += 1

    def next(self) -> Item | None:
        found = False
        while True:
            for item in self._items:
                if self.rounds == 1:
                    self.examples += 1
                if not self._held_out.holds(item):
                    return item
                if self.rounds == 1:
                    self._report.leave_out(item, _BOTH)
            if not self._repeats:
                return None
            if found:
                key = self._work.parents[self._parent].dataset_key
                raise NothingToMix(f"{key} has no training example to mix.")
            found = True
            self._begin()

    def close(self) -> None:
        self._items = iter(())


class _HeldOut:
    """The examples that are held out in any of several datasets."""

    def __init__(self, work: Work):
        self._work = work
        self._scratch = scratch()
        self._any = False

    def __enter__(self) -> "_HeldOut":
        self._database = self._scratch.__enter__()
        if len(self._work.parents) > 1:
            self._database.execute("CREATE TABLE held (hash BLOB PRIMARY KEY) WITHOUT ROWID")
            for parent in self._work.parents:
                for content_hash in _held_out_hashes(parent):
                    self._any = True
                    self._database.execute(
                        "INSERT OR IGNORE INTO held VALUES (?)", (bytes.fromhex(content_hash),)
                    )
        return self

    def __exit__(self, *exception: Any) -> None:
        self._scratch.__exit__(*exception)

    def holds(self, item: Item) -> bool:
        if not self._any:
            return False
        found = self._database.execute(
            "SELECT 1 FROM held WHERE hash = ?", (bytes.fromhex(item.example.content_hash),)
        )
        return found.fetchone() is not None


_HASHES = 5_000


def _held_out_hashes(dataset: Dataset) -> Iterator[str]:
    """Yield the hashes of the held-out examples by position, in short queries."""
    if not dataset.held_out_size:
        return
    start = 0
    while True:
        rows = list(
            dataset.items.filter(position__gte=start, split=Split.HELD_OUT)
            .order_by("position")
            .values_list("position", "trace__content_hash")[:_HASHES]
        )
        yield from (content_hash for _, content_hash in rows)
        if len(rows) < _HASHES:
            return
        start = rows[-1][0] + 1
