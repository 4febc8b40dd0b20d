"""What the training program leaves below ``checkpoints/``, for tests that do not train.

The one place where tests make checkpoints. ``test_checkpoint_layout.py`` compares it with a real
training. Standard library only: the scripted training program uses it as well.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from runs.runfolder.checkpoints import IDENTITY, make_identity

TEMPORARY = ".orbax-checkpoint-tmp"
_ITEM = (
    "_METADATA",
    "_sharding",
    "array_metadatas/process_0",
    "commit_success.txt",
    "d/4d1b5f2e7c9a4e0e8a37c1d5b6f0a912",
    "manifest.ocdbt",
    "ocdbt.process_0/d/9f013a0f8f09451360c7d352f89eb754",
    "ocdbt.process_0/manifest.ocdbt",
)
_CHECKPOINT = (
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    *(f"model_params/{name}" for name in _ITEM),
    *(f"optimizer_state/{name}" for name in _ITEM),
)


def identity_file(*, model_id: str, training: dict[str, Any]) -> bytes:
    """``identity.json`` of a training, which is there before its first checkpoint."""
    found = {
        "revision": None,
        "model_config": "d4d250599093d380",
        "dtype": "float32",
        "data": "b8806016d086e499ad8fadf84b98e5e7",
    }
    return json.dumps(
        make_identity(model_id=model_id, training=training) | found, indent=1
    ).encode()


def checkpoint_files(step: int) -> dict[str, bytes]:
    """The files of the checkpoint of ``step``, by their path in the run folder."""
    return {f"checkpoints/{step}/{name}": b"{}" for name in _CHECKPOINT}


def leave_checkpoints(folder: Path, *steps: int, model_id: str, training: dict[str, Any]) -> None:
    """What a training in ``folder`` that saved after each of ``steps`` has left; without steps, one
    that died before it saved."""
    begin_checkpoints(folder, model_id=model_id, training=training)
    for step in steps:
        stage_checkpoint(folder, step)
        name_checkpoint(folder, step)


def begin_checkpoints(folder: Path, *, model_id: str, training: dict[str, Any]) -> None:
    """What is there before the first checkpoint."""
    checkpoints = Path(folder) / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / IDENTITY).write_bytes(identity_file(model_id=model_id, training=training))


def stage_checkpoint(folder: Path, step: int) -> None:
    """A checkpoint under its temporary name, as a training that is killed while it saves leaves
    it."""
    temporary = Path(folder) / "checkpoints" / f"{step}{TEMPORARY}"
    for name in _CHECKPOINT:
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(b"{}")


def name_checkpoint(folder: Path, step: int) -> None:
    """Give a staged checkpoint its name: it is complete from now on."""
    checkpoints = Path(folder) / "checkpoints"
    os.rename(checkpoints / f"{step}{TEMPORARY}", checkpoints / str(step))


def remove_checkpoint(folder: Path, step: int) -> None:
    """Remove a checkpoint in place and its metadata first: a kill leaves one that is not
    complete."""
    checkpoint = Path(folder) / "checkpoints" / str(step)
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (checkpoint / name).unlink()
    shutil.rmtree(checkpoint)


def read_sections(manifest: Path) -> dict[str, dict[str, Any]]:
    """The scalars of each section of a manifest, of what PyYAML writes; those outside all sections
    stand under ``""``."""
    section: dict[str, Any] = {}
    sections = {"": section}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        name, _, value = line.strip().partition(": ")
        if value:
            (section if line.startswith(" ") else sections[""])[name] = _scalar(value)
        elif line.endswith(":") and not line.startswith((" ", "-")):
            section = sections.setdefault(line[:-1], {})
    return sections


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip("'")
