"""What a Hugging Face ``config.json`` says about a model, and which tensors such a model has.

Plain Python: the web process judges a model folder with it (dry runs without the runtime), the
training program builds and saves models with it. The reference for every field and default is
``transformers``; whatever would change the computation and is not built here is refused by name, so
that nothing is ever trained wrong silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runs.spec.families import MODEL_TYPES, families_text

SLIDING, FULL = "sliding_attention", "full_attention"

# Bounds that no real model passes: a hostile config.json must not make us build a table of a
# billion tensors.
_MAX_LAYERS, _MAX_SIZE = 1024, 2**24

# Values that transformers assumes when config.json leaves them out (text configurations of Gemma 3
# rely on it).
_EVERYWHERE: dict[str, Any] = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_QWEN: dict[str, Any] = {
    **_EVERYWHERE,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "max_window_layers": 28,
    "sliding_window": 4096,
}
_GEMMA: dict[str, Any] = {
    **_EVERYWHERE,
    "tie_word_embeddings": True,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {**_EVERYWHERE, "max_position_embeddings": 2048},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "gemma": {**_GEMMA, "num_key_value_heads": 16},
    "gemma2": {
        **_GEMMA,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {
        **_GEMMA,
        "max_position_embeddings": 131_072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
}

# Keys that mean the same with null as left out. Any other null is a value: of the soft caps and of
# the window it means none, of num_key_value_heads as many as there are heads; elsewhere
# transformers refuses it, and so do we.
_UNSET_IF_NULL = (
    *(
        "rope_parameters",
        "rope_scaling",
        "partial_rotary_factor",
        "layer_types",
        "hidden_activation",
        "quantization_config",
    ),
    *("use_bidirectional_attention", "attention_dropout", "text_config"),
)

# Switches that change the computation where the family reads them; transformers ignores them in the
# others.
_NOT_BUILT: dict[str, tuple[str, ...]] = {
    "llama": ("attention_bias", "mlp_bias"),
    "qwen2": (),
    "qwen3": ("attention_bias",),
    "gemma": ("attention_bias", "use_bidirectional_attention"),
    "gemma2": ("attention_bias", "use_bidirectional_attention"),
    "gemma3": ("attention_bias", "use_bidirectional_attention"),
}


class UnsupportedModel(ValueError):
    """A model that cannot be trained here; the message is one sentence that names the field and its
    value."""


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
    """All that is needed to build the model. ``windows`` and ``ropes`` have one entry a layer;
    window None is full attention."""

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
    positions: int  # max_position_embeddings
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

    The checkpoint's tensor of shape ``shape`` is reshaped to ``expanded``, its axes are permuted by
    ``axes``, and the result is the module's parameter ``path``, or its slice ``index`` along a
    leading axis of ``stacked`` entries.
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
    """Return the configuration of the language model: Gemma 3's multimodal checkpoints keep it in
    ``text_config``."""
    nested = config.get("text_config")
    if config.get("model_type") == "gemma3" and isinstance(nested, Mapping):
        outer = {
            key: config[key]
            for key in ("tie_word_embeddings", "quantization_config", "is_causal")
            if key in config
        }
        return dict(nested) | outer | {"model_type": "gemma3_text"}
    return dict(config)


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read config.json.

    Raise UnsupportedModel for anything that is missing, nonsense, or would be computed differently.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedModel(
            f"model_type {_shown(model_type)} cannot be trained here; families: {families_text()}"
        )
    if model_type == "gemma3" and not isinstance(config.get("text_config"), Mapping):
        raise UnsupportedModel(
            "config.json: text_config is missing; model_type gemma3 keeps the language model in it,"
            " gemma3_text does not"
        )
    family = MODEL_TYPES[model_type]
    given = text_config(config)
    values = _DEFAULTS[family] | {
        k: value for k, value in given.items() if value is not None or k not in _UNSET_IF_NULL
    }
    _refuse_unknown_computation(family, values)

    heads = _size(values, "num_attention_heads")
    kv_heads = (
        heads if values.get("num_key_value_heads") is None else _size(values, "num_key_value_heads")
    )
    hidden = _size(values, "hidden_size")
    derived = "head_dim" not in values or (family == "llama" and values["head_dim"] is None)
    if derived and hidden % heads:
        raise UnsupportedModel(
            f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim"
            " is missing"
        )
    head_dim = hidden // heads if derived else _size(values, "head_dim")
    if heads % kv_heads:
        raise UnsupportedModel(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if head_dim % 2:
        raise UnsupportedModel(f"head_dim {head_dim} is odd: rotary embeddings need pairs")
    layers = _size(values, "num_hidden_layers", maximum=_MAX_LAYERS)
    kinds = _layer_kinds(family, values, layers)
    window = _size(values, "sliding_window") if SLIDING in kinds else None
    ropes = _ropes(family, values)
    vocab = _size(values, "vocab_size")
    _check_token_ids(values, vocab)
    capped = family in ("gemma2", "gemma3")
    attention_softcap = _softcap(values, "attn_logit_softcapping") if capped else None
    return Architecture(
        family=family,
        layers=layers,
        hidden=hidden,
        intermediate=_size(values, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        norm_eps=_number(values, "rms_norm_eps"),
        tied=values["tie_word_embeddings"],
        query_scale=(_number(values, "query_pre_attn_scalar") if capped else float(head_dim))
        ** -0.5,
        ropes=tuple(ropes[kind] for kind in kinds),
        windows=tuple(window if kind == SLIDING else None for kind in kinds),
        positions=_size(values, "max_position_embeddings"),
        # transformers reads Gemma 3's attention cap and never applies it.
        attention_softcap=None if family == "gemma3" else attention_softcap,
        final_softcap=_softcap(values, "final_logit_softcapping") if capped else None,
    )


def remarks(config: Mapping[str, Any]) -> list[str]:
    """Return what a training does not take from config.json although it could matter: a sentence
    each."""
    values, family = text_config(config), MODEL_TYPES.get(str(config.get("model_type")))
    notes = []
    if dropout := values.get("attention_dropout"):
        notes.append(
            f"attention_dropout {_shown(dropout)} of config.json is not applied: training runs"
            " without dropout"
        )
    if family == "gemma3" and (cap := values.get("attn_logit_softcapping")) is not None:
        notes.append(
            f"attn_logit_softcapping {_shown(cap)} of config.json is not applied: transformers"
            " applies none to Gemma 3"
        )
    if family == "gemma" and values.get("hidden_act") == "gelu":
        notes.append(
            "hidden_act gelu of config.json is computed in its tanh form, with which Gemma 1 was"
            " made; the trained model's config.json says gelu_pytorch_tanh"
        )
    return notes


def tensors(architecture: Architecture) -> list[Tensor]:
    """Return every tensor of a checkpoint of this architecture, under the names that
    ``transformers`` gives them."""
    a = architecture
    table = [
        _plain("model.embed_tokens.weight", ("embedder", "input_embedding"), (a.vocab, a.hidden))
    ]
    for layer in range(a.layers):
        table += _layer_tensors(a, layer)
    final = "scale" if a.is_gemma else "w"
    table.append(_plain("model.norm.weight", ("final_norm", final), (a.hidden,)))
    if not a.tied:
        table.append(_plain("lm_head.weight", ("lm_head", "w"), (a.vocab, a.hidden), axes=(1, 0)))
    return table


def count_parameters(
    config: Mapping[str, Any],
    *,
    lora_rank: int | None = None,
    lora_targets: list[str] | tuple[str, ...] | None = None,
) -> tuple[int, int]:
    """Return ``(total, trainable)`` parameters, from config.json alone. With LoRA the total
    includes the LoRA matrices."""
    table = tensors(read_architecture(config))
    total = sum(tensor.size for tensor in table)
    if lora_rank is None:
        return total, total
    adapted = [
        t for t in table if t.projection and (lora_targets is None or t.projection in lora_targets)
    ]
    trainable = sum(lora_rank * sum(tensor.shape) for tensor in adapted)
    return total + trainable, trainable


# config.json


def _shown(value: Any) -> str:
    """Return a value as it may stand in a sentence: short, printable."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _size(values: Mapping[str, Any], key: str, *, maximum: int = _MAX_SIZE) -> int:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        missing = "is missing" if key not in values else f"is {_shown(value)}"
        raise UnsupportedModel(
            f"config.json: {key} {missing}; it must be a whole number from 1 to {maximum}"
        )
    return value


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    # The bound also keeps whole numbers out that no float can hold.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise UnsupportedModel(
            f"config.json: {key} is {_shown(value)}; it must be a number greater than 0"
        )
    return float(value)


