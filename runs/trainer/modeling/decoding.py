"""The forward pass of decoding: weights in a layout for it, a pack of prompts, one token a row.

Training works on rows of tokens, ``[rows, positions, features]``. Decoding has one token a row, so
here activations are ``[features, tokens]`` and every matrix is ``[out, in]``, as in a checkpoint:
a product of a matrix and a few columns reads the matrix once, in the order in which it lies in
memory. On a CPU with 16 rows that is 1.2 times as fast as rows times ``[in, out]``. To join the
matrices of queries, keys and values, or of gate and up, saves 3 % and is not done
(docs/performance.md, "Generation").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runs.spec.architectures import Architecture, Tensor, tensors
from runs.trainer.modeling.attention import MASKED, causal_attention, inverse_frequencies

Weights = dict[str, Any]
Keys = tuple[jax.Array, ...]  # one array a layer


class Shared(NamedTuple):
    """A matrix that is the module's own array, with its LoRA matrices beside it."""

    stored: jax.Array  # its axes are (in…, out…)
    lora: tuple[jax.Array, jax.Array, Any] | None  # A [in, rank], B [rank, out], scale


Matrix = jax.Array | Shared  # [out, in] if it is a copy


def decoding_weights(
    module: nnx.Module, architecture: Architecture, *, copy: bool | None = None
) -> Weights:
    """Return the module's weights for decoding. The module is not changed.

    ``copy``: the matrices of layers (and of a head of its own) are copied to ``[out, in]``, with
    the LoRA matrices added. Otherwise they are the module's own arrays, and LoRA matrices are
    applied to the activations. None: copy on CPUs, where it is faster; other devices multiply
    either layout as fast, and have less memory. Gemma's queries, keys and values are copied in any
    case, for the module has them in one array, or their inputs between their outputs. Embeddings
    are the module's own in any case.

    A training step gives its arrays to the next one, so decoding weights must not be used after a
    step.
    """
    layers: list[dict[str, Tensor]] = [{} for _ in range(architecture.layers)]
    outside: dict[str, Tensor] = {}
    for tensor in tensors(architecture):
        if tensor.path[0] == "layers":
            name = tensor.name.split(".", 3)[3]
            layers[int(tensor.path[1])][name] = tensor
        else:
            outside[tensor.name] = tensor
    embedding = _owner(module, outside["model.embed_tokens.weight"]).input_embedding.value
    if copy is None:
        copy = all(device.platform == "cpu" for device in embedding.devices())
    take = partial(_take, module, is_gemma=architecture.is_gemma, copy=copy)
    weights: Weights = {
        "embedding": embedding,
        "layers": tuple(take(_short_names(layer)) for layer in layers),
        **take({"norm": outside["model.norm.weight"]}),
    }
    head = outside.get("lm_head.weight")
    weights |= {"head": embedding} if head is None else take({"head": head})
    return weights


def copied_size(architecture: Architecture, *, copy: bool) -> int:
    """Return how many numbers ``decoding_weights`` copies."""
    return sum(
        tensor.size
        for tensor in tensors(architecture)
        if tensor.path[0] != "embedder" and (copy or not _is_in_out(tensor))
    )


