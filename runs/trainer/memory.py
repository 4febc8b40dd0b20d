"""How much memory a training needs, from its configuration alone, and how much there is."""

from __future__ import annotations

from typing import Any

from runs.architectures import Architecture

_LOSS_CHUNK = 3 * 4 * 2**24  # logits of one chunk of the loss, their softmax and their gradient (loss.CHUNK_LOGITS)
_PROGRAM = 1000 * 2**20  # interpreter, JAX, compiled programs, and what compiling them takes


def memory_estimate(
    architecture: Architecture,
    training: dict[str, Any],
    *,
    total: int,
    trainable: int,
    rows: int,
    length: int,
    itemsize: int,
    shards: int = 1,
    replicas: int = 1,
) -> dict[str, int]:
    """Bytes on each device, by what they are for. An estimate: within a fifth where it was measured (docs/training.md).

    ``total`` and ``trainable`` parameters of ``itemsize`` bytes, spread over ``shards`` devices; ``rows`` of ``length`` tokens
    in a micro-batch, spread over ``shards × replicas`` devices.
    """
    lora = training["lora_rank"] is not None
    width = 4 if lora else itemsize  # LoRA matrices are float32
    tokens = -(-rows // (shards * replicas)) * length
    a = architecture
    kept = a.hidden if training["gradient_checkpointing"] else _kept(a)
    activations = tokens * itemsize * (a.layers * kept + _of_a_layer(a))
    # Scores of one block of queries (modeling/attention.py), forward and backward, in float32.
    block = max(128, -(-length // 1024) * 128)
    scores = 3 * 4 * -(-rows // (shards * replicas)) * a.heads * min(block, length) * length
    # A loop over the layers has their weights side by side, beside the layers' own (modeling/decoder.py).
    looped = (total - trainable * lora - a.vocab * a.hidden * (1 if a.tied else 2)) * itemsize // shards
    copies = 2 if training["gradient_accumulation_steps"] > 1 else 1
    parts = {
        "weights": (total - trainable * lora) * itemsize // shards + trainable * 4 * lora // shards + looped,
        "gradients": copies * trainable * width // shards,
        # Two moments in float32, a float32 copy of narrower weights, and the weights being updated beside the old ones.
        "optimizer": trainable * (8 + (4 if width < 4 else 0) + width) // shards,
        "activations": activations + scores,
        "loss": min(_LOSS_CHUNK, 3 * 4 * tokens * a.vocab),
        "program": _PROGRAM,
    }
    return {**parts, "total": sum(parts.values())}


def _kept(a: Architecture) -> int:
    """Numbers that each layer keeps for the backward pass, a token (modeling/decoder.py): its input and the outputs of its
    projections and its attention.
    """
    return 2 * a.hidden + 2 * a.heads * a.head_dim + 2 * a.kv_heads * a.head_dim + 2 * a.intermediate


def _of_a_layer(a: Architecture) -> int:
    """Numbers that the layer at work has, a token: inputs of its norms, projections, attention and activation."""
    attention = 2 * a.heads * a.head_dim + 2 * a.kv_heads * a.head_dim
    norms = 4 if a.is_gemma else 2
    return (norms + 4) * a.hidden + 2 * attention + 4 * a.intermediate
