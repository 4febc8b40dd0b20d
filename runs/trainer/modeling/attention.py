"""Attention as ``transformers`` computes it, on the projections of google-tunix's modules.

google-tunix's own attention differs from the reference in ways that config.json decides: the rotary
base frequency is a constant in Llama and Qwen3, ``rope_scaling`` has no place at all, Gemma 2
compares positions with key indices in its sliding mask (wrong when positions restart inside a
packed row, or when prompts are padded) and always scales by ``head_dim``. So the attention modules
are replaced by this one. It keeps the parameters, their names and their sharding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from runs.spec.architectures import Architecture, Rope

# Large negative rather than -inf: a row that may see nothing (padding) gives finite garbage instead
# of NaN.
MASKED = -2.3819763e38
ATTENTION = "attention"  # names what the backward pass must not compute again (decoder.py)


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Return the angle per position of each pair of a head's channels: float32 ``[head_dim / 2]``.

    Follow ``transformers.modeling_rope_utils`` operation by operation, in float32, because
    rounding is multiplied by positions.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float32(1.0) / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor)
    if rope.kind == "llama3":
        original = rope.original_max_position_embeddings
        wavelengths = np.float32(2 * np.pi) / frequencies
        slowed = np.where(
            wavelengths > original / rope.low_freq_factor,
            frequencies / np.float32(rope.factor),
            frequencies,
        )
        smooth = (original / wavelengths - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        between = (wavelengths >= original / rope.high_freq_factor) & (
            wavelengths <= original / rope.low_freq_factor
        )
        blended = (1 - smooth) * slowed / rope.factor + smooth * slowed
        return np.where(between, blended, slowed).astype(np.float32)
    return frequencies


Table = tuple[jax.Array, jax.Array]  # sines and cosines [B, L, 1, head_dim / 2]


def rotary_tables(
    ropes: tuple[Rope, ...], head_dim: int, positions: jax.Array
) -> tuple[Table, ...]:
    """Return sines and cosines of ``positions [B, L]``, a table for each of ``ropes``; float32
    whatever the dtype.

    The barrier makes XLA compute them once: fused into their consumers they were computed again for
    every head and layer.
    """
    tables = []
    for rope in ropes:
        angles = positions.astype(jnp.float32)[:, :, None, None] * inverse_frequencies(
            rope, head_dim
        )
        tables.append(jax.lax.optimization_barrier((jnp.sin(angles), jnp.cos(angles))))
    return tuple(tables)


def rotate(x: jax.Array, table: Table) -> jax.Array:
    """Return the rotary embedding of ``x [B, L, heads, head_dim]``."""
    sin, cos = table
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    ).astype(x.dtype)


class Attention(nnx.Module):
    """Takes over the projections of one of google-tunix's attention modules and computes as
    config.json says.

    Calls: ``(x, tables, cache, mask)`` with x ``[B, T, D]``, tables from ``rotary_tables``, mask
    ``[B, T, S]`` (true: may be seen; S = T without a cache, else the cache's length) → ``(new cache
    or None, output [B, T, D])``. Without a cache the mask must be causal.
    """

    def __init__(self, upstream: nnx.Module, architecture: Architecture, layer: int):
        for name, child in vars(upstream).items():
            if isinstance(child, nnx.Module | nnx.Param):
                setattr(self, name, child)
        self.scale = architecture.query_scale
        self.table = architecture.distinct_ropes.index(architecture.ropes[layer])
        self.window = architecture.windows[layer]
        self.softcap = architecture.attention_softcap

    def __call__(
        self,
        x: jax.Array,
        tables: tuple[Table, ...],
        cache: dict[str, jax.Array] | None,
        mask: jax.Array,
    ) -> tuple[dict[str, jax.Array] | None, jax.Array]:
        queries, keys, values = self._project(x)
        queries = rotate(queries, tables[self.table]) * jnp.asarray(self.scale, queries.dtype)
        keys = rotate(keys, tables[self.table])
        if cache is None:
            return None, self._output(
                causal_attention(queries, keys, values, mask, self.window, self.softcap)
            )
        start = cache["end_index"][0]
        keys = jax.lax.dynamic_update_slice(
            cache["k"], keys.astype(cache["k"].dtype), (0, start, 0, 0)
        )
        values = jax.lax.dynamic_update_slice(
            cache["v"], values.astype(cache["v"].dtype), (0, start, 0, 0)
        )
        if self.window is not None:
            rows = start + jnp.arange(x.shape[1])
            mask = mask & (rows[:, None] - jnp.arange(mask.shape[-1])[None, :] < self.window)
        mixed = attention(queries, keys, values, mask, self.softcap)
        return {"k": keys, "v": values, "end_index": cache["end_index"] + x.shape[1]}, self._output(
            mixed
        )

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries ``[B, T, heads, head_dim]``, keys and values ``[B, T, kv_heads,
        head_dim]`` before rotation."""
        modules: Any = self
        if hasattr(self, "qkv_einsum"):
            queries, keys, values = modules.qkv_einsum(x)
        elif hasattr(self, "kv_einsum"):
            queries = modules.q_einsum(x)
            keys, values = modules.kv_einsum(x)
        else:
            queries, keys, values = modules.q_proj(x), modules.k_proj(x), modules.v_proj(x)
        if hasattr(self, "q_bias"):
            queries, keys, values = (
                part + bias.value.reshape(part.shape[-2:]).astype(part.dtype)
                for part, bias in (
                    (queries, modules.q_bias),
                    (keys, modules.k_bias),
                    (values, modules.v_bias),
                )
            )
        if hasattr(self, "q_norm"):
            queries, keys = modules.q_norm(queries), modules.k_norm(keys)
        elif hasattr(self, "_query_norm"):
            queries, keys = modules._query_norm(queries), modules._key_norm(keys)
        return queries, keys, values

    def _output(self, mixed: jax.Array) -> jax.Array:
        modules: Any = self
        return (
            modules.attn_vec_einsum(mixed)
            if hasattr(self, "attn_vec_einsum")
            else modules.o_proj(mixed)
        )


def attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, softcap: float | None
) -> jax.Array:
    """Return softmax attention with any mask ``[B, T, S]``.

    Scaled queries ``[B, T, N, H]``, keys and values ``[B, S, K, H]`` → ``[B, T, N, H]``.
    """
    grouped, keys, values = (
        _by_group(queries, keys.shape[2]),
        keys.transpose(0, 2, 1, 3),
        values.transpose(0, 2, 1, 3),
    )
    return _by_position(_forward_block(grouped, keys, values, mask, softcap)[0])


def causal_attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    """Return causal softmax attention of a row with itself, for training: like ``attention`` with T
    = S, and a sliding window.

    Scores and probabilities are never kept for the backward pass (they would outweigh everything
    else in memory) but computed again from the saved normalisers, as FlashAttention does (Dao,
    2023, https://arxiv.org/abs/2307.08691).
    """
    grouped, keys, values = (
        _by_group(queries, keys.shape[2]),
        keys.transpose(0, 2, 1, 3),
        values.transpose(0, 2, 1, 3),
    )
    return _by_position(_causal(grouped, keys, values, mask, window, softcap))


# Below, queries and outputs are [B, K, G, T, H]: K groups of G heads that share keys and values [B,
# K, S, H].

# A row is cut into blocks of queries, each attending to the keys before its end only: the upper
# triangle of the scores is never computed. More blocks save more and compile longer.
_BLOCK, _MOST_BLOCKS = 128, 8


def _by_group(queries: jax.Array, groups: int) -> jax.Array:
    batch, length, heads, head_dim = queries.shape
    return queries.reshape(batch, length, groups, heads // groups, head_dim).transpose(
        0, 2, 3, 1, 4
    )


def _by_position(mixed: jax.Array) -> jax.Array:
    batch, groups, each, length, head_dim = mixed.shape
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * each, head_dim)


