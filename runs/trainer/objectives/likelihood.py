"""How likely answers are: choices among given ones, and perplexity. Nothing is generated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from runs.trainer.data.tokenizer import Encoded
from runs.trainer.objectives.loss import answer_losses, model_inputs

BATCH_TOKENS = 4096  # of a batch, more where one row is longer
SHORTEST = 64


def measure(
    module: nnx.Module, rows: Sequence[Encoded], *, check_stop: Callable[[], None]
) -> Iterator[tuple[int, float, float]]:
    """Yield each row's place, the log-probability of its answer and the seconds that it took,
    longest rows first.

    Rows are computed in batches of few shapes; ``check_stop`` is called before each and may raise.
    """
    graph, state = nnx.split(module)
    places = sorted(range(len(rows)), key=lambda place: (-len(rows[place].ids), place))
    start = 0
    while start < len(places):
        length = _length(len(rows[places[start]].ids))
        count = max(1, BATCH_TOKENS // length)
        taken = places[start : start + count]
        start += count
        check_stop()
        batch = _batch([rows[place] for place in taken], count, length)
        began = time.monotonic()
        losses = jax.device_get(_losses(graph, state, *batch))
        seconds = (time.monotonic() - began) / len(taken)
        for place, loss in zip(taken, losses, strict=False):  # the last batch has rows left over
            yield place, -float(loss), seconds


def _length(tokens: int) -> int:
    """Return the length of a batch's rows: a power of two."""
    length = SHORTEST
    while length < tokens:
        length *= 2
    return length


def _batch(rows: list[Encoded], count: int, length: int) -> tuple[np.ndarray, ...]:
    tokens, segments = (np.zeros((count, length), np.int32) for _ in range(2))
    answer = np.zeros((count, length), bool)
    for row, encoded in enumerate(rows):
        tokens[row, : len(encoded.ids)] = encoded.ids
        segments[row, : len(encoded.ids)] = 1
        for begin, end in encoded.counted:
            answer[row, begin:end] = True
    return tokens, segments, answer


@partial(jax.jit, static_argnames=("graph",))
def _losses(
    graph: Any, state: Any, tokens: jax.Array, segments: jax.Array, answer: jax.Array
) -> jax.Array:
    inputs = model_inputs(tokens, segments, answer)
    return answer_losses(nnx.merge(graph, state), **inputs)
