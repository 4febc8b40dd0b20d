"""Which examples a dataset has, and in which part they are: filters, samples and splits."""

import hashlib
from array import array
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from datasets.cleaning.filtering import matches, parse_filter
from datasets.cleaning.items import Item, Spool, Work
from datasets.cleaning.operation import Operation, StepReport
from datasets.cleaning.paths import MetaPath, at
from datasets.examples.kinds import texts_of_example
from datasets.examples.schema import json_kind
from datasets.examples.words import normalised
from datasets.models import Split
from tunixrt.reading import Errors
from tunixrt.refusals import Refusal

FILTER_MAX = 2_000  # characters
SEED_MAX = 2**31 - 1
_SPACE = 1 << 64


class NothingToSplit(Refusal):
    code = "nothing_to_split"


def _filter_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"This field must be text, not {json_kind(value)}.")
    if len(value) > FILTER_MAX:
        raise ValueError(f"This field has at most {FILTER_MAX:,} characters, not {len(value):,}.")
    if not value.strip():
        raise ValueError("This field may not be empty.")
    parse_filter(value)
    return value


FilterText = Annotated[
    str,
    PlainValidator(_filter_text),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": FILTER_MAX}),
]
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]
Share = Annotated[float, Field(ge=0.000_001, le=0.999_999)]


class Filter(Operation):
    """Keep the examples that a filter describes."""

    title: ClassVar = "Filter"
    operation: Literal["filter"] = "filter"
    where: FilterText = Field(
        description="In the filter language of examples (docs/datasets.md):"
        ' `characters<4000 -text:"as an AI" meta.level>=3`.'
    )
    matching: Literal["keep", "drop"] = Field(
        "keep", description="Whether the examples that it describes stay or go."
    )

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        terms = parse_filter(self.where)
        for item in items:
            if matches(item, terms) == (self.matching == "keep"):
                yield item
            else:
                does = "does not match" if self.matching == "keep" else "matches"
                report.leave_out(item, f"{does} the filter")


def draw(seed: int, what: str) -> int:
    """Return 64 bits that are the same for the same seed and text on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:8], "big")


class Sample(Operation):
    """Keep a sample of the examples, drawn by their content: the same seed draws the same sample,
    in whatever order they stand."""

    title: ClassVar = "Sample"
    operation: Literal["sample"] = "sample"
    n: int | None = Field(None, ge=1, le=2**31 - 1, description="Examples to keep; or a share.")
    share: Share | None = Field(None, description="Share of the examples to keep.")
    part: Literal["all", "train", "held_out"] = Field(
        "all", description="The part to draw from; the other one stays as it is."
    )
    seed: Seed = 0

    def problems(self) -> Errors:
        if (self.n is None) == (self.share is None):
            return {"n": ["Give either n or share."]}
        return {}

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        draws = array("Q")
        with Spool(work) as spool:
            for item in items:
                spool.add(item)
                if self._is_drawn_from(item):
                    draws.append(draw(self.seed, item.example.content_hash))
            number = self._number(len(draws), work)
            ordered = array("Q", sorted(draws)[:number])
            last = ordered[-1] if ordered else -1
            ties = ordered.count(last) if ordered else 0  # copies of one example
            drawn = iter(draws)
            for item in spool:
                if not self._is_drawn_from(item):
                    yield item
                    continue
                mine = next(drawn)
                if mine < last or (mine == last and ties):
                    ties -= mine == last
                    yield item
                else:
                    report.leave_out(item, "not in the sample")

    def _is_drawn_from(self, item: Item) -> bool:
        return self.part in ("all", item.split)

    def _number(self, count: int, work: Work) -> int:
        if self.share is not None:
            return max(1, round(self.share * count))
        assert self.n is not None
        return max(1, round(self.n * work.fraction))


class Resplit(Operation):
    """Split the examples again: examples of one group are always in the same part."""

    title: ClassVar = "Split again"
    operation: Literal["resplit"] = "resplit"
    held_out: Share = Field(description="Share to hold out from training.")
    by: Literal["example", "question", "meta"] = Field(
        "example",
        description="What makes a group: the example itself, its question (without case, white"
        " space and punctuation), or a field of meta.",
    )
    field: MetaPath | None = Field(None, description="The field of meta that names the group.")
    seed: Seed = 0

    def problems(self) -> Errors:
        if (self.by == "meta") != (self.field is not None):
            return {"field": ["Name a field of meta with by=meta, and only then."]}
        return {}

    def _group(self, item: Item) -> str | None:
        """Return the group of an example; None: it has no such field and is a group of its own."""
        if self.by == "question":
            return normalised(texts_of_example(item.example)[0])
        if self.field is None:
            return item.example.content_hash
        found, value = at(item.example.meta, self.field)
        return f"{json_kind(value)} {value}" if found and value is not None else None

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        """Hold out each group whose draw is below the share of all draws, so that it stays in its
        part when the dataset grows. If that leaves a part empty, move the group with the least or
        the greatest draw."""
        draws = array("Q")
        with Spool(work) as spool:
            without = 0
            for item in items:
                spool.add(item)
                group = self._group(item)
                without += group is None
                draws.append(
                    draw(self.seed, item.example.content_hash if group is None else f"={group}")
                )
            if without:
                report.notes["without_the_field"] = without
            if not draws:
                return
            least, greatest = min(draws), max(draws)
            if least == greatest:
                raise NothingToSplit(
                    "All examples are of one group, so one of the parts would be empty."
                )
            limit = int(self.held_out * _SPACE)
            limit = min(max(limit, least + 1), greatest)
            for item, mine in zip(spool, draws, strict=True):
                part = (Split.HELD_OUT if mine < limit else Split.TRAIN).value
                if part != item.split:
                    item.split = part
                    report.change(item, f"now in the part {part}")
                yield item
