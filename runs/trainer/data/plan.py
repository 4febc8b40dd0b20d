"""Which sequences make up which step: a function of the data, the settings, the seed and the epoch
alone.

Nothing is drawn while training: step s of epoch e can be computed without the steps before it, so a
resumed run sees the very batches that the uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from runs.trainer.data.packing import bucket_lengths, group_rows, pack
from runs.trainer.data.tokens import TokenisedData


@dataclass(frozen=True)
class StepRows:
    """The rows of one step (or of one held-out batch): each row a list of pieces, all rows
    ``length`` tokens long."""

    length: int
    rows: list[np.ndarray]


class DataPlan:
    """The order of the data.

    ``micro_batches`` × ``rows_per_batch`` rows make a step; every step has one of a few shapes.
    With packing, rows are packed once, and every epoch shuffles the rows; without it, every epoch
    shuffles the examples, deals them into steps of one length bucket each, and shuffles the steps.
    What is too few for a step of its bucket joins the next longer bucket, so that every step but
    the last is full.
    """

    def __init__(
        self,
        *,
        pieces: np.ndarray,
        lengths: np.ndarray,
        batch_size: int,
        accumulation: int,
        max_length: int,
        packing: bool,
        seed: int,
    ):
        """Plan a training. ``pieces`` [n] are indices into the tokenised data, ``lengths`` [n]
        their tokens."""
        self._pieces = np.asarray(pieces)
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self.packing = packing
        if packing:
            order = self._generator(0).permutation(len(pieces))
            row_of, rows = pack(self._lengths[order], max_length)
            members, self._starts = group_rows(row_of, rows)
            self._members = order[members]
            self._row_count = rows
            self.row_lengths = [max_length]
        else:
            self._row_count = len(pieces)
            self.row_lengths = bucket_lengths(self._lengths, max_length)
        wanted = batch_size * accumulation
        self.smaller_than_batch = self._row_count < wanted
        rows_per_step = min(wanted, self._row_count)
        self.micro_batches = math.ceil(rows_per_step / batch_size)
        self.rows_per_batch = min(batch_size, rows_per_step)
        self._rows_per_step = self.micro_batches * self.rows_per_batch
        self.steps_per_epoch = math.ceil(self._row_count / self._rows_per_step)

    @property
    def row_count(self) -> int:
        """Rows that an epoch reads."""
        return self._row_count

    def steps(self, *, start: int = 0) -> Iterator[tuple[int, StepRows]]:
        """Yield steps without end, from step ``start`` (0: the very first) on, each with its
        number."""
        step = start
        while True:
            epoch = step // self.steps_per_epoch
            for rows in self.epoch(epoch)[step % self.steps_per_epoch :]:
                yield step, rows
                step += 1

    def epoch(self, epoch: int) -> _Epoch:
        """Return the steps of one epoch, as a sequence."""
        if self.packing:
            order = self._generator(epoch + 1).permutation(self._row_count)
            return _Epoch(
                [(self.row_lengths[0], chunk) for chunk in self._deal(order)], self._packed_row
            )
        return _Epoch(self._bucketed(epoch), self._single_row)

    def padding_waste(self) -> float:
        """Return the share of the tokens of an epoch that are padding, 0 to 1."""
        computed = sum(length * self._rows_per_step for length, _ in self.epoch(0).plan)
        return 1.0 - float(self._lengths.sum()) / computed

    def _packed_row(self, row: int) -> np.ndarray:
        return self._pieces[self._members[self._starts[row] : self._starts[row + 1]]]

    def _single_row(self, row: int) -> np.ndarray:
        return self._pieces[row : row + 1]

    def _bucketed(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        generator = self._generator(epoch + 1)
        order = generator.permutation(self._row_count)
        bucket = np.searchsorted(self.row_lengths, self._lengths[order])
        full: list[tuple[int, np.ndarray]] = []
        rest = np.empty(0, dtype=order.dtype)
        for index, length in enumerate(self.row_lengths):
            members = np.concatenate([rest, order[bucket == index]])
            whole = len(members) // self._rows_per_step * self._rows_per_step
            full += [(length, chunk) for chunk in self._deal(members[:whole])]
            rest = members[whole:]
        shuffled = [full[i] for i in generator.permutation(len(full))]
        # The unfinished step comes last; its rows are of mixed lengths, so it gets the shape that
        # holds them all.
        return [*shuffled, (self.row_lengths[-1], rest)] if len(rest) else shuffled

    def _deal(self, order: np.ndarray) -> list[np.ndarray]:
        return [
            order[i : i + self._rows_per_step] for i in range(0, len(order), self._rows_per_step)
        ]

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, stream])


class _Epoch:
    """A lazy sequence of steps: rows are looked up when a step is asked for."""

    def __init__(self, plan: list[tuple[int, np.ndarray]], members: Any):
        self.plan = plan
        self._members = members

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, where: slice) -> Iterator[StepRows]:
        return (
            StepRows(length, [self._members(int(row)) for row in rows])
            for length, rows in self.plan[where]
        )


def plan_rows(
    data: TokenisedData, training: dict[str, Any], *, packing: bool
) -> tuple[DataPlan, list[StepRows]]:
    """Return the plan of the training part and the batches of the held-out part.

    ``training`` is the manifest's section.
    """
    train, held_out = data.select(held_out=False), data.select(held_out=True)
    plan = DataPlan(
        pieces=train,
        lengths=data.pieces["length"][train],
        batch_size=training["batch_size"],
        accumulation=training["gradient_accumulation_steps"],
        max_length=training["max_seq_length"],
        packing=packing,
        seed=training["seed"],
    )
    rows = held_out_batches(
        held_out,
        data.pieces["length"][held_out],
        rows_per_batch=plan.rows_per_batch,
        max_length=training["max_seq_length"],
        packing=packing,
        row_lengths=plan.row_lengths,
    )
    return plan, rows


def total_steps(
    steps_per_epoch: int, *, num_epochs: int, max_steps: int | None, extend_from: int | None = None
) -> int:
    """Return the last optimizer step of the training.

    An extension adds its steps to ``extend_from``: ``max_steps`` where it is set, whatever
    ``num_epochs`` says.
    """
    steps = steps_per_epoch * num_epochs
    if extend_from is not None:
        return extend_from + (steps if max_steps is None else max_steps)
    return steps if max_steps is None else min(steps, max_steps)


def held_out_batches(
    pieces: np.ndarray,
    lengths: np.ndarray,
    *,
    rows_per_batch: int,
    max_length: int,
    packing: bool,
    row_lengths: list[int],
) -> list[StepRows]:
    """Return batches of the held-out part, in a fixed order and in the shapes of the training where
    they fit.

    Shapes: ``max_length`` with packing, else the training's ``row_lengths``, and one longer one if
    a held-out example needs it.
    """
    if len(pieces) == 0:
        return []
    if packing:
        row_of, rows = pack(lengths, max_length)
        members, starts = group_rows(row_of, rows)
        packed = [pieces[members[starts[row] : starts[row + 1]]] for row in range(rows)]
        return [
            StepRows(max_length, packed[i : i + rows_per_batch])
            for i in range(0, rows, rows_per_batch)
        ]
    shapes = [*row_lengths]
    if lengths.max() > shapes[-1]:
        shapes.append(bucket_lengths(lengths, max_length)[-1])
    order = np.argsort(lengths, kind="stable")
    batches = []
    for i in range(0, len(order), rows_per_batch):
        chunk = order[i : i + rows_per_batch]
        length = next(shape for shape in shapes if shape >= lengths[chunk].max())
        batches.append(StepRows(length, [pieces[j : j + 1] for j in chunk]))
    return batches
