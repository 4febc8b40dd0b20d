"""What is known of a model before it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.spec.architectures import (
    Architecture,
    UnsupportedModel,
    read_architecture,
    remarks,
)
from runs.spec.families import PRESETS, preset_names
from runs.spec.model_folder import FolderProblem, ModelFolder, read_config
from runs.trainer.errors import ModelError
from runs.trainer.modeling.model_files import open_model


@dataclass(frozen=True)
class FoundModel:
    """``tokenizer``: its folder (None: bytes), ``files``: its weights, if here."""

    config: dict[str, Any]
    architecture: Architecture
    tokenizer: Path | None
    files: ModelFolder | None
    warnings: list[str]


def find_model(section: dict[str, Any], folder: Path) -> FoundModel:
    """Find the model without fetching weights. Raise ModelError."""
    name: str = section["id"]
    if section["path"] is None and name.startswith("preset:"):
        if name.removeprefix("preset:") not in PRESETS:
            raise ModelError(
                f"there is no preset {name.removeprefix('preset:')!r}; presets:"
                f" {', '.join(preset_names())}"
            )
        config = dict(PRESETS[name.removeprefix("preset:")])
        return FoundModel(config, read_architecture(config), None, None, [])
    if section["path"] is not None:
        path = folder / section["path"]
        files = open_model(name, path)
        return FoundModel(files.config, files.architecture, path, files, list(files.warnings))
    from runs.trainer.modeling.hub import fetch  # noqa: PLC0415 - half a second that only hub ids need

    path, commit = fetch(name, section["revision"], weights=False)
    try:
        config = read_config(path)
        architecture = read_architecture(config)
    except (FolderProblem, UnsupportedModel) as error:
        raise ModelError(f"the model {name} cannot be loaded: {error}") from error
    note = f"Of {name} only configuration and tokenizer were looked at (revision {commit})."
    return FoundModel(config, architecture, path, None, [note, *remarks(config)])


def length_classes(fine: Iterable[Iterable[int]], *, longest: int) -> list[list[int]]:
    """Return ``[from, up to, number]`` in at most a dozen classes of equal width.

    Args:
        fine: ``(length, number)``, lengths rounded down to a multiple of 16 or not at all.
        longest: more than any length.
    """
    width = 16 * max(1, math.ceil(longest / 16 / 12))
    classes: dict[int, int] = {}
    for start, count in fine:
        classes[start // width * width] = classes.get(start // width * width, 0) + count
    return [[start, start + width - 1, classes.get(start, 0)] for start in range(0, longest, width)]
