"""google-tunix's sampler on our modules: greedy decoding with its cache equals the whole forward
pass, token by token."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.generate.sampler import CacheConfig, Sampler

from runs.trainer.modeling import apply_lora, load_model
from runs.trainer.tests.modeling_folders import CONFIGS, make_folder

STEPS = 14
LENGTH = 16 + STEPS
# Of different lengths, so that the sampler pads on the left; the longest is longer than the
# windows.
PROMPTS = ("3 7 11 40 9 5 22 17 31 8 2 60 33", "12 4", "50 49 48 47 46")


class Numbers:
    """A tokenizer of numbers: ``3 7`` is the ids 3 and 7. Padding 0, begin 1, end 63."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(id)) for id in ids)

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 63

    def pad_id(self) -> int:
        return 0


def greedy(logits_of: Any, prompt: list[int]) -> list[int]:
    """The reference: the whole sequence through the model again for each token, without a cache."""
    ids = list(prompt)
    for _ in range(STEPS):
        logits = logits_of(jnp.asarray([ids + [0] * (LENGTH - len(ids))]))
        ids.append(int(logits[0, len(ids) - 1].at[0].set(-jnp.inf).argmax()))
        if ids[-1] == 63:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_decoding_equals_the_forward_pass(family: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / family, family)
    loaded = load_model(
        model_id=family, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    config = loaded.model_config
    if family in ("llama", "gemma"):  # LoRA as well, with matrices that do something
        apply_lora(loaded, rank=2, alpha=4.0, targets=None, seed=0)
        for layer in loaded.module.layers:
            down: Any = layer.mlp.down_proj
            noise = np.random.default_rng(0).standard_normal(down.down_proj_lora_b.value.shape)
            down.down_proj_lora_b.value = jnp.asarray(noise, jnp.float32)
    cache = CacheConfig(
        cache_size=LENGTH + 10,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    sampler = Sampler(loaded.module, Numbers(), cache)
    # The sampler takes every 0 for padding, also one that the model has made.
    output = sampler(
        list(PROMPTS),
        max_generation_steps=STEPS,
        max_prompt_length=LENGTH - STEPS,
        eos_tokens=[63],
        forbidden_tokens=[0],
    )
    mask = jnp.tril(jnp.ones((1, LENGTH, LENGTH), bool))
    logits_of = jax.jit(
        lambda tokens: loaded.module(tokens, jnp.arange(LENGTH)[None], None, mask)[0]
    )
    decoded: set[int] = set()
    for prompt, tokens in zip(PROMPTS, output.tokens, strict=True):
        expected = greedy(logits_of, [1, *map(int, prompt.split())])
        got = [int(token) for token in np.asarray(tokens)][: len(expected)]
        assert got == [token for token in expected if token != 63] + [63] * (63 in got)
        decoded |= set(got)
    assert len(decoded) >= 6, "the same few tokens again and again show nothing"
