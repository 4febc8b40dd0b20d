"""The loss: next-token cross entropy on the answers, without ever holding all logits.

google-tunix's default loss makes a float32 one-hot array of batch × length × vocabulary (gigabytes
at real sizes) and projects every position to the vocabulary. Here only positions whose next token
is learnt are projected, a chunk of them at a time, and each chunk's gradient is taken at once,
while its logits are at hand: nothing of the size of the vocabulary outlives its chunk, and nothing
is computed twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from runs.trainer.modeling import forward_hidden, project

CHUNK_LOGITS = 2**24  # numbers in one chunk of logits: 64 MB in float32


def model_inputs(tokens: jax.Array, segments: jax.Array, answer: jax.Array) -> dict[str, jax.Array]:
    """Return what the model and the loss take, from the arrays of a batch (all ``[B, L]``).

    ``positions``: within the sequence. ``attention_mask [B, L, L]``: causal, and each sequence sees
    only itself. ``labels``: the next token. ``weights``: 1.0 where the next token is learnt.
    """
    length = tokens.shape[-1]
    index = jnp.arange(length)
    starts = jnp.concatenate(
        [jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1
    )
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    same = segments[:, :, None] == segments[:, None, :]
    mask = same & (index[:, None] >= index[None, :])
    # The last position's neighbour after the roll is the row's first token, which is never learnt.
    learnt = jnp.roll(answer, -1, axis=1) & (jnp.roll(segments, -1, axis=1) == segments)
    return {
        "tokens": tokens,
        "positions": index - first,
        "attention_mask": mask,
        "labels": jnp.roll(tokens, -1, axis=1),
        "weights": learnt.astype(jnp.float32),
    }


def answer_loss(
    module: nnx.Module,
    tokens: jax.Array,
    positions: jax.Array,
    attention_mask: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    train_head: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the negative log likelihoods of the learnt tokens, and their number: two
    float32 scalars.

    ``train_head``: whether the projection to the vocabulary is itself trained (full training) or
    fixed (LoRA).
    """
    hidden = forward_hidden(module, tokens, positions, attention_mask)
    flat_weights = weights.reshape(-1)
    # Learnt positions first, in their order: the chunks behind them are empty and are skipped.
    order = jnp.argsort(flat_weights == 0, stable=True)
    flat = hidden.reshape(-1, hidden.shape[-1])[order]
    graph, *states = nnx.split(module, _is_head, ...)
    head, rest = states
    if not train_head:
        head = jax.lax.stop_gradient(head)
    total = _chunked_loss(
        (graph, train_head),
        head,
        jax.lax.stop_gradient(rest),
        flat,
        labels.reshape(-1)[order],
        flat_weights[order],
    )
    return total, flat_weights.sum()


def answer_losses(
    module: nnx.Module,
    tokens: jax.Array,
    positions: jax.Array,
    attention_mask: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Sum of the negative log likelihoods of the learnt tokens of each row: float32 ``[B]``. Not
    to be differentiated."""
    hidden = forward_hidden(module, tokens, positions, attention_mask)
    rows, length = tokens.shape
    flat_weights = weights.reshape(-1)
    order = jnp.argsort(flat_weights == 0, stable=True)
    graph, *states = nnx.split(module, _is_head, ...)
    head, rest = states
    chunks = _chunks(
        hidden.reshape(-1, hidden.shape[-1])[order],
        labels.reshape(-1)[order],
        flat_weights[order],
        _vocabulary(head),
    )

    def of_chunk(_: None, chunk: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        return None, jax.lax.cond(
            jnp.any(chunk[2] > 0),
            lambda: _token_losses(graph, head, rest, *chunk),
            lambda: jnp.zeros_like(chunk[2]),
        )

    losses = jax.lax.scan(of_chunk, None, chunks)[1].reshape(-1)[: rows * length]
    return jax.ops.segment_sum(losses, order // length, rows)


def _is_head(path: tuple[Any, ...], _: Any) -> bool:
    """Return whether ``project`` can use a parameter: the embedding (tied) or the head of its
    own."""
    return bool(path) and path[0] in ("embedder", "lm_head")


def _chunk_loss(
    graph: Any, head: Any, rest: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    return jnp.sum(_token_losses(graph, head, rest, hidden, labels, weights))


def _token_losses(
    graph: Any, head: Any, rest: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    logits = project(nnx.merge(graph, head, rest), hidden).astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked) * weights


def _chunks(
    hidden: jax.Array, labels: jax.Array, weights: jax.Array, vocabulary: int
) -> tuple[jax.Array, ...]:
    """Return the arrays cut into equal chunks: ``[chunks, size, …]``, the last filled up with
    positions of weight 0."""
    count = hidden.shape[0]
    size = min(count, max(64, CHUNK_LOGITS // vocabulary))
    chunks = -(-count // size)
    size = -(-count // chunks)
    missing = chunks * size - count

    def cut(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(
            chunks, size, *x.shape[1:]
        )

    return cut(hidden), cut(labels), cut(weights)


def _vocabulary(head: Any) -> int:
    return max(max(leaf.shape) for leaf in jax.tree.leaves(head))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_loss(
    static: Any, head: Any, rest: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    graph, _ = static

    def add(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        learnt = jnp.any(chunk[2] > 0)
        return total + jax.lax.cond(
            learnt, lambda: _chunk_loss(graph, head, rest, *chunk), lambda: jnp.float32(0)
        ), None

    return jax.lax.scan(add, jnp.float32(0), _chunks(hidden, labels, weights, _vocabulary(head)))[0]


def _forward(
    static: Any, head: Any, rest: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, Any]:
    """Return the loss, and as residuals its gradients by ``hidden`` and, where it is trained, by
    ``head``."""
    graph, train_head = static

    def value_and_gradients(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[Any, ...]]:
        part, labels_of, weights_of = chunk
        if train_head:
            run = jax.value_and_grad(
                lambda h, x: _chunk_loss(graph, h, rest, x, labels_of, weights_of), argnums=(0, 1)
            )
            return run(head, part)
        value, gradient = jax.value_and_grad(
            lambda x: _chunk_loss(graph, head, rest, x, labels_of, weights_of)
        )(part)
        return value, (None, gradient)

    def add(
        carry: tuple[jax.Array, Any], chunk: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, Any], jax.Array]:
        def learn() -> tuple[jax.Array, Any, jax.Array]:
            value, (by_head, by_hidden) = value_and_gradients(chunk)
            return carry[0] + value, jax.tree.map(jnp.add, carry[1], by_head), by_hidden

        total, by_head, by_hidden = jax.lax.cond(
            jnp.any(chunk[2] > 0), learn, lambda: (carry[0], carry[1], jnp.zeros_like(chunk[0]))
        )
        return (total, by_head), by_hidden

    chunks = _chunks(hidden, labels, weights, _vocabulary(head))
    start = jax.tree.map(jnp.zeros_like, head) if train_head else None
    (total, by_head), by_hidden = jax.lax.scan(add, (jnp.float32(0), start), chunks)
    by_hidden = by_hidden.reshape(-1, hidden.shape[-1])[: hidden.shape[0]]
    return total, (by_head, by_hidden)


def _backward(static: Any, residuals: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    by_head, by_hidden = residuals
    scale = partial(jax.tree.map, lambda x: (x * cotangent).astype(x.dtype))
    # None: no gradient. The rest of the model reaches the loss through ``hidden`` only.
    return (None if by_head is None else scale(by_head), None, scale(by_hidden), None, None)


_chunked_loss.defvjp(_forward, _backward)
