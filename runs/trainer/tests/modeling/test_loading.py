"""Loading, LoRA and export: what is deterministic, what is frozen, what is refused, what is never
half written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from runs.spec.architectures import count_parameters
from runs.spec.families import PRESETS
from runs.trainer.errors import ModelError, StorageError
from runs.trainer.modeling import (
    LoadedModel,
    apply_lora,
    export_model,
    forward_hidden,
    load_model,
    project,
)
from runs.trainer.tests.modeling_folders import CONFIGS, make_folder

ROOT = Path(__file__).resolve().parents[4]


def load(
    model_id: str = "preset:tiny-llama", path: Path | None = None, **changes: Any
) -> LoadedModel:
    arguments: dict[str, Any] = {
        "revision": None,
        "dtype": jnp.float32,
        "mesh": None,
        "seed": 0,
    } | changes
    return load_model(model_id=model_id, path=path, **arguments)


def leaves(module: nnx.Module, kind: Any = nnx.Param) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(nnx.state(module, kind))]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def hidden(module: nnx.Module, length: int = 12) -> jax.Array:
    return jax.jit(lambda: forward_hidden(module, *row(length)))()


def row(length: int = 12) -> tuple[jax.Array, ...]:
    return (
        jnp.arange(length)[None] + 3,
        jnp.arange(length)[None],
        jnp.tril(jnp.ones((1, length, length), bool)),
    )


def test_presets_depend_on_the_seed_only() -> None:
    first = leaves(load().module)
    assert equal(first, leaves(load().module))
    assert not equal(first, leaves(load(seed=1).module))
    assert sum(leaf.size for leaf in first) == count_parameters(PRESETS["tiny-llama"])[0]
    norms: Any = load().module
    assert (norms.final_norm.w.value == 1).all()


def test_a_fresh_preset_guesses() -> None:
    """Before training every byte is about as likely as any other: the loss starts at the logarithm
    of the vocabulary."""
    loaded = load()
    logits = project(loaded.module, hidden(loaded.module, 64))
    loss = -jax.nn.log_softmax(logits[0, :-1])[jnp.arange(63), row(64)[0][0, 1:]].mean()
    assert float(loss) == pytest.approx(np.log(loaded.vocab_size), abs=0.3)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_loaded_and_exported_unchanged(family: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", family)
    loaded = load(family, folder)
    export_model(loaded, tmp_path / "out", lora=False, merged=False, card={"run_id": "r"})
    assert equal(leaves(loaded.module), leaves(load("again", tmp_path / "out").module))
    assert (folder / "model.safetensors").stat().st_size == (
        tmp_path / "out" / "model.safetensors"
    ).stat().st_size
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["model_type"]
        == CONFIGS[family]["model_type"]
    )
    total, _ = count_parameters(loaded.config)
    assert sum(leaf.size for leaf in leaves(loaded.module)) == total


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_lora_starts_from_the_base_and_trains_nothing_else(family: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", family)
    plain, adapted = load(family, folder), load(family, folder)
    apply_lora(adapted, rank=2, alpha=None, targets=["q_proj", "v_proj", "down_proj"], seed=9)
    assert adapted.lora.alpha == 4.0
    np.testing.assert_allclose(hidden(plain.module), hidden(adapted.module), atol=1e-4)
    trained = sum(leaf.size for leaf in leaves(adapted.module, nnx.LoRAParam))
    assert (
        trained
        == count_parameters(
            plain.config, lora_rank=2, lora_targets=["q_proj", "v_proj", "down_proj"]
        )[1]
    )
    assert equal(
        leaves(plain.module), leaves(adapted.module, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
    )

    graph, lora, rest = nnx.split(adapted.module, nnx.LoRAParam, ...)

    def loss(lora: Any, rest: Any) -> jax.Array:
        return jnp.square(forward_hidden(nnx.merge(graph, lora, rest), *row())).sum()

    by_lora, by_rest = jax.jit(jax.grad(loss, argnums=(0, 1)))(lora, rest)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(by_lora))
    frozen: Any = by_rest["layers"][0]["mlp"]["down_proj"]
    assert not np.asarray(jax.tree.leaves(frozen)[0]).any()


def test_lora_depends_on_its_seed_only(tmp_path: Path) -> None:
    def matrices(seed: int) -> list[np.ndarray]:
        loaded = load()
        apply_lora(loaded, rank=3, alpha=6.0, targets=None, seed=seed)
        return leaves(loaded.module, nnx.LoRAParam)

    assert equal(matrices(1), matrices(1))
    assert not equal(matrices(1), matrices(2))


@pytest.mark.parametrize(
    ("family", "layers", "loops"),
    [
        ("llama", 2, 1),
        ("llama", 9, 1),
        ("qwen3", 9, 1),
        ("gemma2", 9, 2),
        ("gemma3", 3, 0),
        ("gemma3", 6, 3),
        ("gemma3", 11, 3),
    ],
)
def test_layers_that_compute_alike_are_a_loop(
    family: str, layers: int, loops: int, tmp_path: Path
) -> None:
    """``loops``: how many different layers one pass of it has; what is left over follows, and with
    a cache there is none."""
    loaded = load("x", make_folder(tmp_path / "base", family, num_hidden_layers=layers))
    apply_lora(loaded, rank=3, alpha=6.0, targets=None, seed=1)
    positions, module = jnp.arange(24)[None], loaded.module
    tokens, mask = positions % 60, jnp.tril(jnp.ones((1, 24, 24), bool))
    program = jax.make_jaxpr(lambda: module(tokens, positions, None, mask)[0])()

    scans = [equation for equation in program.eqns if equation.primitive is jax.lax.scan_p]
    assert [equation.params["length"] for equation in scans] == ([layers // loops] if loops else [])
    remats = str(program).count("checkpoint[") + str(program).count("remat2[")
    assert remats == (loops + layers % loops if loops else layers)

    cached, _ = module(tokens, positions, module.init_cache(1, 24, jnp.float32), mask)
    np.testing.assert_allclose(module(tokens, positions, None, mask)[0], cached, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_gradient_checkpointing_changes_nothing_but_memory(family: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", family)

    def gradient(**changes: Any) -> list[Any]:
        graph, state = nnx.split(load("x", folder, **changes).module)
        loss = jax.grad(
            lambda state: jnp.sin(forward_hidden(nnx.merge(graph, state), *row(40))).sum()
        )
        assert ("policy=None" in str(jax.make_jaxpr(loss)(state))) == bool(changes)
        return jax.tree.leaves(jax.jit(loss)(state))

    for one, other in zip(gradient(), gradient(gradient_checkpointing=True), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1.0, float(jnp.abs(one).max())))


@pytest.mark.parametrize(
    ("model_id", "changes", "words"),
    [
        ("preset:none", {}, "no preset 'none'"),
        ("x", {"path": Path("/no/such/folder")}, "there is no model folder"),
        ("owner/name", {}, "not in the local cache"),
        ("no/such/thing", {}, "not a hub id"),
        ("my-model", {}, "names no model: a hub id is owner/name"),
    ],
)
def test_models_that_are_not_there(model_id: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load(model_id, **changes)
    assert model_id.removeprefix("preset:") in str(caught.value)


def test_damaged_folders_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", "llama")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load("x", folder)
    file.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))
    with pytest.raises(ModelError, match=r"gate_proj.weight has the shape \[48, 32\].*\[50, 32\]"):
        load("x", folder)
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    with pytest.raises(ModelError, match="attention_bias"):
        load("x", folder)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(ModelError, match=r"lm_head.weight differs"):
        load("x", folder)


def test_lora_targets_are_checked() -> None:
    with pytest.raises(ModelError, match="lm_head"):
        apply_lora(load(), rank=2, alpha=None, targets=["lm_head"], seed=0)


def test_bfloat16_keeps_adapters_in_float32() -> None:
    loaded = load(dtype=jnp.bfloat16)
    apply_lora(loaded, rank=2, alpha=None, targets=None, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(loaded.module, nnx.LoRAParam))} == {
        jnp.dtype(jnp.float32)
    }
    assert hidden(loaded.module).dtype == jnp.bfloat16


def test_export_replaces_a_whole_folder_or_nothing(tmp_path: Path) -> None:
    loaded = load()
    out = tmp_path / "model"
    export_model(loaded, out, lora=False, merged=False, card={})
    (out / "left over").write_text("of an earlier export")
    apply_lora(loaded, rank=2, alpha=None, targets=["q_proj"], seed=0)
    export_model(loaded, out, lora=True, merged=True, card={})
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "merged",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path) -> None:
    """The limit on the size of files stands for a full disk: a write fails half way."""
    code = f"""
