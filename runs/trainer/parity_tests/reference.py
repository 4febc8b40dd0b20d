"""Tiny random checkpoints made by ``transformers``, one for every way a family computes, and their
reference logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY = 96

_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Name → (model_type, what differs from _BASE).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_theta": 123_456.0, "head_dim": 16, "rms_norm_eps": 1e-3}),
    "llama-tied": (
        "llama",
        {"rope_theta": 10_000.0, "tie_word_embeddings": True, "num_key_value_heads": 4},
    ),
    "llama3-scaling": ("llama", {"rope_theta": 500_000.0, "rope_scaling": _LLAMA3, "head_dim": 16}),
    "llama-linear-scaling": (
        "llama",
        {"rope_theta": 10_000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "qwen2": ("qwen2", {"rope_theta": 1_000_000.0}),
    "qwen2-tied-window": (
        "qwen2",
        {
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 37,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("qwen3", {"rope_theta": 5_000_000.0, "head_dim": 16}),
    "qwen3-tied": (
        "qwen3",
        {"rope_theta": 1_000_000.0, "head_dim": 32, "tie_word_embeddings": True},
    ),
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma-equal-heads": (
        "gemma",
        {"head_dim": 16, "num_key_value_heads": 4, "rope_theta": 50_000.0, "rms_norm_eps": 1e-4},
    ),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 29,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma2-27b": (  # the query is not scaled by head_dim, and the caps are off
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 9,
            "sliding_window": 64,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "num_key_value_heads": 4,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 7,
            "sliding_window": 29,
            "num_hidden_layers": 4,
            "sliding_window_pattern": 3,
            "num_key_value_heads": 1,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3-pattern": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 40,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
}


def make_checkpoint(folder: Path, name: str, *, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with loud weights, so that a wrong computation shows: logits of several units,
    norms far from one."""
    model_type, changes = CASES[name]
    config = transformers.AutoConfig.for_model(model_type, **{**_BASE, **changes})
    torch.manual_seed(sum(map(ord, name)))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    loud(model)
    target = folder / f"{name}-{dtype}".replace("torch.", "")
    model.to(dtype).save_pretrained(target)
    return target


def loud(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("bias"):
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        elif parameter.ndim == 1:
            parameter.copy_(1 + 0.4 * torch.randn_like(parameter))
        elif "embed" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        else:
            parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[-1] ** -0.5)


def load_reference(folder: Path, **kwargs: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, **kwargs
    )
    return model.eval()


def reference_logits(model: Any, tokens: np.ndarray, first_position: int = 0) -> np.ndarray:
    """Logits ``[L, V]`` of one sequence ``[L]`` alone."""
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    positions = torch.arange(first_position, first_position + len(tokens))[None]
    return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float().numpy()