def _object(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a nested object; empty when there is none."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnsupportedModel(f"config.json: {key} is {_shown(value)}; it must be an object")
    return dict(value)


def _flag(values: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise UnsupportedModel(f"config.json: {key} is {_shown(value)}; it must be true or false")
    return value


def _softcap(values: Mapping[str, Any], key: str) -> float | None:
    return None if values.get(key) is None else _number(values, key)


def _check_token_ids(values: Mapping[str, Any], vocab: int) -> None:
    """Refuse ids that transformers would refuse to load the trained model with."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = values.get(key)
        ids = (
            value
            if isinstance(value, list) and key == "eos_token_id"
            else []
            if value is None
            else [value]
        )
        if any(isinstance(id, bool) or not isinstance(id, int) for id in ids):
            raise UnsupportedModel(
                f"config.json: {key} is {_shown(value)}; it must be the number of a token, or null"
            )
    padding = values.get("pad_token_id")
    if padding is not None and not -vocab <= padding < vocab:
        raise UnsupportedModel(
            f"config.json: pad_token_id {_shown(padding)} is not in the vocabulary, whose size is"
            f" {vocab}"
        )


def _refuse_unknown_computation(family: str, values: Mapping[str, Any]) -> None:
    for key in _NOT_BUILT[family]:
        if _flag(values, key):
            raise UnsupportedModel(f"config.json: {key} true is not supported for {family} models")
    if not _flag(values, "is_causal", default=True):
        raise UnsupportedModel(
            "config.json: is_causal false is not supported: the model would see what it is to"
            " foretell"
        )
    if "quantization_config" in values:
        raise UnsupportedModel(
            "the weights are quantized (quantization_config in config.json); use the unquantized"
            " checkpoint"
        )
    expected: tuple[str, ...]
    if family == "gemma":
        # Readers differ on whether hidden_act "gelu" means the exact form; the models were made
        # with the tanh form.
        activations = [
            values.get("hidden_act", "gelu_pytorch_tanh"),
            values.get("hidden_activation", "gelu_pytorch_tanh"),
        ]
        expected = ("gelu", "gelu_pytorch_tanh")
    elif family.startswith("gemma"):
        activations, expected = (
            [values.get("hidden_activation", "gelu_pytorch_tanh")],
            ("gelu_pytorch_tanh",),
        )
    else:
        activations, expected = [values.get("hidden_act", "silu")], ("swish", "silu")
    for activation in activations:
        if activation not in expected:
            raise UnsupportedModel(
                f"config.json: the activation {_shown(activation)} is not supported for {family},"
                f" only {expected[-1]}"
            )
    if family.startswith("gemma") and not _flag(values, "tie_word_embeddings"):
        raise UnsupportedModel(
            f"config.json: tie_word_embeddings false is not supported for {family} models"
        )
    _flag(values, "tie_word_embeddings")


def _layer_kinds(family: str, values: Mapping[str, Any], layers: int) -> list[str]:
    """Return full or sliding attention for each layer, as transformers derives it."""
    kinds = values.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise UnsupportedModel(
                f"config.json: layer_types must be a list of {layers} names, one a layer"
            )
        for kind in kinds:
            if kind not in (SLIDING, FULL):
                raise UnsupportedModel(
                    f"config.json: layer_types has {_shown(kind)}; supported are {SLIDING} and"
                    f" {FULL}"
                )
    if family in ("llama", "gemma"):
        return [FULL] * layers
    window = values["sliding_window"]
    if isinstance(window, bool) or not isinstance(window, int | None):
        raise UnsupportedModel(
            f"config.json: sliding_window is {_shown(window)}; it must be a whole number, or null"
        )
    windowed = family.startswith("gemma") or _flag(values, "use_sliding_window")
    if kinds is not None and SLIDING in kinds and (not windowed or window is None):
        reason = "sliding_window is null" if windowed else "use_sliding_window is false"
        raise UnsupportedModel(f"config.json: layer_types has sliding attention, but {reason}")
    if kinds is not None:
        return kinds
    if family == "gemma2":
        return [SLIDING if (i + 1) % 2 else FULL for i in range(layers)]
    if family == "gemma3":
        pattern = _size(values, "sliding_window_pattern")
        return [SLIDING if (i + 1) % pattern else FULL for i in range(layers)]
    if not windowed or window is None:
        return [FULL] * layers
    first = values["max_window_layers"]
    if isinstance(first, bool) or not isinstance(first, int):
        raise UnsupportedModel(
            f"config.json: max_window_layers is {_shown(first)}; it must be a whole number"
        )
    return [SLIDING if i >= first else FULL for i in range(layers)]


def _ropes(family: str, values: Mapping[str, Any]) -> dict[str, Rope]:
    """Return the rotary embedding of full and of sliding layers, from ``rope_parameters`` or the
    older ``rope_theta``/``rope_scaling``."""
    parameters, scaling = _object(values, "rope_parameters"), _object(values, "rope_scaling")
    by_kind = FULL in parameters or SLIDING in parameters
    if family == "gemma3":
        if parameters and not by_kind:  # transformers passes over them
            raise UnsupportedModel(
                f"config.json: rope_parameters of a gemma3 model must be objects {FULL} and"
                f" {SLIDING}"
            )
        full, sliding = _object(parameters, FULL) | scaling, _object(parameters, SLIDING)
        full.setdefault("rope_theta", values.get("rope_theta", 1_000_000.0))
        sliding.setdefault("rope_theta", values.get("rope_local_base_freq", 10_000.0))
        return {FULL: _rope(full, values), SLIDING: _rope(sliding, values)}
    if by_kind or FULL in scaling or SLIDING in scaling:
        raise UnsupportedModel(
            f"config.json: rotary embeddings by kind of layer are not supported for {family} models"
        )
    merged = scaling or parameters
    merged.setdefault("rope_theta", values.get("rope_theta", 10_000.0))
    # stands above the one inside, as in transformers
    if "original_max_position_embeddings" in values:
        merged["original_max_position_embeddings"] = values["original_max_position_embeddings"]
    one = _rope(merged, values)
    return {FULL: one, SLIDING: one}


def _rope(parameters: dict[str, Any], values: Mapping[str, Any]) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", values.get("partial_rotary_factor")) not in (
        None,
        1,
        1.0,
    ):
        raise UnsupportedModel(
            "config.json: partial_rotary_factor is not supported: rotary embeddings must cover"
            " whole heads"
        )
    theta = _number(parameters, "rope_theta")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, "linear", _number(parameters, "factor"))
    if kind == "llama3":
        low, high = _number(parameters, "low_freq_factor"), _number(parameters, "high_freq_factor")
        if not high > low:
            raise UnsupportedModel(
                f"config.json: high_freq_factor {high:g} must be greater than low_freq_factor"
                f" {low:g}"
            )
        parameters.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
        original = _size(parameters, "original_max_position_embeddings")
        return Rope(theta, "llama3", _number(parameters, "factor"), low, high, original)
    raise UnsupportedModel(
        f"config.json: rope_type {_shown(kind)} is not supported; supported are default, linear and"
        " llama3"
    )


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
    norms = [
        _plain(f"{prefix}{norm}.weight", (*at, *place), (a.hidden,))
        for norm, place in _norm_names(a)
    ]
    return [
        *_projection_tensors(a, prefix, at),
        *_attention_vectors(a, prefix, at),
        *_mlp_tensors(a, prefix, at),
        *norms,
    ]


def _projection_tensors(a: Architecture, prefix: str, at: tuple[str, int]) -> list[Tensor]:
    table: list[Tensor] = []
    for projection, heads in (("q_proj", a.heads), ("k_proj", a.kv_heads), ("v_proj", a.kv_heads)):
        path, index, stacked, axes = projection, None, None, (2, 0, 1)
        if a.is_gemma:
            path, index, stacked = _gemma_projection(a, projection)
            axes = (0, 2, 1)
        table.append(
            Tensor(
                f"{prefix}self_attn.{projection}.weight",
                (*at, "attn", path, "w"),
                (heads * a.head_dim, a.hidden),
                (heads, a.head_dim, a.hidden),
                axes,
                index,
                stacked,
                projection,
            )
        )
    output = "attn_vec_einsum" if a.is_gemma else "o_proj"
    table.append(
        Tensor(
            f"{prefix}self_attn.o_proj.weight",
            (*at, "attn", output, "w"),
            (a.hidden, a.heads * a.head_dim),
            (a.hidden, a.heads, a.head_dim),
            (1, 2, 0),
            projection="o_proj",
        )
    )
    return table


def _attention_vectors(a: Architecture, prefix: str, at: tuple[str, int]) -> list[Tensor]:
    """Return the biases and norms of a layer's attention, which some families have."""
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    match a.family:
        case "qwen2":
            return [
                _plain(
                    f"{prefix}self_attn.{letter}_proj.bias",
                    (*at, "attn", f"{letter}_bias"),
                    (width,),
                )
                for letter, width in (("q", queries), ("k", keys), ("v", keys))
            ]
        case "qwen3":
            names = {"q": ("q_norm", "w"), "k": ("k_norm", "w")}
        case "gemma3":
            names = {"q": ("_query_norm", "scale"), "k": ("_key_norm", "scale")}
        case _:
            return []
    return [
        _plain(
            f"{prefix}self_attn.{letter}_norm.weight",
            (*at, "attn", *place),
            (a.head_dim,),
        )
        for letter, place in names.items()
    ]


def _mlp_tensors(a: Architecture, prefix: str, at: tuple[str, int]) -> list[Tensor]:
    inward, outward = (a.intermediate, a.hidden), (a.hidden, a.intermediate)
    return [
        _plain(
            f"{prefix}mlp.{projection}.weight",
            (*at, "mlp", projection, "kernel"),
            shape,
            axes=(1, 0),
            projection=projection,
        )
        for projection, shape in (
            ("gate_proj", inward),
            ("up_proj", inward),
            ("down_proj", outward),
        )
    ]


def _gemma_projection(a: Architecture, projection: str) -> tuple[str, int | None, int | None]:
    """Return the projection that google-tunix stacks for Gemma models: q, k and v when the head
    counts agree, else k and v only."""
    if a.heads == a.kv_heads:
        return "qkv_einsum", ("q_proj", "k_proj", "v_proj").index(projection), 3
    if projection == "q_proj":
        return "q_einsum", None, None
    return "kv_einsum", ("k_proj", "v_proj").index(projection), 2


def _norm_names(a: Architecture) -> list[tuple[str, tuple[str, str]]]:
    if not a.is_gemma:
        return [(name, (name, "w")) for name in ("input_layernorm", "post_attention_layernorm")]
    if a.family == "gemma":
        # In Gemma 1 the norm after attention is the one before the feed-forward block; upstream's
        # mapping knows Gemma 2 only.
        return [
            ("input_layernorm", ("pre_attention_norm", "scale")),
            ("post_attention_layernorm", ("pre_ffw_norm", "scale")),
        ]
    return [
        ("input_layernorm", ("pre_attention_norm", "scale")),
        (
            "post_attention_layernorm",
            ("post_attn_norm" if a.family == "gemma2" else "post_attention_norm", "scale"),
        ),
        ("pre_feedforward_layernorm", ("pre_ffw_norm", "scale")),
        ("post_feedforward_layernorm", ("post_ffw_norm", "scale")),
    ]
