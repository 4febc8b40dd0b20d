"""What a Hugging Face ``config.json`` says about a model, and which tensors such a model has.

Plain Python: the web process judges a model folder with it (dry runs without the runtime), the training program builds
and saves models with it. The reference for every field and default is ``transformers``; whatever would change the
computation and is not built here is refused by name, so that nothing is ever trained wrong silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runs.families import MODEL_TYPES, families_text

SLIDING, FULL = "sliding_attention", "full_attention"

# Bounds that no real model passes: a hostile config.json must not make us build a table of a billion tensors.
_MAX_LAYERS, _MAX_SIZE = 1024, 2**24

# Values that transformers assumes when config.json leaves them out (text configurations of Gemma 3 rely on it).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    "qwen2": {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_window_layers": 28, "sliding_window": 4096},
    "qwen3": {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "head_dim": 128,
        "max_window_layers": 28,
        "sliding_window": 4096,
    },
    "gemma": {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "head_dim": 256},
    "gemma2": {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
}


class UnsupportedModel(ValueError):
    """A model that cannot be trained here; the message is one sentence that names the field and its value."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of one kind of layer. ``kind`` is default, linear or llama3."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the model. ``windows`` and ``ropes`` have one entry a layer; window None is full attention."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    tied: bool
    query_scale: float
    ropes: tuple[Rope, ...]
    windows: tuple[int | None, ...]
    attention_softcap: float | None = None
    final_softcap: float | None = None

    @property
    def distinct_ropes(self) -> tuple[Rope, ...]:
        """One or two: Gemma 3 rotates differently in sliding layers."""
        return tuple(dict.fromkeys(self.ropes))

    @property
    def is_gemma(self) -> bool:
        return self.family.startswith("gemma")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and its place in google-tunix's module tree.

    The checkpoint's tensor of shape ``shape`` is reshaped to ``expanded``, its axes are permuted by ``axes``, and the
    result is the module's parameter ``path``, or its slice ``index`` along a leading axis of ``stacked`` entries.
    """

    name: str
    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    expanded: tuple[int, ...]
    axes: tuple[int, ...]
    index: int | None = None
    stacked: int | None = None
    projection: str | None = None  # q_proj …, for the matrices that LoRA may adapt

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the language model: Gemma 3's multimodal checkpoints keep it in ``text_config``."""
    nested = config.get("text_config")
    if config.get("model_type") == "gemma3" and isinstance(nested, Mapping):
        outer = {key: config[key] for key in ("tie_word_embeddings", "quantization_config") if key in config}
        return outer | dict(nested) | {"model_type": "gemma3_text"}
    return dict(config)


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read config.json.

    Raises UnsupportedModel for anything that is missing, nonsense, or would be computed differently.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedModel(f"model_type {_shown(model_type)} cannot be trained here; families: {families_text()}")
    family = MODEL_TYPES[model_type]
    given = text_config(config)
    # null means "not said", except for the soft caps, which it switches off.
    switches = ("attn_logit_softcapping", "final_logit_softcapping")
    values = _DEFAULTS[family] | {key: value for key, value in given.items() if value is not None or key in switches}
    _refuse_unknown_computation(family, values)

    heads = _size(values, "num_attention_heads")
    kv_heads = _size(values, "num_key_value_heads", default=heads)
    hidden = _size(values, "hidden_size")
    if "head_dim" not in values and hidden % heads:
        raise UnsupportedModel(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is missing")
    head_dim = _size(values, "head_dim", default=hidden // heads)
    if heads % kv_heads:
        raise UnsupportedModel(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise UnsupportedModel(f"head_dim {head_dim} is odd: rotary embeddings need pairs")
    layers = _size(values, "num_hidden_layers", maximum=_MAX_LAYERS)
    kinds = _layer_kinds(family, values, layers)
    window = _size(values, "sliding_window") if SLIDING in kinds else None
    ropes = _ropes(family, values)
    scalar = _number(values, "query_pre_attn_scalar") if "query_pre_attn_scalar" in values else float(head_dim)
    return Architecture(
        family=family,
        layers=layers,
        hidden=hidden,
        intermediate=_size(values, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_size(values, "vocab_size"),
        norm_eps=_number(values, "rms_norm_eps"),
        tied=bool(values["tie_word_embeddings"]),
        query_scale=scalar**-0.5,
        ropes=tuple(ropes[kind] for kind in kinds),
        windows=tuple(window if kind == SLIDING else None for kind in kinds),
        attention_softcap=_softcap(values, "attn_logit_softcapping") if family in ("gemma2", "gemma3") else None,
        final_softcap=_softcap(values, "final_logit_softcapping") if family in ("gemma2", "gemma3") else None,
    )


def remarks(config: Mapping[str, Any]) -> list[str]:
    """What a training does not take from config.json though it could matter: a sentence each."""
    dropout = text_config(config).get("attention_dropout")
    return (
        [f"attention_dropout {_shown(dropout)} of config.json is not applied: training runs without dropout"] if dropout else []
    )


def tensors(architecture: Architecture) -> list[Tensor]:
    """Every tensor of a checkpoint of this architecture, under the names that ``transformers`` gives them."""
    a = architecture
    table = [_plain("model.embed_tokens.weight", ("embedder", "input_embedding"), (a.vocab, a.hidden))]
    for layer in range(a.layers):
        table += _layer_tensors(a, layer)
    final = "scale" if a.is_gemma else "w"
    table.append(_plain("model.norm.weight", ("final_norm", final), (a.hidden,)))
    if not a.tied:
        table.append(_plain("lm_head.weight", ("lm_head", "w"), (a.vocab, a.hidden), axes=(1, 0)))
    return table


def count_parameters(
    config: Mapping[str, Any], *, lora_rank: int | None = None, lora_targets: list[str] | tuple[str, ...] | None = None
) -> tuple[int, int]:
    """``(total, trainable)`` parameters, from config.json alone. With LoRA the total includes the LoRA matrices."""
    table = tensors(read_architecture(config))
    total = sum(tensor.size for tensor in table)
    if lora_rank is None:
        return total, total
    adapted = [t for t in table if t.projection and (lora_targets is None or t.projection in lora_targets)]
    trainable = sum(lora_rank * sum(tensor.shape) for tensor in adapted)
    return total + trainable, trainable


# config.json


def _shown(value: Any) -> str:
    """A value as it may stand in a sentence: short, printable."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _size(values: Mapping[str, Any], key: str, *, default: int | None = None, maximum: int = _MAX_SIZE) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        missing = "is missing" if value is None else f"is {_shown(value)}"
        raise UnsupportedModel(f"config.json: {key} {missing}; it must be a whole number from 1 to {maximum}")
    return value


def _number(values: Mapping[str, Any], key: str, *, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise UnsupportedModel(f"config.json: {key} is {_shown(value)}; it must be a number greater than 0")
    return float(value)


def _object(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A nested object without its nulls; empty when there is none."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnsupportedModel(f"config.json: {key} is {_shown(value)}; it must be an object")
    return {name: item for name, item in value.items() if item is not None}


def _softcap(values: Mapping[str, Any], key: str) -> float | None:
    return None if values.get(key) is None else _number(values, key)


def _refuse_unknown_computation(family: str, values: Mapping[str, Any]) -> None:
    for key in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if values.get(key):
            raise UnsupportedModel(f"config.json: {key} {_shown(values[key])} is not supported for {family} models")
    if "quantization_config" in values:
        raise UnsupportedModel("the weights are quantized (quantization_config in config.json); use the unquantized checkpoint")
    expected: tuple[str, ...]
    if family == "gemma":
        # transformers ignored hidden_act for Gemma 1 for years; the models were made with the tanh form, whatever it says.
        activation = values.get("hidden_activation") or values.get("hidden_act", "gelu")
        expected = ("gelu", "gelu_pytorch_tanh")
    elif family.startswith("gemma"):
        activation, expected = values.get("hidden_activation", "gelu_pytorch_tanh"), ("gelu_pytorch_tanh",)
    else:
        activation, expected = values.get("hidden_act", "silu"), ("silu", "swish")
    if activation not in expected:
        raise UnsupportedModel(
            f"config.json: the activation {_shown(activation)} is not supported for {family}, only {expected[-1]}"
        )
    tied = values["tie_word_embeddings"]
    if not isinstance(tied, bool):
        raise UnsupportedModel(f"config.json: tie_word_embeddings is {_shown(tied)}; it must be true or false")
    if family.startswith("gemma") and not tied:
        raise UnsupportedModel(f"config.json: tie_word_embeddings false is not supported for {family} models")


def _layer_kinds(family: str, values: Mapping[str, Any], layers: int) -> list[str]:
    """Full or sliding attention for each layer, as transformers derives it."""
    if family in ("llama", "gemma"):
        return [FULL] * layers
    kinds = values.get("layer_types")
    if family in ("qwen2", "qwen3") and not values.get("use_sliding_window"):
        if isinstance(kinds, list) and SLIDING in kinds:
            raise UnsupportedModel("config.json: layer_types has sliding attention, but use_sliding_window is false")
        return [FULL] * layers
    if kinds is None:
        if family == "gemma2":
            return [SLIDING if (i + 1) % 2 else FULL for i in range(layers)]
        if family == "gemma3":
            pattern = _size(values, "sliding_window_pattern", default=6)
            return [SLIDING if (i + 1) % pattern else FULL for i in range(layers)]
        first = values["max_window_layers"]
        if isinstance(first, bool) or not isinstance(first, int):
            raise UnsupportedModel(f"config.json: max_window_layers is {_shown(first)}; it must be a whole number")
        return [SLIDING if i >= first else FULL for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UnsupportedModel(f"config.json: layer_types must be a list of {layers} names, one a layer")
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise UnsupportedModel(f"config.json: layer_types has {_shown(kind)}; supported are {SLIDING} and {FULL}")
    return kinds


def _ropes(family: str, values: Mapping[str, Any]) -> dict[str, Rope]:
    """Rotary embedding of full and of sliding layers, from ``rope_parameters`` or the older ``rope_theta``/``rope_scaling``."""
    parameters, scaling = _object(values, "rope_parameters"), _object(values, "rope_scaling")
    longest = values.get("max_position_embeddings", 2048)
    partial = values.get("partial_rotary_factor")
    if family == "gemma3":
        by_kind = FULL in parameters or SLIDING in parameters
        full = (_object(parameters, FULL) if by_kind else parameters) | scaling
        sliding = _object(parameters, SLIDING)
        full.setdefault("rope_theta", values.get("rope_theta", 1_000_000.0))
        sliding.setdefault("rope_theta", values.get("rope_local_base_freq", 10_000.0))
        return {FULL: _rope(full, partial, longest), SLIDING: _rope(sliding, partial, longest)}
    merged = scaling or parameters
    merged.setdefault("rope_theta", values.get("rope_theta", 10_000.0))
    one = _rope(merged, partial, longest)
    return {FULL: one, SLIDING: one}


def _rope(parameters: dict[str, Any], partial: Any, longest: Any) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", partial) not in (None, 1, 1.0):
        raise UnsupportedModel("config.json: partial_rotary_factor is not supported: rotary embeddings must cover whole heads")
    theta = _number(parameters, "rope_theta")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", _number(parameters, "factor"))
    if kind == "llama3":
        low, high = _number(parameters, "low_freq_factor"), _number(parameters, "high_freq_factor")
        if not high > low:
            raise UnsupportedModel(f"config.json: high_freq_factor {high:g} must be greater than low_freq_factor {low:g}")
        original = _size(parameters, "original_max_position_embeddings", default=longest)
        return Rope(theta, "llama3", _number(parameters, "factor"), low, high, original)
    raise UnsupportedModel(f"config.json: rope_type {_shown(kind)} is not supported; supported are default, linear and llama3")


# tensors


def _plain(
    name: str,
    path: tuple[str | int, ...],
    shape: tuple[int, ...],
    *,
    axes: tuple[int, ...] | None = None,
    projection: str | None = None,
) -> Tensor:
    return Tensor(name, path, shape, shape, axes or tuple(range(len(shape))), projection=projection)


def _layer_tensors(a: Architecture, layer: int) -> list[Tensor]:
    prefix, at = f"model.layers.{layer}.", ("layers", layer)
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    table: list[Tensor] = []
    for projection, heads in (("q_proj", a.heads), ("k_proj", a.kv_heads), ("v_proj", a.kv_heads)):
        name, shape = f"{prefix}self_attn.{projection}.weight", (heads * a.head_dim, a.hidden)
        expanded = (heads, a.head_dim, a.hidden)
        if a.is_gemma:
            path, index, stacked = _gemma_projection(a, projection)
            table.append(Tensor(name, (*at, "attn", path, "w"), shape, expanded, (0, 2, 1), index, stacked, projection))
        else:
            table.append(Tensor(name, (*at, "attn", projection, "w"), shape, expanded, (2, 0, 1), projection=projection))
    output = "attn_vec_einsum" if a.is_gemma else "o_proj"
    table.append(
        Tensor(
            f"{prefix}self_attn.o_proj.weight",
            (*at, "attn", output, "w"),
            (a.hidden, queries),
            (a.hidden, a.heads, a.head_dim),
            (1, 2, 0),
            projection="o_proj",
        )
    )
    if a.family == "qwen2":
        for letter, width in (("q", queries), ("k", keys), ("v", keys)):
            table.append(_plain(f"{prefix}self_attn.{letter}_proj.bias", (*at, "attn", f"{letter}_bias"), (width,)))
    if a.family == "qwen3":
        for letter in ("q", "k"):
            table.append(_plain(f"{prefix}self_attn.{letter}_norm.weight", (*at, "attn", f"{letter}_norm", "w"), (a.head_dim,)))
    if a.family == "gemma3":
        for letter, word in (("q", "_query_norm"), ("k", "_key_norm")):
            table.append(_plain(f"{prefix}self_attn.{letter}_norm.weight", (*at, "attn", word, "scale"), (a.head_dim,)))
    for projection in ("gate_proj", "up_proj", "down_proj"):
        shape = (a.hidden, a.intermediate) if projection == "down_proj" else (a.intermediate, a.hidden)
        kernel = (*at, "mlp", projection, "kernel")
        table.append(_plain(f"{prefix}mlp.{projection}.weight", kernel, shape, axes=(1, 0), projection=projection))
    for norm, place in _norm_names(a):
        table.append(_plain(f"{prefix}{norm}.weight", (*at, *place), (a.hidden,)))
    return table


def _gemma_projection(a: Architecture, projection: str) -> tuple[str, int | None, int | None]:
    """google-tunix stacks q, k and v of Gemma models: all three when the head counts agree, else k and v only."""
    if a.heads == a.kv_heads:
        return "qkv_einsum", ("q_proj", "k_proj", "v_proj").index(projection), 3
    if projection == "q_proj":
        return "q_einsum", None, None
    return "kv_einsum", ("k_proj", "v_proj").index(projection), 2


def _norm_names(a: Architecture) -> list[tuple[str, tuple[str, str]]]:
    if not a.is_gemma:
        return [(name, (name, "w")) for name in ("input_layernorm", "post_attention_layernorm")]
    if a.family == "gemma":
        # In Gemma 1 the norm after attention is the one before the feed-forward block; upstream's mapping knows Gemma 2 only.
        return [
            ("input_layernorm", ("pre_attention_norm", "scale")),
            ("post_attention_layernorm", ("pre_ffw_norm", "scale")),
        ]
    return [
        ("input_layernorm", ("pre_attention_norm", "scale")),
        ("post_attention_layernorm", ("post_attn_norm" if a.family == "gemma2" else "post_attention_norm", "scale")),
        ("pre_feedforward_layernorm", ("pre_ffw_norm", "scale")),
        ("post_feedforward_layernorm", ("post_ffw_norm", "scale")),
    ]
