"""How much memory a training needs, from its configuration alone, and how much there is."""

from __future__ import annotations

from typing import Any

from runs.spec.architectures import Architecture

_LOSS_CHUNK = 2**24  # logits of one chunk of the loss (loss.CHUNK_LOGITS)

# Measured on CPUs (docs/training.md): interpreter and libraries; what compiling takes and keeps, by
# layers; how much more a step takes than its arrays, because freed pieces are too small for the
# next one.
_INTERPRETER = 450 * 2**20
_COMPILER, _COMPILER_BY_LAYER = 300 * 2**20, 22 * 2**20
# its optimizer works on all layers at once
_COMPILER_LORA, _COMPILER_LORA_BY_LAYER = (
    220 * 2**20,
    6 * 2**20,
)
_SPARE = 0.2
_ACCELERATOR = 1000 * 2**20  # the program's share of an accelerator's memory; not measured


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
    on_cpu: bool = True,
) -> dict[str, int]:
    """Return the bytes on each device, by what they are for: the most there is at once, in a step
    and while its program is compiled, or while exact match is measured.

    ``total`` and ``trainable`` parameters of ``itemsize`` bytes, spread over ``shards`` devices;
    ``rows`` of ``length`` tokens in a micro-batch, spread over ``shards × replicas`` devices.
    docs/training.md has the figures that it was compared with.
    """
    lora = training["lora_rank"] is not None
    width = 4 if lora else itemsize  # LoRA matrices are float32
    a = architecture
    frozen = total - trainable if lora else 0
    # embeddings and head, which are no part of a layer
    outside = a.vocab * a.hidden * (1 if a.tied else 2)
    weights = frozen * itemsize + trainable * width
    # A loop over the layers has their weights side by side, beside the layers' own
    # (modeling/decoder.py).
    looped = (total - trainable * lora - outside) * itemsize + trainable * 4 * lora
    gradients = trainable * width
    of_layers = gradients if lora else gradients - outside * width

    local_rows = -(-rows // (shards * replicas))
    tokens = local_rows * length
    kept = (
        a.layers
        * tokens
        * itemsize
        * (a.hidden if training["gradient_checkpointing"] else _kept(a))
    )
    # Scores of one block of queries (modeling/attention.py), forward and backward, in float32; once
    # more before a soft cap.
    block = max(128, -(-length // 1024) * 128)
    scores = (
        (3 if a.attention_softcap is None else 4)
        * 4
        * local_rows
        * a.heads
        * min(block, length)
        * length
    )
    at_work = scores + tokens * itemsize * (
        _of_a_layer(a) + (_kept(a) if training["gradient_checkpointing"] else 0)
    )
    # Logits, their softmax and their gradient.
    loss = (3 if a.final_softcap is None else 4) * 4 * min(_LOSS_CHUNK, tokens * a.vocab)
    parts = {
        # A step gives all weights again, the frozen ones as well.
        "weights": (2 * weights + looped) // shards,
        "gradients": (2 if training["gradient_accumulation_steps"] > 1 else 1)
        * gradients
        // shards,
        "optimizer": trainable
        * (8 + (4 if width < 4 else 0))
        // shards,  # two moments, and a float32 copy of narrower weights
        "activations": kept + at_work,
        # It comes before the layers' backward pass, whose place it has.
        "loss": max(0, loss - at_work - of_layers // shards),
    }
    if training["exact_match_examples"]:
        # Between two steps, where weights are there once and nothing else but the optimizer.
        free = sum(parts.values()) - parts["optimizer"] - weights // shards
        needed = _of_exact_match(a, training, itemsize=itemsize, shards=shards, on_cpu=on_cpu)
        parts["exact_match"] = max(0, needed - free)
    if on_cpu:
        start, each = (
            (_COMPILER_LORA, _COMPILER_LORA_BY_LAYER) if lora else (_COMPILER, _COMPILER_BY_LAYER)
        )
        parts["program"] = _INTERPRETER + start + each * a.layers
        parts["spare"] = int(
            _SPARE * sum(size for name, size in parts.items() if name != "program")
        )
    else:
        parts["program"] = _ACCELERATOR
    return {**parts, "total": sum(parts.values())}


def _of_exact_match(
    a: Architecture, training: dict[str, Any], *, itemsize: int, shards: int, on_cpu: bool
) -> int:
    """Return the bytes that exact match takes: matrices copied for decoding, and what generating
    takes."""
    # Only here, because they need JAX.
    from runs.trainer.evaluation.exact_match import decoding_rows  # noqa: PLC0415
    from runs.trainer.evaluation.generate import generation_bytes  # noqa: PLC0415
    from runs.trainer.modeling.decoding import copied_size  # noqa: PLC0415

    prompt, answer = training["max_seq_length"], training["exact_match_max_tokens"]
    rows = decoding_rows(
        a, problems=training["exact_match_examples"], length=prompt + answer, itemsize=itemsize
    )
    return copied_size(a, copy=on_cpu) * itemsize // shards + generation_bytes(
        a, rows=rows, prompt_length=prompt, max_tokens=answer, itemsize=itemsize
    )


def _kept(a: Architecture) -> int:
    """Return how many numbers each layer keeps for the backward pass, a token
    (modeling/decoder.py): its input and the outputs of its projections and its attention."""
    return (
        2 * a.hidden + 2 * a.heads * a.head_dim + 2 * a.kv_heads * a.head_dim + 2 * a.intermediate
    )


def _of_a_layer(a: Architecture) -> int:
    """Return how many numbers the layer at work has, a token: inputs of its norms, projections,
    attention and activation."""
    attention = 2 * a.heads * a.head_dim + 2 * a.kv_heads * a.head_dim
    norms = 4 if a.is_gemma else 2
    return (norms + 4) * a.hidden + 2 * attention + 4 * a.intermediate
