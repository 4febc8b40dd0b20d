"""The folder of checkpoints of a run, as the training program writes it and the server reads it.

The standard library alone: server and training program decide with the same functions which
checkpoints can be resumed from::

    checkpoints/
      identity.json        the training that they belong to
      500/                 one checkpoint, named by its step
        _CHECKPOINT_METADATA
        model_params/_METADATA, …
        optimizer_state/_METADATA, …
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runs.runfolder import files

IDENTITY = "identity.json"
# What orbax reads first of a checkpoint and of each of its two items: without one of them nothing
# can be restored.
REQUIRED = ("_CHECKPOINT_METADATA", "model_params/_METADATA", "optimizer_state/_METADATA")

# Parameters that decide what a step computes on: a checkpoint is of use only where they are equal.
BINDING = (
    "lora_rank",
    "lora_alpha",
    "lora_targets",
    "seed",
    "batch_size",
    "gradient_accumulation_steps",
    "max_seq_length",
    "packing",
    "too_long",
    "prompt_style",
)
# What these were before there were such parameters. Written here once more, because this module is
# the standard library alone; a test compares it with runs.spec.kinds.
BEFORE = {"prompt_style": "conversation"}


def complete_steps(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints in ``folder``, ascending; empty if the folder is
    missing.

    A checkpoint is written under a temporary name and renamed when it is complete. One that has
    lost a file without which it cannot be restored is not complete, and a link in place of one does
    not count.

    Raises:
        OSError: the folder is there and cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(int(entry.name) for entry in entries if _is_complete(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_complete(entry: os.DirEntry[str]) -> bool:
    is_step = entry.name.isascii() and entry.name.isdecimal() and str(int(entry.name)) == entry.name
    return (
        is_step
        and entry.is_dir(follow_symlinks=False)
        and all(os.path.isfile(f"{entry.path}/{name}") for name in REQUIRED)
    )


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Return the training that the checkpoints in ``folder`` belong to; None if it cannot be
    read."""
    try:
        return files.read_json(folder / IDENTITY)
    except (OSError, files.BrokenFile):
        return None


def make_identity(*, model_id: str, training: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that a request decides; the training program adds what it
    finds when it loads model and data."""
    return {"model": model_id, **{name: training[name] for name in BINDING}}


def first_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Return the first name in ``wanted`` whose value in ``found`` differs; None if checkpoints of
    ``found`` can be used.

    A parameter that did not exist yet when the checkpoints were written is treated as having its
    default.
    """
    known = BEFORE | found
    return next((name for name, value in wanted.items() if known.get(name) != value), None)