def _short_names(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a layer by ``q_proj``, ``q_bias``, ``input_layernorm`` …"""
    short = {}
    for name, tensor in layer.items():
        owner, kind = name.split(".")[-2:]
        short[owner.replace("proj", "bias") if kind == "bias" else owner] = tensor
    return short


def _take(
    module: nnx.Module, parts: dict[str, Tensor], *, is_gemma: bool, copy: bool
) -> dict[str, Matrix]:
    stored, lora, shared = {}, {}, {}
    for name, tensor in parts.items():
        owner = _owner(module, tensor)
        value = getattr(owner, str(tensor.path[-1])).value
        a = getattr(owner, f"{tensor.projection}_lora_a", None)
        adapted = None
        if a is not None:
            adapted = a.value, getattr(owner, f"{tensor.projection}_lora_b").value, owner.scale
        if not copy and _is_in_out(tensor):
            shared[name] = Shared(value, adapted)
            continue
        stored[name] = value
        if adapted is not None:
            lora[name] = adapted
    # without what tells one layer from another, so that they share a compiled function
    alike = tuple((name, replace(parts[name], name="", path=())) for name in stored)
    return {**shared, **_merged(stored, lora, parts=alike, is_gemma=is_gemma)}


def _is_in_out(tensor: Tensor) -> bool:
    """Return whether the module has a matrix ``[out, in]`` of a checkpoint as ``[in, out]``."""
    if len(tensor.shape) != 2 or tensor.index is not None:
        return False
    outs = 1 if tensor.expanded[0] == tensor.shape[0] else 2
    count = len(tensor.expanded)
    return tensor.axes == (*range(outs, count), *range(outs))


@partial(jax.jit, static_argnames=("parts", "is_gemma"))
def _merged(
    stored: dict[str, jax.Array],
    lora: dict[str, tuple[jax.Array, jax.Array, float]],
    *,
    parts: tuple[tuple[str, Tensor], ...],
    is_gemma: bool,
) -> dict[str, jax.Array]:
    merged = {}
    for name, tensor in parts:
        value = stored[name] if tensor.index is None else stored[name][tensor.index]
        value = value.transpose(np.argsort(tensor.axes)).reshape(tensor.shape)
        if name in lora:
            a, b, scale = lora[name]
            value = (value.astype(jnp.float32) + scale * (b.T @ a.T)).astype(value.dtype)
        if "norm" in name:
            value = value.astype(jnp.float32) + (1.0 if is_gemma else 0.0)
        merged[name] = value
    return merged


def _owner(module: Any, tensor: Tensor) -> Any:
    for step in tensor.path[:-1]:
        module = module[step] if isinstance(step, int) else getattr(module, step)
    return module


# Attention of one layer: (layer, queries [N, H, T], keys [K, H, T], values) → [N × H, T].
Attend = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]


def _forward(
    weights: Weights,
    architecture: Architecture,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
) -> jax.Array:
    """Return hidden states ``[D, T]`` after the final norm, of ``tokens [T]`` at ``positions
    [T]``."""
    a = architecture
    x = weights["embedding"][tokens].T
    if a.is_gemma:
        x = x * jnp.sqrt(a.hidden).astype(x.dtype)
    tables = []
    for rope in a.distinct_ropes:
        angles = positions.astype(jnp.float32) * inverse_frequencies(rope, a.head_dim)[:, None]
        tables.append((jnp.sin(angles), jnp.cos(angles)))
    for index, layer in enumerate(weights["layers"]):
        x = _layer(a, index, layer, x, tables[a.distinct_ropes.index(a.ropes[index])], attend)
    return _norm(x, weights["norm"], a.norm_eps)


def _layer(
    a: Architecture,
    index: int,
    w: dict[str, Any],
    x: jax.Array,
    table: tuple[jax.Array, jax.Array],
    attend: Attend,
) -> jax.Array:
    # Gemma 2 and 3 have a norm at the end of each branch as well, under the name that is the next
    # branch's first norm elsewhere.
    four = "pre_feedforward_layernorm" in w
    h = _norm(x, w["input_layernorm"], a.norm_eps)
    queries, keys, values = (
        _heads(w, letter, h, a.head_dim, a.norm_eps) for letter in ("q", "k", "v")
    )
    queries = _rotate(queries, table) * jnp.asarray(a.query_scale, x.dtype)
    h = _product(w["o_proj"], attend(index, queries, _rotate(keys, table), values))
    x = x + (_norm(h, w["post_attention_layernorm"], a.norm_eps) if four else h)
    name = "pre_feedforward_layernorm" if four else "post_attention_layernorm"
    h = _norm(x, w[name], a.norm_eps)
    gate = _product(w["gate_proj"], h)
    gate = jax.nn.gelu(gate, approximate=True) if a.is_gemma else jax.nn.silu(gate)
    h = _product(w["down_proj"], gate * _product(w["up_proj"], h))
    return x + (_norm(h, w["post_feedforward_layernorm"], a.norm_eps) if four else h)


def _product(matrix: Matrix, x: jax.Array) -> jax.Array:
    """Return the matrix times ``x [in, T]``: ``[out, T]``."""
    if not isinstance(matrix, Shared):
        return matrix @ x
    product = jnp.einsum("io,it->ot", matrix.stored.reshape(x.shape[0], -1), x)
    if matrix.lora is None:
        return product
    a, b, scale = matrix.lora
    low = scale * (a.astype(x.dtype).T @ x)
    return product + b.astype(x.dtype).T @ low.astype(x.dtype)


def _heads(
    w: dict[str, Any], letter: str, h: jax.Array, head_dim: int, epsilon: float
) -> jax.Array:
    """Return queries, keys or values ``[heads, H, T]``."""
    projected = _product(w[f"{letter}_proj"], h)
    if f"{letter}_bias" in w:
        projected = projected + w[f"{letter}_bias"][:, None]
    projected = projected.reshape(-1, head_dim, h.shape[-1])
    if f"{letter}_norm" in w:
        projected = _norm(projected, w[f"{letter}_norm"], epsilon)
    return projected


def _norm(x: jax.Array, weight: jax.Array, epsilon: float) -> jax.Array:
    """Return the RMS norm of the features of ``x [..., features, T]``, in float32."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), axis=-2, keepdims=True)
    return (wide * jax.lax.rsqrt(mean + epsilon) * weight[:, None]).astype(x.dtype)


def _rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the rotary embedding of ``x [heads, H, T]``."""
    sin, cos = table
    first, second = jnp.split(x, 2, axis=1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1).astype(
        x.dtype
    )


def logits(weights: Weights, architecture: Architecture, hidden: jax.Array) -> jax.Array:
    """Return logits ``[V, T]`` in float32 of hidden states ``[D, T]``."""
    values = _product(weights["head"], hidden).astype(jnp.float32)
    cap = architecture.final_softcap
    return values if cap is None else jnp.tanh(values / cap) * cap


def pack_forward(
    weights: Weights,
    architecture: Architecture,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
) -> tuple[jax.Array, Keys, Keys]:
    """Compute prompts side by side; return hidden states ``[D, T]``, keys ``[K, H, T]`` and values
    ``[K, T, H]`` of every layer.

    ``tokens``, ``positions``, ``segments`` are ``[T]``; a token sees those before it in its own
    segment.
    """
    a = architecture
    length = tokens.shape[0]
    mask = (segments[:, None] == segments[None, :]) & np.tri(length, dtype=bool)
    all_keys, all_values = [], []

    def attend(index: int, queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        all_keys.append(keys)
        all_values.append(values.transpose(0, 2, 1))
        q, k, v = (part.transpose(2, 0, 1)[None] for part in (queries, keys, values))
        mixed = causal_attention(q, k, v, mask[None], a.windows[index], a.attention_softcap)
        return mixed[0].reshape(length, -1).T

    hidden = _forward(weights, a, tokens, positions, attend)
    return hidden, tuple(all_keys), tuple(all_values)


def step_forward(
    weights: Weights,
    architecture: Architecture,
    tokens: jax.Array,
    *,
    keys: Keys,
    values: Keys,
    starts: jax.Array,
    column: jax.Array,
) -> tuple[jax.Array, Keys, Keys]:
    """Compute one token for each row; return hidden states ``[D, B]`` and the cache with the tokens
    in it.

    The cache of a layer is keys ``[B, K, H, C]`` (attention takes three quarters of the time that
    it takes with ``[B, K, C, H]``) and values ``[B, K, C, H]``. All rows write to the
    same ``column``; row b's tokens are in the columns from ``starts[b]`` on. So nothing is
    scattered, and a row's positions are ``column - starts[b]``.
    """
    a = architecture
    rows, groups = tokens.shape[0], a.kv_heads
    new_keys, new_values = [], []
    columns = jnp.arange(keys[0].shape[-1])
    seen = (columns[None, :] >= starts[:, None]) & (columns <= column)[None, :]

    def attend(index: int, queries: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k = k.transpose(2, 0, 1)[..., None].astype(keys[index].dtype)
        v = v.transpose(2, 0, 1)[:, :, None].astype(values[index].dtype)
        new_keys.append(jax.lax.dynamic_update_slice(keys[index], k, (0, 0, 0, column)))
        new_values.append(jax.lax.dynamic_update_slice(values[index], v, (0, 0, column, 0)))
        window = a.windows[index]
        visible = seen if window is None else seen & (columns > column - window)[None, :]
        q = queries.transpose(2, 0, 1).reshape(rows, groups, -1, a.head_dim)
        scores = jnp.einsum("bkgh,bkhc->bkgc", q, new_keys[-1]).astype(jnp.float32)
        if a.attention_softcap is not None:
            scores = jnp.tanh(scores / a.attention_softcap) * a.attention_softcap
        scores = jnp.where(visible[:, None, None], scores, MASKED)
        exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
        total = exponentials.sum(axis=-1, keepdims=True)
        mixed = jnp.einsum("bkgc,bkch->bkgh", exponentials.astype(v.dtype), new_values[-1])
        mixed = (mixed.astype(jnp.float32) / total).astype(queries.dtype)
        return mixed.reshape(rows, -1).T

    hidden = _forward(weights, a, tokens, column - starts, attend)
    return hidden, tuple(new_keys), tuple(new_values)
