"""Rows as the training makes them, padded and packed, and our logits for them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from runs.trainer.modeling import LoadedModel, forward_hidden, project


@dataclass(frozen=True)
class Piece:
    """A sequence inside a row: where it starts, how long it is, the position of its first token."""

    row: int
    start: int
    length: int
    first_position: int = 0


# Positions past 1,000, longer than every window, several query blocks, a last block that is not
# full.
LENGTH = 1040
PIECES = (
    Piece(row=0, start=0, length=1040),  # a whole row
    # padding before, two packed, padding between and after, positions far out
    Piece(row=1, start=30, length=400),
    Piece(row=1, start=430, length=41),
    Piece(row=1, start=600, length=90, first_position=2000),
)


def make_rows(
    vocabulary: int, *, length: int = LENGTH, pieces: tuple[Piece, ...] = PIECES
) -> dict[str, np.ndarray]:
    """``tokens``, ``positions`` ``[B, L]``, block-diagonal causal ``mask [B, L, L]``; padding is
    token 0 and sees nothing."""
    rows = 1 + max(piece.row for piece in pieces)
    generator = np.random.default_rng(7)
    tokens, positions, segments = (np.zeros((rows, length), np.int32) for _ in range(3))
    for number, piece in enumerate(pieces, start=1):
        span = slice(piece.start, piece.start + piece.length)
        tokens[piece.row, span] = generator.integers(1, vocabulary, piece.length)
        positions[piece.row, span] = np.arange(piece.length) + piece.first_position
        segments[piece.row, span] = number
    same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] > 0)
    return {
        "tokens": tokens,
        "positions": positions,
        "mask": same & np.tril(np.ones((length, length), bool)),
    }


def our_logits(loaded: LoadedModel, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Logits ``[B, L, V]`` in float32, by the path that training takes: hidden states, then the
    projection."""

    @jax.jit
    def run(tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        return project(loaded.module, forward_hidden(loaded.module, tokens, positions, mask))

    return np.asarray(
        run(*(jnp.asarray(rows[name]) for name in ("tokens", "positions", "mask"))), np.float32
    )
