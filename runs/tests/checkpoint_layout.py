"""What the training program leaves below ``checkpoints/``, for tests that do not train.

The one place where tests make checkpoints. ``test_checkpoint_layout.py`` compares it with a real training. Standard library only:
the scripted training program uses it as well.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runs.checkpoint_folder import IDENTITY, make_identity

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
    found = {"revision": None, "model_config": "d4d250599093d380", "dtype": "float32", "data": "b8806016d086e499ad8fadf84b98e5e7"}
    return json.dumps(make_identity(model_id=model_id, training=training) | found, indent=1).encode()


def checkpoint_files(step: int) -> dict[str, bytes]:
    """The files of the checkpoint of ``step``, by their path in the run folder."""
    return {f"checkpoints/{step}/{name}": b"{}" for name in _CHECKPOINT}


def leave_checkpoints(folder: Path, *steps: int, model_id: str, training: dict[str, Any]) -> None:
    """What a training in ``folder`` that saved after each of ``steps`` has left; without steps, one that died before it saved."""
    checkpoints = Path(folder) / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / IDENTITY).write_bytes(identity_file(model_id=model_id, training=training))
    for step in steps:
        temporary = checkpoints / f"{step}.orbax-checkpoint-tmp-1"
        for name in _CHECKPOINT:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(b"{}")
        os.rename(temporary, checkpoints / str(step))
