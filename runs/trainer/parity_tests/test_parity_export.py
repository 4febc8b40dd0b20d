"""What we export, loaded by ``transformers`` and ``peft``: logits equal to our own."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx

from runs.trainer.modeling import LoadedModel, apply_lora, export_model, load_model
from runs.trainer.parity_tests.comparing import Piece, make_rows, our_logits
from runs.trainer.parity_tests.reference import (
    VOCABULARY,
    load_reference,
    loud,
    make_checkpoint,
    reference_logits,
)

TOLERANCE = 1e-3
FAMILIES = [
    "llama",
    "llama-tied",
    "qwen2",
    "qwen3-tied",
    "gemma",
    "gemma-equal-heads",
    "gemma2-27b",
    "gemma3",
]
LENGTH = 60


def load(folder: Path) -> LoadedModel:
    return load_model(
        model_id=folder.name, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )


def disturb(module: nnx.Module, kind: type, size: float) -> None:
    """As if it had been trained: noise on every variable of a kind."""
    state = nnx.state(module, kind)
    leaves, structure = jax.tree.flatten(state)
    generator = np.random.default_rng(3)
    moved = [
        leaf + size * jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    nnx.update(module, jax.tree.unflatten(structure, moved))


def rows(vocabulary: int = VOCABULARY) -> dict[str, np.ndarray]:
    return make_rows(vocabulary, length=LENGTH, pieces=(Piece(row=0, start=0, length=LENGTH),))


def difference(reference: Any, ours: np.ndarray, vocabulary: int = VOCABULARY) -> float:
    return float(
        np.abs(reference_logits(reference.eval(), rows(vocabulary)["tokens"][0]) - ours[0]).max()
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_full_weights_load_in_transformers(name: str, checkpoints: Path, tmp_path: Path) -> None:
    base = make_checkpoint(checkpoints, name)
    loaded = load(base)
    untrained = our_logits(loaded, rows())
    disturb(loaded.module, nnx.Param, 0.05)
    trained = our_logits(loaded, rows())
    export_model(loaded, tmp_path / "model", lora=False, merged=False, card={})
    assert np.abs(trained - untrained).max() > 0.05
    assert difference(load_reference(tmp_path / "model"), trained) <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_adapter_loads_in_peft_and_merged_model_in_transformers(
    name: str, checkpoints: Path, tmp_path: Path
) -> None:
    base = make_checkpoint(checkpoints, name)
    loaded = load(base)
    untrained = our_logits(loaded, rows())
    apply_lora(loaded, rank=3, alpha=5.0, targets=None, seed=1)
    np.testing.assert_allclose(our_logits(loaded, rows()), untrained, atol=TOLERANCE)
    disturb(loaded.module, nnx.LoRAParam, 0.1)
    trained = our_logits(loaded, rows())
    assert np.abs(trained - untrained).max() > 0.05
    export_model(loaded, tmp_path / "model", lora=True, merged=True, card={})
    with_adapter = peft.PeftModel.from_pretrained(load_reference(base), tmp_path / "model")
    assert difference(with_adapter, trained) <= TOLERANCE
    assert difference(load_reference(tmp_path / "model" / "merged"), trained) <= TOLERANCE


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "down_proj"]])
@pytest.mark.parametrize("name", ["llama", "gemma", "gemma-equal-heads"])
def test_some_targets_only(
    name: str, targets: list[str], checkpoints: Path, tmp_path: Path
) -> None:
    base = make_checkpoint(checkpoints, name)
    loaded = load(base)
    apply_lora(loaded, rank=2, alpha=None, targets=targets, seed=1)
    disturb(loaded.module, nnx.LoRAParam, 0.3)
    export_model(loaded, tmp_path / "model", lora=True, merged=False, card={})
    with_adapter = peft.PeftModel.from_pretrained(load_reference(base), tmp_path / "model")
    assert difference(with_adapter, our_logits(loaded, rows())) <= TOLERANCE
    assert not (tmp_path / "model" / "merged").exists()


def test_lora_gradients_equal_pefts(checkpoints: Path, tmp_path: Path) -> None:
    """One backward pass of the same loss: the gradient of every LoRA matrix."""
    base = make_checkpoint(checkpoints, "llama")
    loaded = load(base)
    apply_lora(loaded, rank=3, alpha=5.0, targets=None, seed=1)
    disturb(loaded.module, nnx.LoRAParam, 0.1)
    export_model(loaded, tmp_path / "model", lora=True, merged=False, card={})
    data = rows()
    tokens, positions, mask = (jnp.asarray(data[key]) for key in ("tokens", "positions", "mask"))
    graph, lora, rest = nnx.split(loaded.module, nnx.LoRAParam, ...)

    def loss(lora: Any) -> jax.Array:
        logits = nnx.merge(graph, lora, rest)(tokens, positions, None, mask)[0][0, :-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[0, 1:, None], axis=-1)
        return -picked.mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(lora)
    model = peft.PeftModel.from_pretrained(
        load_reference(base), tmp_path / "model", is_trainable=True
    )
    with torch.enable_grad():
        ids = torch.from_numpy(data["tokens"].astype(np.int64))
        result = model(input_ids=ids, labels=ids)
        result.loss.backward()
    assert float(value) == pytest.approx(result.loss.item(), abs=1e-4)
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")  # …layers.N.self_attn.q_proj.lora_A.default.weight
            layer, block, projection, matrix = parts[
                parts.index("layers") + 1 : parts.index("layers") + 5
            ]
            owner = gradient["layers"][int(layer)]["attn" if block == "self_attn" else "mlp"][
                projection
            ]
            ours = owner[f"{projection}_lora_{matrix[-1].lower()}"]
            np.testing.assert_allclose(
                np.asarray(jax.tree.leaves(ours)[0]).T, parameter.grad.numpy(), atol=1e-3, rtol=1e-2
            )
            compared += 1
    assert compared == 2 * 7 * 2


def test_mixed_dtypes_and_shards(checkpoints: Path, tmp_path: Path) -> None:
    reference = load_reference(make_checkpoint(checkpoints, "llama"))
    for name, parameter in reference.named_parameters():
        if "mlp" in name or "norm" in name:
            parameter.data = parameter.to(torch.bfloat16)
    reference.save_pretrained(tmp_path / "mixed", max_shard_size="20KB")
    assert len(list((tmp_path / "mixed").glob("*.safetensors"))) > 2
    kinds = set(
        json.loads((tmp_path / "mixed" / "model.safetensors.index.json").read_text())[
            "weight_map"
        ].values()
    )
    assert len(kinds) > 2
    assert (
        difference(load_reference(tmp_path / "mixed"), our_logits(load(tmp_path / "mixed"), rows()))
        <= TOLERANCE
    )


def test_bfloat16_stays_near_the_float32_reference(checkpoints: Path, tmp_path: Path) -> None:
    """In bfloat16 only rounding separates us from the reference, and the exported files hold
    bfloat16."""
    base = make_checkpoint(checkpoints, "llama", dtype=torch.bfloat16)
    loaded = load_model(
        model_id="x", path=base, revision=None, dtype=jnp.bfloat16, mesh=None, seed=0
    )
    ours, exact = (
        our_logits(loaded, rows()),
        reference_logits(load_reference(base), rows()["tokens"][0]),
    )
    assert np.abs(ours[0] - exact).mean() < 0.02 * np.abs(exact).mean()
    export_model(loaded, tmp_path / "model", lora=False, merged=False, card={})
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", trust_remote_code=False
    )
    assert again.dtype == torch.bfloat16
    np.testing.assert_array_equal(
        reference_logits(load_reference(tmp_path / "model"), rows()["tokens"][0]), exact
    )


def test_multimodal_gemma3_gives_its_language_model(checkpoints: Path, tmp_path: Path) -> None:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 29,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration._from_config(
        config, attn_implementation="eager"
    )
    loud(model)
    base = tmp_path / "multimodal"
    model.save_pretrained(base)
    loaded = load(base)
    assert difference(model, our_logits(loaded, rows())) <= TOLERANCE
    apply_lora(loaded, rank=2, alpha=None, targets=None, seed=0)
    disturb(loaded.module, nnx.LoRAParam, 0.1)
    trained = our_logits(loaded, rows())
    export_model(loaded, tmp_path / "model", lora=True, merged=True, card={})
    text_model = load_reference(tmp_path / "model" / "merged")
    assert type(text_model).__name__ == "Gemma3ForCausalLM"
    assert difference(text_model, trained) <= TOLERANCE
    with_adapter = peft.PeftModel.from_pretrained(model, tmp_path / "model")
    assert difference(with_adapter, trained) <= TOLERANCE


def test_preset_loads_as_a_llama(tmp_path: Path) -> None:
    loaded = load_model(
        model_id="preset:tiny-llama", path=None, revision=None, dtype=jnp.float32, mesh=None, seed=5
    )
    disturb(loaded.module, nnx.Param, 0.05)
    ours = our_logits(loaded, rows(loaded.vocab_size))
    export_model(loaded, tmp_path / "model", lora=False, merged=False, card={"run_id": "r"})
    model = load_reference(tmp_path / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert difference(model, ours, loaded.vocab_size) <= TOLERANCE
    assert "UTF-8 bytes" in (tmp_path / "model" / "README.md").read_text()
