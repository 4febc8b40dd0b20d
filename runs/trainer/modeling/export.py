"""The trained model for the rest of the world: Hugging Face folders and PEFT adapters, each with a
model card."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from runs.spec.architectures import Tensor, tensors, text_config
from runs.trainer.errors import StorageError
from runs.trainer.modeling.loading import LoadedModel
from runs.trainer.modeling.lora import LoraSettings
from runs.trainer.modeling.weights import Names, to_checkpoint, write_one, write_safetensors
from runs.trainer.reporting.card import model_card

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}

# Files beside the weights that belong to a model: tokenizer, template, generation settings,
# licence.
_COMPANIONS = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|chat_template\..*|generation_config\.json|"
    r"(LICENSE|LICENCE|NOTICE|USE_POLICY).*",
    re.IGNORECASE,
)

Fetch = Callable[[Tensor], np.ndarray]


def export_model(
    loaded: LoadedModel, out_dir: Path, *, lora: bool, merged: bool, card: Mapping[str, Any]
) -> None:
    """Write what was trained to ``out_dir``, whole or not at all: a folder of that name appears by
    a rename.

    Full training: a Hugging Face folder. LoRA: a PEFT adapter and, if ``merged``, the merged model
    in ``merged/`` inside it. Weights keep the dtype they were trained in. ``card`` is what the
    README.md tells (``run_id``, ``dataset``, ``model``, ``training``, ``result``). Every process of
    a distributed run must call this; the first one writes.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    writes = jax.process_index() == 0
    # ``tensor → array`` one at a time: a second copy of the model never exists.
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    try:
        if writes:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        if lora:
            _write_adapter(loaded, partial if writes else None, card)
            if merged:
                _write_model(loaded, partial / "merged" if writes else None, card)
        else:
            _write_model(loaded, partial if writes else None, card)
        if writes:
            _replace(partial, out_dir)
    except OSError as error:
        raise StorageError(
            f"the model cannot be written to {out_dir}: {error.strerror or error}"
        ) from error
    finally:
        if writes:
            shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, out_dir: Path) -> None:
    """Put the finished folder in place; an earlier one of that name goes only once the new one is
    whole on the disk."""
    old = out_dir.with_name(f".{out_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        os.rename(out_dir, old)
    os.rename(partial, out_dir)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(out_dir.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_model(loaded: LoadedModel, folder: Path | None, card: Mapping[str, Any]) -> None:
    table = tensors(loaded.architecture)
    dtype = np.dtype(jax.tree.leaves(nnx.state(loaded.module, nnx.Param))[0].dtype)
    fetch = _fetcher(loaded)
    if folder is None:
        for tensor in table:  # take part in gathering
            fetch(tensor)
        return
    folder.mkdir(exist_ok=True)
    names: Names = {tensor.name: (dtype, tensor.shape) for tensor in table}
    write_safetensors(folder, names, (fetch(tensor).astype(dtype, copy=False) for tensor in table))
    _write_json(folder / "config.json", _exported_config(loaded, dtype))
    _copy_companions(loaded, folder)
    (folder / "README.md").write_text(model_card(loaded, card, adapter=False), encoding="utf-8")


def _write_adapter(loaded: LoadedModel, folder: Path | None, card: Mapping[str, Any]) -> None:
    """Write PEFT's format: ``lora_A [rank, in]`` and ``lora_B [out, rank]`` of each adapted
    projection."""
    settings: LoraSettings = loaded.lora
    matrices: dict[str, np.ndarray] = {}
    for tensor in tensors(loaded.architecture):
        if tensor.projection in settings.targets:
            owner = _owner(loaded.module, tensor)
            name = _peft_name(loaded, tensor).removesuffix(".weight")
            for letter in ("a", "b"):
                variable = getattr(owner, f"{tensor.projection}_lora_{letter}")
                matrices[f"{name}.lora_{letter.upper()}.weight"] = (
                    _whole(variable.value).astype(np.float32).T
                )
    if folder is None:
        return
    with (folder / "adapter_model.safetensors").open("wb") as stream:
        write_one(
            stream,
            {name: (array.dtype, array.shape) for name, array in matrices.items()},
            iter(matrices.values()),
        )
    _write_json(folder / "adapter_config.json", _adapter_config(loaded, settings))
    _copy_companions(loaded, folder)
    (folder / "README.md").write_text(model_card(loaded, card, adapter=True), encoding="utf-8")


def _adapter_config(loaded: LoadedModel, settings: LoraSettings) -> dict[str, Any]:
    """Return what PEFT reads, https://huggingface.co/docs/peft/package_reference/lora."""
    targets: str | list[str] = list(settings.targets)
    if loaded.config.get("model_type") == "gemma3":
        # The vision tower of a multimodal checkpoint has projections of the same names.
        targets = r".*language_model.*\.(" + "|".join(settings.targets) + ")"
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": _base_name(loaded),
        "revision": loaded.revision,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _base_name(loaded: LoadedModel) -> str:
    return (
        str(loaded.folder.resolve())
        if loaded.folder and loaded.revision is None
        else loaded.model_id
    )


def _peft_name(loaded: LoadedModel, tensor: Tensor) -> str:
    name = tensor.name
    if loaded.config.get("model_type") == "gemma3":
        name = "model.language_model." + name.removeprefix("model.")
    return "base_model.model." + name


def _exported_config(loaded: LoadedModel, dtype: np.dtype) -> dict[str, Any]:
    config = text_config(loaded.config)
    config["architectures"] = [_CLASSES[loaded.family]]
    config["vocab_size"] = loaded.architecture.vocab
    if loaded.family == "gemma":
        # Said outright, because readers differ on what "gelu" means for Gemma 1.
        config["hidden_act"] = config["hidden_activation"] = "gelu_pytorch_tanh"
    config.pop("dtype", None)
    config["torch_dtype"] = dtype.name  # the older name; every transformers reads it
    return config


def _copy_companions(loaded: LoadedModel, folder: Path) -> None:
    if loaded.folder is None:
        return
    for file in sorted(loaded.folder.iterdir()):
        if file.is_file() and _COMPANIONS.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# From parameters to tensors


def _fetcher(loaded: LoadedModel) -> Fetch:
    """Return ``tensor → array`` in the checkpoint's layout, LoRA matrices merged; keep the last
    parameter for its other slices."""
    last: dict[tuple[str | int, ...], np.ndarray] = {}

    def fetch(tensor: Tensor) -> np.ndarray:
        owner = _owner(loaded.module, tensor)
        if tensor.path not in last:
            last.clear()
            last[tensor.path] = _whole(getattr(owner, str(tensor.path[-1])).value)
        array = to_checkpoint(tensor, last[tensor.path])
        a = getattr(owner, f"{tensor.projection}_lora_a", None)
        if a is None:
            return array
        b = getattr(owner, f"{tensor.projection}_lora_b")
        update = _whole(b.value).astype(np.float32).T @ _whole(a.value).astype(np.float32).T
        return (array.astype(np.float32) + np.float32(loaded.lora.scale) * update).astype(
            array.dtype
        )

    return fetch


def _owner(module: Any, tensor: Tensor) -> Any:
    for step in tensor.path[:-1]:
        module = module[step] if isinstance(step, int) else getattr(module, step)
    return module


def _whole(array: jax.Array) -> np.ndarray:
    """Return the array on this host, gathered where it lies on several."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
