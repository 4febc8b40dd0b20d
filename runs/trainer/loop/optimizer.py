"""AdamW with warm-up, a schedule, clipping and weight decay where it belongs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def learning_rate(
    step: Any,
    *,
    peak: float,
    total: int,
    warmup_ratio: float,
    shape: str,
    start: int = 0,
    xp: Any = jnp,
) -> Any:
    """Return the learning rate of a step, counted from 0; ``xp`` is ``jax.numpy`` in the compiled
    step and ``numpy`` for the log.

    It rises to ``peak`` over the first ``warmup_ratio`` of the steps from ``start`` to ``total``
    (already above 0 at the first), then falls to 0 at ``total`` along half a cosine or a line, or
    stays.
    """
    step, total = xp.asarray(step - start, xp.float32), total - start
    warmup = math.ceil(warmup_ratio * total)
    rising = (step + 1) / max(1, warmup)
    progress = xp.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
    falling = {
        "cosine": 0.5 * (1 + xp.cos(xp.pi * progress)),
        "linear": 1 - progress,
        "constant": xp.ones_like(progress),
    }[shape]
    return peak * xp.where(step < warmup, rising, falling)


def make_optimizer(
    training: dict[str, Any], *, total: int, start: int = 0, dtype: Any = jnp.float32
) -> optax.GradientTransformation:
    """Return the optimizer that the manifest's ``training`` section describes, for weights of
    ``dtype``.

    Its schedule covers the steps from ``start`` to ``total``.
    """

    clip, decay = training["max_grad_norm"], training["weight_decay"]
    optimizer = optax.chain(
        # Links that are switched off stay in the chain: the state keeps its form, so a resumed run
        # may change them.
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.scale_by_adam(*BETAS, eps=EPSILON),
        optax.identity() if decay == 0 else optax.add_decayed_weights(decay, mask=decayed),
        optax.scale_by_learning_rate(
            partial(learning_rate, total=total, start=start, **schedule_settings(training))
        ),
    )
    if training["lora_rank"] is not None:
        return across_layers(optimizer)  # LoRA matrices are float32 whatever the model is
    return optimizer if jnp.dtype(dtype) == jnp.float32 else float32_master(optimizer)


def schedule_settings(training: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``learning_rate`` that the manifest's ``training`` section sets."""
    return {
        "peak": training["learning_rate"],
        "warmup_ratio": training["warmup_ratio"],
        "shape": training["lr_schedule"],
    }


def decayed(params: Any) -> Any:
    """Return true for matrices, false for norms and biases: pulling a norm's weight towards zero
    would switch its layer off."""

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        names = "/".join(_names(path)).lower()
        return leaf.ndim >= 2 and "norm" not in names and "bias" not in names

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def stack_layers(tree: Any) -> dict[str, jax.Array]:
    """Return leaves by their name without the layer, ``[layers, …]``."""
    alike: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        alike.setdefault(_without_layer(path, leaf), []).append(leaf)
    return {name: jnp.stack(leaves) for name, leaves in alike.items()}


def across_layers(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let the optimizer work on the same matrix of all layers at once (``stack_layers``).

    LoRA has many small ones, and XLA compiles each operation on each of them apart: for the 420 of
    SmolLM2-135M that was 24 of the 36 seconds that the step took to compile.
    """

    def init(params: Any) -> Any:
        return inner.init(stack_layers(params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(
            stack_layers(gradients), state, None if params is None else stack_layers(params)
        )
        layers = {name: iter(jnp.unstack(stack)) for name, stack in updates.items()}
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: next(layers[_without_layer(path, leaf)]), gradients
        ), state

    return optax.GradientTransformation(init, update)


def _without_layer(path: tuple[Any, ...], leaf: jax.Array) -> str:
    """Return the name of what is alike in all layers, with its shape. A path may end with an nnx
    variable's attribute ``value``."""
    names = [name for name in _names(path) if not name.isdigit() and name != "value"]
    return "/".join([*names, "x".join(map(str, leaf.shape))])


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", key))) for key in path]


class MasterState(NamedTuple):
    """``master``: the weights in float32; ``inner``: the state of the optimizer that works on
    them."""

    master: Any
    inner: Any


def float32_master(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keep a float32 copy of weights of lower precision and let the optimizer work on it.

    A bfloat16 weight has 8 bits of mantissa: an update below 1/256 of it would be rounded away, and
    at a learning rate of 2e-5 nearly all are.
    """

    def init(params: Any) -> MasterState:
        master = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return MasterState(master, inner.init(master))

    def update(gradients: Any, state: MasterState, params: Any = None) -> tuple[Any, MasterState]:
        updates, inner_state = inner.update(
            jax.tree.map(lambda g: g.astype(jnp.float32), gradients), state.inner, state.master
        )
        master = optax.apply_updates(state.master, updates)
        # What is added to a weight is the exact difference to its new, rounded value.
        steps = jax.tree.map(
            lambda m, p: m.astype(p.dtype).astype(jnp.float32) - p.astype(jnp.float32),
            master,
            params,
        )
        return steps, MasterState(master, inner_state)

    return optax.GradientTransformation(init, update)
