"""Tiny random model folders of every family, written without PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from runs.spec.architectures import read_architecture, tensors
from runs.trainer.modeling.weights import Names, write_safetensors

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 4096,
}
_WINDOWS = {"sliding_window": 9, "query_pre_attn_scalar": 12, "num_hidden_layers": 3}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_theta": 12_345.0},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "rope_theta": 5e6},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": {
        "model_type": "gemma2",
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 9.0,
        **_WINDOWS,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window_pattern": 3,
        "num_key_value_heads": 4,
        **_WINDOWS,
    },
}


def make_folder(folder: Path, family: str, **changes: Any) -> Path:
    """A folder with config.json and loud random weights; no tokenizer."""
    config = {**_BASE, **CONFIGS[family], **changes}
    table = tensors(read_architecture(config))
    generator = np.random.default_rng(4)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names: Names = {tensor.name: (np.dtype(np.float32), tensor.shape) for tensor in table}

    def arrays() -> Any:
        for tensor in table:
            # Quiet embeddings: tied and loud, they would only repeat the last token.
            scale = (
                0.4
                if len(tensor.shape) == 1
                else (1.5 if tensor.projection else 0.3) * tensor.shape[-1] ** -0.5
            )
            yield generator.standard_normal(tensor.shape, dtype=np.float32) * np.float32(scale) + (
                len(tensor.shape) == 1
            )

    write_safetensors(folder, names, arrays())
    return folder
