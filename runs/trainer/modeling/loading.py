"""From a model id to a module with weights: built-in presets, Hugging Face folders, hub ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runs.spec.architectures import Architecture, Tensor, read_architecture, tensors
from runs.spec.families import PRESETS, preset_names
from runs.trainer.errors import ModelError
from runs.trainer.modeling import decoder, hub, weights
from runs.trainer.modeling.model_files import open_model, read_weights

PRESET_PREFIX = "preset:"


@dataclass
class LoadedModel:
    """A model ready to train. ``module(tokens, positions, cache, attention_mask) → (logits,
    cache)``.

    ``config`` is the content of config.json; ``folder`` and ``tokenizer_path`` are None for presets
    (byte tokenizer); ``revision`` is the resolved commit of a hub model; ``lora`` is set by
    ``apply_lora``.
    """

    module: nnx.Module
    family: str
    config: dict[str, Any]
    architecture: Architecture
    model_config: Any
    model_id: str
    mesh: jax.sharding.Mesh | None = None
    folder: Path | None = None
    revision: str | None = None
    lora: Any = None
    warnings: list[str] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab

    @property
    def tokenizer_path(self) -> Path | None:
        return self.folder


def config_hash(config: dict[str, Any]) -> str:
    """Identify the shape of a model: part of the identity of checkpoints."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_model(
    *,
    model_id: str,
    path: Path | None,
    revision: str | None,
    dtype: Any,
    mesh: jax.sharding.Mesh | None,
    seed: int,
    gradient_checkpointing: bool = False,
) -> LoadedModel:
    """Build the model and bring its weights to the devices of ``mesh`` in ``dtype``.

    ``preset:<name>`` has random weights of ``seed``; else ``path`` is a Hugging Face folder;
    without a path ``model_id`` is a hub id, fetched at ``revision`` into the usual cache.

    Raises:
        ModelError: what is wrong with the model, in one sentence.
        StorageError: the disk has no room for a hub model.
    """
    dtype = jnp.dtype(dtype)
    if model_id.startswith(PRESET_PREFIX) and path is None:
        return _load_preset(
            model_id,
            dtype=dtype,
            mesh=mesh,
            seed=seed,
            gradient_checkpointing=gradient_checkpointing,
        )
    commit = None
    if path is None:
        path, commit = hub.fetch(model_id, revision)
    folder = open_model(model_id, path)
    module = _materialize(
        folder.architecture,
        lambda tensor: read_weights(tensor.name, folder.entries[tensor.name]),
        dtype=dtype,
        mesh=mesh,
        gradient_checkpointing=gradient_checkpointing,
    )
    return LoadedModel(
        module=module,
        family=folder.architecture.family,
        config=folder.config,
        architecture=folder.architecture,
        model_config=module.config,
        model_id=model_id,
        mesh=mesh,
        folder=path,
        revision=commit,
        warnings=folder.warnings,
    )


def _load_preset(
    model_id: str, *, dtype: Any, mesh: Any, seed: int, gradient_checkpointing: bool
) -> LoadedModel:
    name = model_id.removeprefix(PRESET_PREFIX)
    if name not in PRESETS:
        raise ModelError(f"there is no preset {name!r}; presets: {', '.join(preset_names())}")
    config = dict(PRESETS[name])
    architecture = read_architecture(config)
    module = _materialize(
        architecture,
        lambda tensor: weights.random_array(tensor, architecture, seed),
        dtype=dtype,
        mesh=mesh,
        gradient_checkpointing=gradient_checkpointing,
    )
    return LoadedModel(
        module=module,
        family=architecture.family,
        config=config,
        architecture=architecture,
        model_config=module.config,
        model_id=model_id,
        mesh=mesh,
    )


def _materialize(
    architecture: Architecture,
    read: Callable[[Tensor], np.ndarray],
    *,
    dtype: Any,
    mesh: Any,
    gradient_checkpointing: bool,
) -> Any:
    """Build the module without weights, then fill every parameter, one at a time, straight to its
    devices."""
    axes = () if mesh is None else mesh.axis_names
    with mesh if mesh is not None else contextlib.nullcontext():
        abstract = nnx.eval_shape(
            lambda: decoder.build(
                architecture, dtype=dtype, gradient_checkpointing=gradient_checkpointing, axes=axes
            )
        )
    graph, state = nnx.split(abstract)
    parts = weights.by_parameter(tensors(architecture))
    filled = []
    for path, variable in nnx.to_flat_state(state):
        arrays = [weights.to_parameter(tensor, read(tensor)) for tensor in parts.pop(path)]
        array = (
            arrays[0]
            if len(arrays) == 1 and parts is not None and variable.shape == arrays[0].shape
            else np.stack(arrays)
        )
        if array.shape != variable.shape:
            raise AssertionError(f"{path}: {array.shape} instead of {variable.shape}")
        filled.append(
            (path, variable.replace(weights.place(array, dtype, _sharding(variable, mesh))))
        )
    if parts:
        raise AssertionError(f"parameters without a place: {sorted(map(str, parts))}")
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _sharding(variable: Any, mesh: Any) -> jax.sharding.Sharding | None:
    """Return upstream's placement of a parameter on the mesh; an axis that does not divide evenly
    stays whole."""
    if mesh is None:
        return None
    names = variable.get_metadata().get("out_sharding") or ()
    spec = []
    for size, name in zip(variable.shape, (*names, *[None] * len(variable.shape)), strict=False):
        divides = name in mesh.shape and size % mesh.shape[name] == 0
        spec.append(name if divides else None)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
