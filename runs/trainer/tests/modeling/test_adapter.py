"""Adapters that were exported are loaded again; what does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from runs.trainer.errors import ModelError
from runs.trainer.modeling import apply_lora, export_model, load_model
from runs.trainer.modeling.adapter import CONFIG, WEIGHTS, load_adapter
from runs.trainer.modeling.loading import LoadedModel
from runs.trainer.tests.modeling_folders import CONFIGS, make_folder

CARD: dict[str, Any] = {
    "run_id": "r",
    "dataset": {"key": "d"},
    "model": {"id": "m"},
    "training": {},
    "kind": "sft",
    "method": "m",
    "result": {},
}
Change = Callable[[Path], None]


def load(folder: Path) -> LoadedModel:
    return load_model(
        model_id="./base", path=folder, revision=None, dtype="float32", mesh=None, seed=0
    )


def logits(loaded: LoadedModel) -> np.ndarray:
    tokens = jnp.arange(6)[None] + 3
    positions = jnp.arange(6)[None]
    mask = jnp.tril(jnp.ones((1, 6, 6), bool))
    module: Any = loaded.module
    return np.asarray(module(tokens, positions, None, mask)[0])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "base", "llama")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(load(base), tmp_path / "adapter")


def write_adapter(loaded: LoadedModel, folder: Path, **asked: Any) -> Path:
    """An adapter with loud matrices, as an export leaves it."""
    apply_lora(loaded, **({"rank": 2, "alpha": 3.0, "targets": None, "seed": 1} | asked))
    generator = np.random.default_rng(2)
    for _, variable in nnx.iter_graph(loaded.module):
        if isinstance(variable, nnx.LoRAParam):
            variable.value = jnp.asarray(
                generator.normal(size=variable.value.shape, scale=0.3), jnp.float32
            )
    export_model(loaded, folder, lora=True, merged=False, card=CARD)
    return folder


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_an_adapter_computes_what_it_computed(
    tmp_path: Path, family: str, targets: list[str] | None
):
    base = make_folder(tmp_path / "base", family)
    trained = load(base)
    folder = write_adapter(trained, tmp_path / "adapter", targets=targets)
    plain = load(base)
    before = logits(plain)

    load_adapter(plain, folder)

    assert np.abs(logits(plain) - before).max() > 1e-2
    np.testing.assert_allclose(logits(plain), logits(trained), atol=1e-5)
    assert plain.lora == trained.lora or set(plain.lora.targets) == set(trained.lora.targets)


def of_config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def of_weights(change: Callable[[dict[str, np.ndarray]], None]) -> Change:
    def rewrite(folder: Path) -> None:
        matrices = load_file(folder / WEIGHTS)
        change(matrices)
        save_file(matrices, folder / WEIGHTS)

    return rewrite


def rename(matrices: dict[str, np.ndarray]) -> None:
    matrices["base_model.model.lm_head.lora_A.weight"] = matrices.popitem()[1]


def widen(matrices: dict[str, np.ndarray]) -> None:
    name = next(name for name in matrices if "lora_A" in name)
    matrices[name] = np.zeros((2, 33), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_config(use_dora=True), "an adapter with use_dora True cannot be loaded"),
        (of_config(peft_type="IA3"), "peft_type 'IA3'"),
        (of_config(rank_pattern={"q_proj": 3}), "rank_pattern"),
        (of_config(r=0), "not a number of at least 1"),
        (of_config(r=True), "not a number of at least 1"),
        (of_config(lora_alpha="2"), "lora_alpha"),
        (of_config(r=3), "does not fit ./base: .* has a matrix of 2 × 32, not 3 × 32"),
        (of_weights(rename), "does not fit ./base: it has base_model.model.lm_head"),
        (of_weights(widen), "a matrix of 2 × 33, not 2 × 32"),
        (of_weights(dict.clear), "is empty"),
        (lambda folder: (folder / CONFIG).unlink(), "cannot be read"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "is no JSON object"),
        (lambda folder: (folder / WEIGHTS).unlink(), "cannot be read"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"nothing"), "cannot be read"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_named(
    base: Path, adapter: Path, change: Change, message: str
):
    change(adapter)
    with pytest.raises(ModelError, match=message):
        load_adapter(load(base), adapter)
