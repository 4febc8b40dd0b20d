"""Attention as ``transformers`` computes it, on the projections of google-tunix's modules.

google-tunix's own attention differs from the reference in ways that config.json decides: the rotary base frequency is a
constant in Llama and Qwen3, ``rope_scaling`` has no place at all, Gemma 2 compares positions with key indices in its sliding
mask (wrong when positions restart inside a packed row, or when prompts are padded) and always scales by ``head_dim``. So the
attention modules are replaced by this one. It keeps the parameters, their names and their sharding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runs.architectures import Architecture, Rope

# Large negative rather than -inf: a row that may see nothing (padding) gives finite garbage instead of NaN.
MASKED = -2.3819763e38

# A row is cut into blocks of queries, each attending to the keys before its end only: the upper triangle of the
# scores is never computed. More blocks save more and compile longer.
_BLOCK, _MOST_BLOCKS = 128, 8


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Angle per position of each pair of a head's channels: float32 ``[head_dim / 2]``.

    Follows ``transformers.modeling_rope_utils`` operation by operation, in float32, because rounding is multiplied by positions.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float32(1.0) / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor)
    if rope.kind == "llama3":
        original = rope.original_max_position_embeddings
        wavelengths = np.float32(2 * np.pi) / frequencies
        slowed = np.where(wavelengths > original / rope.low_freq_factor, frequencies / np.float32(rope.factor), frequencies)
        smooth = (original / wavelengths - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        between = (wavelengths >= original / rope.high_freq_factor) & (wavelengths <= original / rope.low_freq_factor)
        blended = (1 - smooth) * slowed / rope.factor + smooth * slowed
        return np.where(between, blended, slowed).astype(np.float32)
    return frequencies


def rotate(x: jax.Array, positions: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """Rotary embedding of ``x [B, L, heads, head_dim]`` at ``positions [B, L]``; angles in float32 whatever the dtype."""
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x, 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class Attention(nnx.Module):
    """Takes over the projections of one of google-tunix's attention modules and computes as config.json says.

    Calls: ``(x, positions, cache, mask)`` with x ``[B, T, D]``, positions ``[B, T]``, mask ``[B, T, S]`` (true: may be seen;
    S = T without a cache, else the cache's length) → ``(new cache or None, output [B, T, D])``. Without a cache the mask must be causal.
    """

    def __init__(self, upstream: nnx.Module, architecture: Architecture, layer: int):
        for name, child in vars(upstream).items():
            if isinstance(child, nnx.Module | nnx.Param):
                setattr(self, name, child)
        self.head_dim = architecture.head_dim
        self.scale = architecture.query_scale
        self.rope = architecture.ropes[layer]
        self.window = architecture.windows[layer]
        self.softcap = architecture.attention_softcap

    def __call__(
        self, x: jax.Array, positions: jax.Array, cache: dict[str, jax.Array] | None, mask: jax.Array
    ) -> tuple[dict[str, jax.Array] | None, jax.Array]:
        queries, keys, values = self._project(x)
        frequencies = inverse_frequencies(self.rope, self.head_dim)
        queries = rotate(queries, positions, frequencies) * jnp.asarray(self.scale, queries.dtype)
        keys = rotate(keys, positions, frequencies)
        if cache is None:
            mixed = self._causal(queries, keys, values, mask)
            return None, self._output(mixed)
        start = cache["end_index"][0]
        keys = jax.lax.dynamic_update_slice(cache["k"], keys.astype(cache["k"].dtype), (0, start, 0, 0))
        values = jax.lax.dynamic_update_slice(cache["v"], values.astype(cache["v"].dtype), (0, start, 0, 0))
        if self.window is not None:
            rows = start + jnp.arange(x.shape[1])
            mask = mask & (rows[:, None] - jnp.arange(mask.shape[-1])[None, :] < self.window)
        mixed = _attend(queries, keys, values, mask, self.softcap)
        return {"k": keys, "v": values, "end_index": cache["end_index"] + x.shape[1]}, self._output(mixed)

    def _causal(self, queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
        length = queries.shape[1]
        block = max(_BLOCK, -(-length // (_MOST_BLOCKS * _BLOCK)) * _BLOCK)
        mixed = []
        for start in range(0, length, block):
            end = min(start + block, length)
            first = 0 if self.window is None else max(0, start - self.window + 1)
            seen = mask[:, start:end, first:end]
            if self.window is not None:
                rows, columns = np.arange(start, end)[:, None], np.arange(first, end)[None, :]
                seen = seen & (rows - columns < self.window)
            # Scores and probabilities are computed again in the backward pass: kept, they would outweigh everything else.
            attend = jax.checkpoint(_attend, static_argnums=(4,))
            mixed.append(attend(queries[:, start:end], keys[:, first:end], values[:, first:end], seen, self.softcap))
        return mixed[0] if len(mixed) == 1 else jnp.concatenate(mixed, axis=1)

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries ``[B, T, heads, head_dim]``, keys and values ``[B, T, kv_heads, head_dim]`` before rotation."""
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
                for part, bias in ((queries, modules.q_bias), (keys, modules.k_bias), (values, modules.v_bias))
            )
        if hasattr(self, "q_norm"):
            queries, keys = modules.q_norm(queries), modules.k_norm(keys)
        elif hasattr(self, "_query_norm"):
            queries, keys = modules._query_norm(queries), modules._key_norm(keys)
        return queries, keys, values

    def _output(self, mixed: jax.Array) -> jax.Array:
        modules: Any = self
        return modules.attn_vec_einsum(mixed) if hasattr(self, "attn_vec_einsum") else modules.o_proj(mixed)


def _attend(queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, softcap: float | None) -> jax.Array:
    """Softmax attention with grouped heads: scaled queries ``[B, T, N, H]``, keys and values ``[B, S, K, H]`` → ``[B, T, N, H]``."""
    batch, length, heads, head_dim = queries.shape
    groups = keys.shape[2]
    grouped = queries.reshape(batch, length, groups, heads // groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, keys)
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    scores = jnp.where(mask[:, None, None], scores.astype(jnp.float32), MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, values).reshape(queries.shape)