import resource, signal, sys
sys.path.append({str(ROOT)!r})
from pathlib import Path
import jax.numpy as jnp
from runs.trainer.errors import StorageError
from runs.trainer.modeling import export_model, load_model
loaded = load_model(
    model_id="preset:tiny-llama", path=None, revision=None, dtype=jnp.float32, mesh=None, seed=0
)
out = Path({str(tmp_path / "model")!r})
export_model(loaded, out, lora=False, merged=False, card={{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    export_model(loaded, out, lora=False, merged=False, card={{"run_id": "second"}})
except StorageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert "second" not in (tmp_path / "model" / "README.md").read_text()
    assert equal(leaves(load().module), leaves(load("x", tmp_path / "model").module))


def test_an_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_model(load(), tmp_path / "file" / "model", lora=False, merged=False, card={})


def test_companions_and_licence_travel_along(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "base", "llama")
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nBase")
    (folder / "training_state.bin").write_text("not ours")
    loaded = load("x", folder)
    card = {
        "run_id": "r1",
        "dataset": {"key": "d-v1", "fingerprint": "f00"},
        "result": {"loss_last": 0.5, "samples": ["s"]},
    }
    export_model(loaded, tmp_path / "out", lora=False, merged=False, card=card)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "LICENSE",
    }
    text = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: apache-2.0", "run r1", "d-v1", "f00", "loss_last: 0.5"):
        assert words in text
    assert str(tmp_path) not in text


def test_weights_are_spread_over_a_mesh(tmp_path: Path) -> None:
    """On four simulated devices each holds a part, and the logits stay the same."""
    folder = make_folder(tmp_path / "base", "gemma2")
    code = f"""
import sys
sys.path.append({str(ROOT)!r})
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from runs.trainer.modeling import apply_lora, export_model, forward_hidden, load_model
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2, 1), ("data", "fsdp", "tp"))
def load(mesh):
    path = Path({str(folder)!r})
    return load_model(
        model_id="x", path=path, revision=None, dtype=jnp.float32, mesh=mesh, seed=0
    )
loaded, single = load(mesh), load(None)
kernel = loaded.module.layers[0].mlp.gate_proj.kernel.value
assert len({{shard.device for shard in kernel.addressable_shards}}) == 4
assert kernel.addressable_shards[0].data.size * 2 == kernel.size
assert loaded.module.config.shd_config.act_btd[0] == ("data", "fsdp")
arguments = (jnp.arange(12)[None] + 3, jnp.arange(12)[None], jnp.tril(jnp.ones((1, 12, 12), bool)))
def hidden(loaded):
    return np.asarray(jax.jit(lambda: forward_hidden(loaded.module, *arguments))())
with mesh:
    spread = hidden(loaded)
np.testing.assert_allclose(spread, hidden(single), atol=1e-4)
apply_lora(loaded, rank=2, alpha=None, targets=None, seed=0)
lora = jax.tree.leaves(nnx.state(loaded.module, nnx.LoRAParam))
assert all(len(array.sharding.device_set) == 4 and array.is_fully_replicated for array in lora)
export_model(loaded, Path({str(tmp_path / "out")!r}), lora=True, merged=True, card={{}})
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-I", "-c", code], check=True, env=environment)
    merged = load("merged", tmp_path / "out" / "merged")
    for one, other in zip(leaves(merged.module), leaves(load("base", folder).module), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
