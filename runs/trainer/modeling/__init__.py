"""Models for the training program: loading, correct forward passes, LoRA, export.

docs/models.md says what is supported, what google-tunix computes differently, and what is done
about it.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from runs.spec.architectures import count_parameters
from runs.trainer.modeling.export import export_model
from runs.trainer.modeling.loading import LoadedModel, load_model
from runs.trainer.modeling.lora import apply_lora

__all__ = [
    "LoadedModel",
    "apply_lora",
    "count_parameters",
    "export_model",
    "forward_hidden",
    "load_model",
    "project",
]


def forward_hidden(
    module: nnx.Module, tokens: jax.Array, positions: jax.Array, attention_mask: jax.Array
) -> jax.Array:
    """Return hidden states ``[B, L, D]`` after the final norm, of ``tokens [B, L]`` at ``positions
    [B, L]``.

    ``attention_mask [B, L, L]``: true where the row's token may see the column's; it must be
    causal.
    """
    call: Any = module
    return call(tokens, positions, None, attention_mask, hidden_only=True)[0]


def project(module: nnx.Module, hidden: jax.Array) -> jax.Array:
    """Return logits ``[..., V]`` of hidden states ``[..., D]``, soft cap included."""
    model: Any = module
    return model.project(hidden)
