"""Which models can be trained: the families of google-tunix, the built-in presets, and what a hub
id tells.

Plain Python: the web process judges a model id with it, the training program builds models with it.
"""

from __future__ import annotations

import re
from typing import Any

# ``model_type`` in a Hugging Face config.json → family of google-tunix.
MODEL_TYPES: dict[str, str] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
}

BYTE_VOCABULARY = 260  # 256 byte values, then padding, begin, end and one spare id

# Presets are config.json files of models with random weights and a byte vocabulary: nothing is
# downloaded.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "vocab_size": BYTE_VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
}

# The first that matches names the family. Names that only look alike (CodeGemma, PaliGemma …) come
# first and are refused.
_HUB_NAMES: tuple[tuple[str, str | None], ...] = (
    (
        r"pali-?gemma|code-?gemma|recurrent-?gemma|shield-?gemma|t5gemma|gemma-?3n|embedding-?gemma",
        None,
    ),
    (r"qwen-?[\d.]*-?(vl|audio|omni)|qwen[\d.]*-?(vl|audio|omni)", None),
    # other architectures under the same name
    (
        r"llama-?4|llama-?3\.2-(11|90)b|vision|moe|qwen-?[\d.]+.*-a\d+(\.\d+)?b",
        None,
    ),
    (r"distill-qwen", "qwen2"),
    (r"gemma-?3", "gemma3"),
    (r"gemma-?2-", "gemma2"),
    (r"gemma-?(1\.1-)?\d*b", "gemma"),
    (r"qwen-?3", "qwen3"),
    (r"qwen-?(2|1\.5)", "qwen2"),
    (r"llama|smollm-?2|smollm-|tinyllama", "llama"),
)

# Families people ask for that google-tunix has no trainable model of.
_UNTRAINABLE = re.compile(
    r"\b(gpt-?2|gpt-?j|gpt-?neox?|gpt-?oss|bert|roberta|t5|bart|opt|bloomz?|falcon|mpt|mamba|rwkv|whisper|phi|mistral|mixtral|deepseek"
    r"|olmoe?|granite|glm|pythia|stablelm|smollm-?3)(?![a-z])",
    re.IGNORECASE,
)


def preset_names() -> list[str]:
    return sorted(PRESETS)


def family_of_hub_id(hub_id: str) -> tuple[str | None, str | None]:
    """Return what the name of a hub model tells: ``(family, problem)``.

    ``(family, None)``: known. ``(None, None)``: the name does not tell. ``(None, sentence)``:
    cannot be trained.
    """
    name = hub_id.rsplit("/", 1)[-1].lower()
    for pattern, family in _HUB_NAMES:
        if re.search(pattern, name):
            if family is None:
                return (
                    None,
                    (
                        f"{hub_id} is of a model family that cannot be trained here; families:"
                        f" {families_text()}"
                    ),
                )
            return family, None
    if match := _UNTRAINABLE.search(name):
        return (
            None,
            (
                f"{hub_id} is of the family {match.group(0)}, which cannot be trained here;"
                f" families: {families_text()}"
            ),
        )
    return None, None


def bare_name_problem(model_id: str) -> str | None:
    """Return why ``model_id`` cannot be a hub id: it has no owner. None: it has one.

    The hub's few names without an owner (gpt2, bert-base-uncased …) are of families that cannot be
    trained.
    """
    if "/" in model_id:
        return None
    return (
        f"{model_id} names no model: a hub id is owner/name, such as google/gemma-2b-it; a folder"
        " is given by its path, absolute or starting with ./"
    )


def families_text() -> str:
    return ", ".join(sorted(set(MODEL_TYPES.values())))
