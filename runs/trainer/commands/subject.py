"""The model that an evaluation is of: a preset, a folder or a hub model, with an adapter or a
checkpoint of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from runs.runfolder.checkpoints import complete_steps, read_identity
from runs.spec.families import BYTE_VOCABULARY
from runs.spec.model_folder import has_tokenizer
from runs.trainer.data.inputs import open_tokenizer
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.errors import StorageError
from runs.trainer.loop.checkpoints import Checkpoints
from runs.trainer.modeling import apply_lora, load_model
from runs.trainer.modeling.adapter import load_adapter
from runs.trainer.modeling.loading import LoadedModel, config_hash


@dataclass
class Subject:
    model: LoadedModel
    tokenizer: Tokenizer
    dtype: Any


def load_subject(
    manifest: dict[str, Any], folder: Path, *, mesh: jax.sharding.Mesh, dtype: Any
) -> Subject:
    """Load the model that the manifest names, and its tokenizer.

    Raises:
        ModelError: the model, its tokenizer or its adapter cannot be used.
        StorageError: the checkpoint is not there, or is of another model.
    """
    section = manifest["model"]
    checkpoints = None if section["checkpoints"] is None else folder / section["checkpoints"]
    identity = None if checkpoints is None else find_checkpoint(checkpoints, section["step"])
    seed = section["seed"]
    if seed is None:
        seed = (identity or {}).get("seed") or 0
    model = load_model(
        model_id=section["id"],
        path=folder / section["path"] if section["path"] else None,
        revision=section["revision"],
        dtype=dtype,
        mesh=mesh,
        seed=seed,
    )
    tokenizer = open_tokenizer(
        tokenizer_folder(model.tokenizer_path, vocabulary=model.vocab_size),
        prompt_style=manifest["evaluation"]["prompt_style"],
    )
    if checkpoints is not None and identity is not None:
        _restore(model, checkpoints, identity, step=section["step"])
    elif section["adapter"] is not None:
        load_adapter(model, folder / section["adapter"])
    return Subject(model, tokenizer, dtype)


def tokenizer_folder(folder: Path | None, *, vocabulary: int) -> Path | None:
    """Return where the tokenizer is; None: bytes. What a training of a preset has written is a
    folder without a tokenizer."""
    if folder is not None and vocabulary == BYTE_VOCABULARY and not has_tokenizer(folder):
        return None
    return folder


def find_checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """Return the identity of a checkpoint. Raise StorageError: it is not there."""
    identity = read_identity(folder)
    steps = complete_steps(folder)
    if identity is None or not steps:
        raise StorageError(f"there are no checkpoints of a training in {folder}")
    if step not in steps:
        raise StorageError(
            f"there is no checkpoint of step {step} in {folder}; there are those of"
            f" {', '.join(map(str, steps))}"
        )
    return identity


def check_shape(identity: dict[str, Any], config: dict[str, Any], *, model_id: str) -> None:
    """Raise StorageError if the checkpoint is of a model of another shape."""
    if identity.get("model_config") != config_hash(config):
        raise StorageError(
            f"the checkpoints are of {identity.get('model')}, which is of another shape than"
            f" {model_id}; name the model that was trained"
        )


def _restore(model: LoadedModel, folder: Path, identity: dict[str, Any], *, step: int) -> None:
    check_shape(identity, model.config, model_id=model.model_id)
    lora = identity.get("lora_rank") is not None
    if lora:
        apply_lora(
            model,
            rank=identity["lora_rank"],
            alpha=identity["lora_alpha"],
            targets=identity["lora_targets"],
            seed=0,
        )
    with Checkpoints(
        folder.resolve(), identity=identity, keep_last=1, keep_best=0, read_only=True
    ) as checkpoints:
        checkpoints.restore_weights(model.module, step, lora=lora)
