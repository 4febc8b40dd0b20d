"""LoRA: low-rank matrices beside frozen projections (Hu et al., 2021,
https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runs.spec.architectures import Tensor, tensors
from runs.spec.parameters import LORA_TARGETS
from runs.trainer.errors import ModelError
from runs.trainer.modeling.loading import LoadedModel
from runs.trainer.modeling.weights import by_parameter, place


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def adapted(x: jax.Array, matrix: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Return ``x·(W + scale·A·B)`` of ``x [..., in]``, a frozen ``W [in, out]``, ``A [in, rank]``
    and ``B [rank, out]``.

    In float32 the update is added to the weights, which are smaller than the activations: the
    textbook form ``x·W + scale·(x·A)·B`` passes over a batch's activations several times more, a
    third of a step's time on a CPU. In lower precision small updates would be rounded away in the
    sum, so there the textbook form is used. ``W`` gets no gradient.
    """
    return _adapted(x, matrix, a, b, scale)


def _adapted(
    x: jax.Array, matrix: jax.Array, a: jax.Array, b: jax.Array, scale: float
) -> jax.Array:
    if x.dtype == jnp.float32:
        return x @ (matrix + scale * (a @ b))
    return x @ matrix + (scale * (x @ a.astype(x.dtype))) @ b.astype(x.dtype)


def _adapted_forward(
    x: jax.Array, matrix: jax.Array, a: jax.Array, b: jax.Array, scale: float
) -> tuple[jax.Array, Any]:
    return _adapted(x, matrix, a, b, scale), (x, matrix, a, b)


def _adapted_backward(
    scale: float, saved: Any, gradient: jax.Array
) -> tuple[jax.Array, None, jax.Array, jax.Array]:
    x, matrix, a, b = saved
    rows, back = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    low = scale * (back @ b.T.astype(back.dtype))  # [tokens, rank]
    # Not through the sum again: it would have to be kept until here, a copy of all weights.
    by_x = gradient @ matrix.T + (low @ a.T.astype(low.dtype)).reshape(x.shape)
    by_a = (rows.T @ low).astype(a.dtype)
    by_b = (scale * (rows @ a.astype(rows.dtype)).T @ back).astype(b.dtype)
    return by_x, None, by_a, by_b


adapted.defvjp(_adapted_forward, _adapted_backward)


@dataclass(frozen=True)
class LoraSettings:
    """What was asked for; the update of a projection is ``alpha / rank · A·B``."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoraProjection(nnx.Module):
    """A frozen projection of google-tunix with LoRA matrices beside it.

    For each checkpoint matrix ``[out, in]`` that is adapted there are ``<name>_lora_a [in, rank]``
    and ``<name>_lora_b [rank, out]``, ``nnx.LoRAParam`` in float32: what google-tunix's trainer,
    sampler and checkpoints look for.
    """

    def __init__(
        self,
        base: Any,
        parts: tuple[Tensor, ...],
        settings: LoraSettings,
        seed: int,
        mesh: jax.sharding.Mesh | None,
    ):
        # Small, and whole on every device.
        everywhere = (
            None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        )
        # Without what tells one layer from another: layers that compute alike are found by their
        # structure (decoder.py).
        self.parts = tuple(replace(part, name="", path=()) for part in parts)
        self.weight_name = str(parts[0].path[-1])
        self.scale = settings.scale
        setattr(self, self.weight_name, getattr(base, self.weight_name))
        for part in parts:
            if part.projection in settings.targets:
                out, width = part.shape
                generator = np.random.default_rng([seed, zlib.crc32(part.name.encode())])
                # As PEFT starts: A uniform in ±1/sqrt(in), B zero, so that the first step starts
                # from the base model.
                a = generator.uniform(-1.0, 1.0, (width, settings.rank)).astype(
                    np.float32
                ) * np.float32(width**-0.5)
                b = np.zeros((settings.rank, out), np.float32)
                setattr(
                    self,
                    f"{part.projection}_lora_a",
                    nnx.LoRAParam(place(a, np.float32, everywhere)),
                )
                setattr(
                    self,
                    f"{part.projection}_lora_b",
                    nnx.LoRAParam(place(b, np.float32, everywhere)),
                )

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = jax.lax.stop_gradient(getattr(self, self.weight_name).value)
        outputs = [self._part(x, weight, part) for part in self.parts]
        return outputs[0] if len(outputs) == 1 else jnp.stack(outputs)

    def _part(self, x: jax.Array, weight: jax.Array, part: Tensor) -> jax.Array:
        # The checkpoint's axes are (out…, in…); the stored weight is a permutation of them.
        outs = 1 if np.prod(part.expanded[:1]) == part.shape[0] else 2
        order = [*range(outs, len(part.expanded)), *range(outs)]
        stored = weight if part.index is None else weight[part.index]
        matrix = stored.transpose([part.axes.index(axis) for axis in order]).reshape(
            part.shape[1], part.shape[0]
        )
        flat = x.reshape(*x.shape[: x.ndim - (len(part.expanded) - outs)], part.shape[1])
        a = getattr(self, f"{part.projection}_lora_a", None)
        b = getattr(self, f"{part.projection}_lora_b", None)
        y = (
            flat @ matrix
            if a is None or b is None
            else adapted(flat, matrix, a.value, b.value, self.scale)
        )
        return y.reshape(*flat.shape[:-1], *part.expanded[:outs])


def apply_lora(
    loaded: LoadedModel,
    *,
    rank: int,
    alpha: float | None,
    targets: list[str] | tuple[str, ...] | None,
    seed: int,
) -> None:
    """Put LoRA matrices beside the projections named by ``targets`` (Hugging Face names; None:
    all), in place.

    Afterwards only they are ``nnx.LoRAParam``; the base weights get no gradient. ``alpha`` None
    means twice the rank.
    """
    settings = LoraSettings(
        rank, float(alpha if alpha is not None else 2 * rank), tuple(targets or LORA_TARGETS)
    )
    unknown = [name for name in settings.targets if name not in LORA_TARGETS]
    if unknown:
        raise ModelError(f"lora_targets: {unknown[0]!r} is not one of {', '.join(LORA_TARGETS)}")
    for path, parts in by_parameter(tensors(loaded.architecture)).items():
        if any(part.projection in settings.targets for part in parts):
            owner: Any = loaded.module
            for step in path[:-2]:
                owner = owner[step] if isinstance(step, int) else getattr(owner, step)
            name = str(path[-2])
            setattr(
                owner,
                name,
                LoraProjection(getattr(owner, name), tuple(parts), settings, seed, loaded.mesh),
            )
    loaded.lora = settings
