"""Examples on their way through a recipe: where they come from, and where they wait between two
passes."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from datasets.examples import kinds
from datasets.examples.messages import InvalidMessages
from datasets.examples.schema import ExampleData, InvalidTrace, parse_trace
from datasets.models import Dataset, DatasetItem, Kind
from datasets.storage.rows import READ_BATCH

TICK = 500  # examples between two reports of progress
_COLUMNS = (
    *("position", "split", "trace__kind", "trace__prompt", "trace__steps", "trace__final_answer"),
    *("trace__meta", "trace__trace_version", "trace__content", "trace__content_hash"),
    *("trace__erased_at", "trace__archived_at"),
)


@dataclass(slots=True)
class Item:
    """An example with its part, and where it stands: the number of the parent and its position."""

    example: ExampleData
    split: str
    parent: int
    position: int


@dataclass
class Work:
    """One execution of a recipe.

    Args:
        parents: what is read.
        progress: called every ``TICK`` examples of every pass; it may raise to stop the work.
        blocks: positions to read of each parent, as ranges; None: all.
        bytes_left: how much is read at most; None: all.
    """

    parents: list[Dataset]
    progress: Callable[[], None] = lambda: None
    blocks: list[list[range]] | None = None
    bytes_left: int | None = None
    erased: int = 0
    archived: int = 0
    read: int = 0
    _ticks: int = field(default=0, repr=False)

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks % TICK == 0:
            self.progress()

    @property
    def is_cut(self) -> bool:
        """Whether reading stopped because it was too much."""
        return self.bytes_left is not None and self.bytes_left <= 0

    @property
    def fraction(self) -> float:
        """The share of the parents' examples that is read."""
        everything = sum(parent.size for parent in self.parents)
        if self.blocks is None or not everything:
            return 1.0
        return sum(len(block) for blocks in self.blocks for block in blocks) / everything

    def items(
        self, parent: int, *, split: str | None = None, again: bool = False
    ) -> Iterator[Item]:
        """Yield the examples of a parent in their order, or of a part of it; ``again``: they were
        counted when they were read before. Short queries by position: constant memory, and no
        transaction stays open."""
        dataset = self.parents[parent]
        blocks = [range(dataset.size)] if self.blocks is None else self.blocks[parent]
        for block in blocks:
            if self.is_cut:
                return
            yield from self._block(dataset, parent, block, split, again)

    def _block(
        self, dataset: Dataset, parent: int, block: range, split: str | None, again: bool
    ) -> Iterator[Item]:
        start = block.start
        while True:
            rows = DatasetItem.objects.filter(
                dataset_id=dataset.pk, position__gte=start, position__lt=block.stop
            )
            if split is not None:
                rows = rows.filter(split=split)
            chunk = list(rows.order_by("position").values_list(*_COLUMNS)[:READ_BATCH])
            for row in chunk:
                self.tick()
                *_, erased_at, archived_at = row
                if not again:
                    self.read += 1
                    self.erased += erased_at is not None
                    self.archived += erased_at is None and archived_at is not None
                if erased_at is not None or archived_at is not None:
                    continue
                item = _item(row, parent)
                if self.bytes_left is not None:
                    self.bytes_left -= item.example.size
                yield item
                if self.is_cut:
                    return
            if len(chunk) < READ_BATCH:
                return
            start = chunk[-1][0] + 1


def _item(row: Any, parent: int) -> Item:
    position, split, kind, prompt, steps, final_answer, meta, version, content, hashed, *_ = row
    size = len(prompt) + len(final_answer) + len(content)
    size += sum(len(step["content"]) for step in steps) + 100
    example = ExampleData(prompt, steps, final_answer, meta, version, hashed, size, kind, content)
    return Item(example, split, parent, position)


class Spool:
    """Examples between two passes, in a temporary file: memory does not grow with them."""

    def __init__(self, work: Work):
        self._work = work
        self._file = tempfile.TemporaryFile(prefix="tunixrt-clean-")  # noqa: SIM115 - closed by close

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, item: Item) -> None:
        example = item.example
        row = [
            *(item.parent, item.position, item.split, example.prompt, example.steps),
            *(example.final_answer, example.meta, example.trace_version, example.content_hash),
            *(example.size, example.kind, example.content),
        ]
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def __iter__(self) -> Iterator[Item]:
        self._file.seek(0)
        for line in self._file:
            self._work.tick()
            parent, position, split, *columns = orjson.loads(line)
            yield Item(ExampleData(*columns), split, parent, position)


class Spoilt(Exception):
    """An example is not valid any more; says why."""


_BUILDERS: dict[str, Callable[..., ExampleData]] = {
    Kind.CONVERSATION.value: lambda **fields: kinds.conversation(**fields, plain_text=True),
    Kind.PREFERENCE.value: kinds.preference,
    Kind.PROMPT.value: kinds.prompt,
}


def fields_of(example: ExampleData) -> dict[str, Any]:
    """Return the fields that ``build`` makes the example from."""
    if example.kind == Kind.TRACE:
        return {
            "prompt": example.prompt,
            "steps": example.steps,
            "final_answer": example.final_answer,
            "meta": example.meta,
            "trace_version": example.trace_version,
        }
    fields: dict[str, Any] = orjson.loads(example.content) | {"meta": example.meta}
    if example.kind != Kind.PREFERENCE:
        fields["final_answer"] = example.final_answer or None
    return fields


def build(kind: str, fields: dict[str, Any]) -> ExampleData:
    """Return the example that ``fields`` make. Raise Spoilt."""
    try:
        return parse_trace(fields) if kind == Kind.TRACE else _BUILDERS[kind](**fields)
    except InvalidTrace as error:
        raise Spoilt(str(error)) from error
    except InvalidMessages as error:
        raise Spoilt(f"{error}.") from error
