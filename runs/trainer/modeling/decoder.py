"""google-tunix's models, built from an ``Architecture`` and corrected where they differ from the
reference.

One class per family, derived from google-tunix's own, so that its trainer and its sampler take them
as theirs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.llama3 import model as llama3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from runs.spec.architectures import Architecture, Rope
from runs.trainer.modeling.attention import ATTENTION, Attention, rotary_tables

Cache = dict[str, dict[str, jax.Array]]


class _Decoder:
    """What all families share: the pass through the layers, with the last projection kept apart.

    The call is google-tunix's: ``(tokens [B, L], positions [B, L], cache, attention_mask [B, L, S])
    → (logits, cache)``. ``decode_only_last_token`` (used by the sampler's prefill) computes logits
    of the last position only; ``hidden_only`` returns the hidden states ``[B, L, D]`` after the
    final norm in their place.
    """

    embedder: Any
    layers: Any
    final_norm: Any
    config: Any
    ropes: tuple[Rope, ...]
    gradient_checkpointing: bool

    def __call__(
        self,
        input_tokens: jax.Array,
        positions: jax.Array,
        cache: Cache | None,
        attention_mask: jax.Array,
        *,
        decode_only_last_token: bool = False,
        hidden_only: bool = False,
    ) -> tuple[jax.Array, Cache | None]:
        x = self.embedder.encode(input_tokens)
        tables = rotary_tables(self.ropes, self.config.head_dim, positions)
        mask = attention_mask.astype(bool)
        new_cache: Cache | None = None
        if cache is None:
            x = self._without_cache(x, tables, mask)
        else:
            new_cache = {}
            for index, layer in enumerate(self.layers):
                name = f"layer_{index}"
                new_cache[name], x = self._layer(layer, x, tables, cache[name], mask)
        x = self.final_norm(x)
        if hidden_only:
            return x, new_cache
        return self.project(x[:, -1:] if decode_only_last_token else x), new_cache

    def project(self, hidden: jax.Array) -> jax.Array:
        """Return logits ``[..., V]`` of hidden states ``[..., D]``, soft cap included."""
        if hasattr(self, "lm_head"):
            # The head is an einsum over [B, T, D]; chunks of a loss come with any number of axes.
            logits = self.lm_head(hidden.reshape(1, -1, hidden.shape[-1])).reshape(
                *hidden.shape[:-1], -1
            )
        else:
            logits = self.embedder.decode(hidden)
        cap = getattr(self, "final_softcap", None)
        return logits if cap is None else jnp.tanh(logits / cap) * cap

    def init_cache(self, batch_size: int, cache_size: int, dtype: Any) -> Cache:
        """Return an empty key/value cache for ``batch_size`` rows of ``cache_size`` positions."""
        shape = (batch_size, cache_size, self.config.num_kv_heads, self.config.head_dim)
        return {
            f"layer_{index}": {
                "k": jnp.zeros(shape, dtype),
                "v": jnp.zeros(shape, dtype),
                "end_index": jnp.zeros((batch_size,), jnp.int32),
            }
            for index in range(len(self.layers))
        }

    @property
    def num_embed(self) -> int:
        return self.embedder.input_embedding.value.shape[0]

    def _without_cache(self, x: jax.Array, tables: Any, mask: jax.Array) -> jax.Array:
        """Apply the layers of a training. Until the backward pass the input of each is kept, and
        what ``_is_kept`` says.

        Layers that compute alike are one loop of the compiled program: to compile it takes as long
        as to compile one of them.
        """
        graphs, states = zip(*(nnx.split(layer) for layer in self.layers), strict=True)
        period = _period(graphs)

        def several(x: jax.Array, states: tuple[nnx.State, ...]) -> tuple[jax.Array, None]:
            for graph, state in zip(graphs, states, strict=False):
                x = one(x, graph, state, prevent_cse=False)  # a loop keeps passes apart by itself
            return x, None

        def one(
            x: jax.Array, graph: Any, state: nnx.State, *, prevent_cse: bool = True
        ) -> jax.Array:
            def run(x: jax.Array, state: nnx.State) -> jax.Array:
                return self._layer(nnx.merge(graph, state), x, tables, None, mask)[1]

            policy = None if self.gradient_checkpointing else _is_kept
            return jax.checkpoint(run, policy=policy, prevent_cse=prevent_cse)(x, state)

        looped = len(graphs) // period * period if len(graphs) >= 2 * period else 0
        if looped:
            stacks = (
                jax.tree.map(lambda *parts: jnp.stack(parts), *states[k:looped:period])
                for k in range(period)
            )
            x, _ = jax.lax.scan(several, x, tuple(stacks))
        for graph, state in zip(graphs[looped:], states[looped:], strict=True):
            x = one(x, graph, state)
        return x

    def _layer(
        self, layer: Any, x: jax.Array, tables: Any, cache: Any, mask: jax.Array
    ) -> tuple[Any, jax.Array]:
        # What upstream passes on as positions are our tables.
        return layer(x, tables, cache, mask)


def _period(graphs: tuple[Any, ...]) -> int:
    """Return after how many layers their structure repeats: 1 where all are alike, 6 in Gemma 3."""
    return next(
        period
        for period in range(1, len(graphs) + 1)
        if all(a == b for a, b in zip(graphs, graphs[period:], strict=False))
    )


def _is_kept(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """Return whether a value is expensive to compute: projections of rows of tokens, and what
    attention names. Norms, rotations, activations and the sums of weights and LoRA matrices are
    computed again: they cost little time and would be two thirds of the memory."""
    if primitive is jax.lax.dot_general_p:
        _, (left_batch, _) = parameters["dimension_numbers"]
        return not left_batch and max(len(argument.shape) for argument in arguments) > 2
    return _keep_attention(primitive, *arguments, **parameters)


_keep_attention = jax.checkpoint_policies.save_only_these_names(ATTENTION)


class Llama(_Decoder, llama3.Llama3):
    """Llama 2 and 3, SmolLM2, TinyLlama."""


class Qwen2(_Decoder, qwen2.Qwen2):
    """Qwen 2 and 2.5."""

    def _layer(
        self, layer: Any, x: jax.Array, tables: Any, cache: Any, mask: jax.Array
    ) -> tuple[Any, jax.Array]:
        # Upstream passes sines and cosines on apart; our tables travel in the place of the sines.
        return layer(x, cache, mask, tables, None)


class Qwen2Attention(Attention):
    def __call__(  # type: ignore[override]  # upstream's layer calls it so
        self,
        x: jax.Array,
        cache: Any,
        attn_mask: jax.Array,
        sin: Any,
        cos: None,
        segment_ids: None = None,
    ) -> Any:
        return super().__call__(x, sin, cache, attn_mask)


class Qwen3(_Decoder, qwen3.Qwen3):
    """Qwen 3, dense."""


class Qwen3Attention(Attention):
    def __call__(
        self, x: jax.Array, tables: Any, cache: Any, mask: jax.Array, segment_ids: None = None
    ) -> Any:
        return super().__call__(x, tables, cache, mask)


class Gemma(_Decoder, gemma.Gemma):
    """Gemma 1 and 2."""


class Gemma3(_Decoder, gemma3.Gemma3):
    """Gemma 3, text."""


class GemmaNorm(nnx.Module):
    """Gemma's RMS norm in float32 and with the epsilon of config.json; upstream computes in the
    model's dtype with 1e-6."""

    def __init__(self, upstream: Any, epsilon: float):
        self.scale = upstream.scale
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(
            jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon
        )
        return (normed * (1.0 + self.scale.value.astype(jnp.float32))).astype(x.dtype)


def build(
    architecture: Architecture,
    *,
    dtype: Any,
    gradient_checkpointing: bool,
    axes: tuple[str, ...] = (),
) -> nnx.Module:
    """Return the module of an architecture, with google-tunix's own random weights. Meant for
    ``nnx.eval_shape``.

    ``axes``: those of the mesh.
    """
    model_config = make_model_config(architecture, dtype=dtype, axes=axes)
    family = architecture.family
    classes: dict[str, type] = {
        "llama": Llama,
        "qwen2": Qwen2,
        "qwen3": Qwen3,
        "gemma": Gemma,
        "gemma2": Gemma,
        "gemma3": Gemma3,
    }
    attention = {"qwen2": Qwen2Attention, "qwen3": Qwen3Attention}.get(family, Attention)
    module: Any = classes[family](model_config, rngs=nnx.Rngs(params=0))
    for index, layer in enumerate(module.layers):
        layer.attn = attention(layer.attn, architecture, index)
        if architecture.is_gemma:
            for name, child in list(vars(layer).items()) + list(vars(layer.attn).items()):
                owner = layer if name in vars(layer) else layer.attn
                if isinstance(child, gemma.RMSNorm | gemma3.RMSNorm):
                    setattr(owner, name, GemmaNorm(child, architecture.norm_eps))
    if architecture.is_gemma:
        module.final_norm = GemmaNorm(module.final_norm, architecture.norm_eps)
    module.final_softcap = architecture.final_softcap
    module.ropes = architecture.distinct_ropes
    module.gradient_checkpointing = gradient_checkpointing
    return module


def make_model_config(architecture: Architecture, *, dtype: Any, axes: tuple[str, ...]) -> Any:
    """Return google-tunix's ``ModelConfig`` of the family."""
    a = architecture
    shape: dict[str, Any] = {
        "num_layers": a.layers,
        "embed_dim": a.hidden,
        "hidden_dim": a.intermediate,
        "num_heads": a.heads,
        "num_kv_heads": a.kv_heads,
        "head_dim": a.head_dim,
    }
    library: Any = {"llama": llama3, "qwen2": qwen2, "qwen3": qwen3, "gemma3": gemma3}.get(
        a.family, gemma
    )
    if "data" in axes:
        # Upstream spreads rows over the fsdp axis only and would gather what lies on different
        # data-parallel devices.
        default = library.ShardingConfig.get_default_sharding()
        rows = {
            name: (("data", "fsdp"), *getattr(default, name)[1:])
            for name in ("act_btd", "act_btf", "act_btnh")
        }
        shape["shd_config"] = dataclasses.replace(default, **rows)
    shape["remat_config"] = library.RematConfig.NONE  # ours is in _Decoder
    if a.family == "llama":
        return llama3.ModelConfig(
            **shape,
            vocab_size=a.vocab,
            rope_theta=int(a.ropes[0].theta),
            norm_eps=a.norm_eps,
            weight_tying=a.tied,
        )
    if a.family in ("qwen2", "qwen3"):
        return library.ModelConfig(
            **shape,
            vocab_size=a.vocab,
            rope_theta=int(a.ropes[0].theta),
            norm_eps=a.norm_eps,
            use_tied_embedding=a.tied,
            dtype=dtype,
            param_dtype=dtype,
        )
    sliding = next((window for window in a.windows if window is not None), None)
    if a.family == "gemma3":
        return gemma3.ModelConfig(
            **shape, num_embed=a.vocab, sliding_window_size=sliding or 1, param_dtype=dtype
        )
    kinds = gemma.AttentionType
    return gemma.ModelConfig(
        **shape,
        num_embed=a.vocab,
        final_logit_softcap=a.final_softcap,
        attn_logits_soft_cap=a.attention_softcap,
        use_post_attn_norm=a.family == "gemma2",
        use_post_ffw_norm=a.family == "gemma2",
        attention_types=tuple(
            kinds.GLOBAL if window is None else kinds.LOCAL_SLIDING for window in a.windows
        ),
        sliding_window_size=sliding,
    )