def _times_keys(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return ``[B, K, G, T, H] × [B, K, S, H] → [B, K, G, T, S]`` as one matrix product a group:
    heads and positions make its rows."""
    batch, groups, each, length, head_dim = left.shape
    flat = left.reshape(batch, groups, each * length, head_dim)
    return jnp.einsum("bkmh,bksh->bkms", flat, right).reshape(batch, groups, each, length, -1)


def _times_values(weights: jax.Array, right: jax.Array) -> jax.Array:
    """Return ``[B, K, G, T, S] × [B, K, S, H] → [B, K, G, T, H]``."""
    batch, groups, each, length, span = weights.shape
    flat = weights.reshape(batch, groups, each * length, span)
    return jnp.einsum("bkms,bksh->bkmh", flat, right).reshape(batch, groups, each, length, -1)


def _over_queries(weights: jax.Array, left: jax.Array) -> jax.Array:
    """Return ``[B, K, G, T, S] × [B, K, G, T, H] → [B, K, S, H]``, summed over heads and
    positions."""
    batch, groups, each, length, span = weights.shape
    flat = weights.reshape(batch, groups, each * length, span)
    return jnp.einsum("bkms,bkmh->bksh", flat, left.reshape(batch, groups, each * length, -1))


def _scores(
    queries: jax.Array, keys: jax.Array, mask: jax.Array, softcap: float | None
) -> jax.Array:
    scores = _times_keys(queries, keys).astype(jnp.float32)
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    return jnp.where(mask[:, None, None], scores, MASKED)


def _forward_block(
    queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, softcap: float | None
) -> tuple[jax.Array, jax.Array]:
    """Return output and normaliser (log of the sum of exponentials, ``[B, K, G, T, 1]``) of a block
    of queries."""
    scores = _scores(queries, keys, mask, softcap)
    largest = scores.max(axis=-1, keepdims=True)
    exponentials = jnp.exp(scores - largest)
    total = exponentials.sum(axis=-1, keepdims=True)
    # Dividing the output is cheaper than dividing the weights.
    mixed = _times_values(exponentials.astype(values.dtype), values).astype(jnp.float32) / total
    return mixed.astype(values.dtype), largest + jnp.log(total)


def _blocks(mask: jax.Array, window: int | None) -> Iterator[tuple[slice, slice, jax.Array]]:
    """Yield rows, the columns they can see at all, and the mask between them."""
    length = mask.shape[1]
    step = max(_BLOCK, -(-length // (_MOST_BLOCKS * _BLOCK)) * _BLOCK)
    for start in range(0, length, step):
        end = min(start + step, length)
        first = 0 if window is None else max(0, start - window + 1)
        seen = mask[:, start:end, first:end]
        if window is not None:
            distance = np.arange(start, end)[:, None] - np.arange(first, end)[None, :]
            seen = seen & (distance < window)
        yield slice(start, end), slice(first, end), seen


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _causal(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    return _causal_forward(queries, keys, values, mask, window, softcap)[0]


def _causal_forward(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    window: int | None,
    softcap: float | None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, normalisers = [], []
    for rows, columns, seen in _blocks(mask, window):
        block = _forward_block(
            queries[:, :, :, rows], keys[:, :, columns], values[:, :, columns], seen, softcap
        )
        mixed.append(block[0])
        normalisers.append(block[1])
    output = checkpoint_name(jnp.concatenate(mixed, axis=3), ATTENTION)
    normaliser = checkpoint_name(jnp.concatenate(normalisers, axis=3), ATTENTION)
    return output, (queries, keys, values, mask, output, normaliser)


def _causal_backward(
    window: int | None, softcap: float | None, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    queries, keys, values, mask, output, normaliser = saved
    offsets = (gradient.astype(jnp.float32) * output).sum(axis=-1, keepdims=True)
    by_queries = []
    by_keys, by_values = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32)
    for rows, columns, seen in _blocks(mask, window):
        some, back = queries[:, :, :, rows], gradient[:, :, :, rows]
        scores = _scores(some, keys[:, :, columns], seen, softcap)
        weights = jnp.exp(scores - normaliser[:, :, :, rows])
        by_scores = weights * (_times_keys(back, values[:, :, columns]) - offsets[:, :, :, rows])
        if softcap is not None:
            by_scores *= jnp.where(seen[:, None, None], 1 - jnp.square(scores / softcap), 0.0)
        by_scores = by_scores.astype(queries.dtype)
        by_queries.append(_times_values(by_scores, keys[:, :, columns]))
        by_keys = by_keys.at[:, :, columns].add(_over_queries(by_scores, some))
        by_values = by_values.at[:, :, columns].add(_over_queries(weights.astype(back.dtype), back))
    return (
        jnp.concatenate(by_queries, axis=3),
        by_keys.astype(keys.dtype),
        by_values.astype(values.dtype),
        None,
    )


_causal.defvjp(_causal_forward, _causal_backward)
