"""From rows to arrays: batches as the step takes them, built one ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax
import jax
import numpy as np

from runs.trainer.data.plan import DataPlan, StepRows
from runs.trainer.data.tokens import TokenisedData


@flax.struct.dataclass(frozen=True)
class Batch:
    """Sequences of tokens in rows, all arrays ``[A, B, L]``: A micro-batches of B rows of L tokens.

    ``tokens`` int32; ``segments`` int32, which sequence of its row a token belongs to, from 1, and
    0 for padding; ``answer`` bool, whether the token is to be learnt.
    """

    tokens: Any
    segments: Any
    answer: Any


@dataclass(frozen=True)
class HostBatch:
    """The batch of one step (counted from 0), and what the host knows of it.

    ``batch`` is a pytree of arrays ``[A, B, …]`` (of A micro-batches, this process's B rows each),
    such as ``Batch``; the objective that made it knows what is in it. ``tokens`` counts the tokens
    without padding, of all processes. ``pieces`` [n] are the sequences, as indices into the
    tokenised data.
    """

    batch: Any
    step: int
    tokens: int
    pieces: np.ndarray


class BatchBuilder:
    """Fills arrays from the tokenised data.

    With several processes each builds only its own rows: process p of P has the p-th P-th of every
    micro-batch.
    """

    def __init__(
        self, data: TokenisedData, *, shards: int = 1, process: int = 0, processes: int = 1
    ):
        """Make a builder. ``shards``: devices over which rows are spread; the number of rows is
        rounded up to a multiple of it."""
        self._data = data
        self._shards = shards
        self._process, self._processes = process, processes

    def build(
        self, step: int, rows: StepRows, *, micro_batches: int, rows_per_batch: int
    ) -> HostBatch:
        """Return the batch of ``rows``: ``micro_batches`` of ``rows_per_batch`` rows, rounded up
        to a multiple of the shards."""
        padded = -(-rows_per_batch // self._shards) * self._shards
        shape = (micro_batches, padded, rows.length)
        tokens = np.zeros(shape, dtype=np.int32)
        segments = np.zeros(shape, dtype=np.int32)
        answer = np.zeros(shape, dtype=bool)
        count = 0
        pieces, all_tokens, learnt = self._data.pieces, self._data.tokens, self._data.learnt
        # Rows are dealt round the micro-batches, so that an unfinished step still spreads evenly.
        for index, members in enumerate(rows.rows):
            micro, row = index % micro_batches, index // micro_batches
            position = 0
            for segment, piece in enumerate(members, start=1):
                record = pieces[piece]
                length = int(record["length"])
                start, end = int(record["start"]), position + length
                tokens[micro, row, position:end] = all_tokens[start : start + length]
                segments[micro, row, position:end] = segment
                answer[micro, row, position:end] = learnt[start : start + length]
                position = end
            count += position
        local = slice(
            self._process * padded // self._processes,
            (self._process + 1) * padded // self._processes,
        )
        batch = Batch(tokens[:, local], segments[:, local], answer[:, local])
        members = np.concatenate(rows.rows) if rows.rows else np.empty(0, dtype=np.int64)
        return HostBatch(batch, step, count, members)


class Prefetcher:
    """Builds the batches of the coming steps in a thread while the device computes."""

    AHEAD = 2

    def __init__(self, builder: BatchBuilder, plan: DataPlan, *, start: int, stop: int):
        """Prepare the batches of steps ``start`` to ``stop`` - 1."""
        self._queue: queue.Queue[HostBatch | Exception | None] = queue.Queue(maxsize=self.AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(builder, plan, start, stop), name="prefetch", daemon=True
        )
        self._thread.start()

    def _fill(self, builder: BatchBuilder, plan: DataPlan, start: int, stop: int) -> None:
        try:
            for step, rows in plan.steps(start=start):
                if step >= stop or self._closed.is_set():
                    break
                self._put(
                    builder.build(
                        step,
                        rows,
                        micro_batches=plan.micro_batches,
                        rows_per_batch=plan.rows_per_batch,
                    )
                )
            self._put(None)
        except Exception as error:  # noqa: BLE001 - raised again where the batch is taken
            self._put(error)

    def _put(self, item: HostBatch | Exception | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def __iter__(self) -> Iterator[HostBatch]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join(timeout=10)


@dataclass(frozen=True)
class PlannedBatches:
    """The batches of a plan, which depend on the data alone, so that they can be built ahead."""

    builder: BatchBuilder
    plan: DataPlan
    held_out_rows: list[StepRows]

    def train(self, *, start: int, stop: int) -> Prefetcher:
        """Return the batches of steps ``start`` to ``stop`` - 1, counted from 0."""
        return Prefetcher(self.builder, self.plan, start=start, stop=stop)

    def held_out(self) -> Iterator[HostBatch]:
        """Yield the held-out part in a fixed order, each batch one micro-batch."""
        for rows in self.held_out_rows:
            yield self.builder.build(
                0, rows, micro_batches=1, rows_per_batch=self.plan.rows_per_batch
            )


def planned_batches(
    data: TokenisedData, plan: DataPlan, held_out_rows: list[StepRows], *, shards: int
) -> PlannedBatches:
    """Return the batches of ``plan`` for this process. ``shards``: devices of all processes."""
    builder = BatchBuilder(
        data, shards=shards, process=jax.process_index(), processes=jax.process_count()
    )
    return PlannedBatches(builder, plan, held_out_rows)
