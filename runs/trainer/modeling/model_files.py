"""The files of a model folder: what a training and its validation both ask of them. Nothing here
imports JAX.

``open_model`` judges headers and what follows from them, ``read_weights`` gives one tensor after a
look at its numbers, ``check_weights`` looks at all of them. ``tunix validate`` calls the first and
the last, loading the first two, so that the one refuses what the other would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from runs.spec.model_folder import (
    EMBEDDING,
    HEAD,
    FolderProblem,
    ModelFolder,
    TensorEntry,
    open_model_folder,
)
from runs.trainer.errors import ModelError

NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# all ones in infinity and NaN; four times as fast as asking each number
_EXPONENT = {
    "F16": 0x7C00,
    "BF16": 0x7F80,
}
_PIECE = 2**20  # numbers looked at together


def open_model(model_id: str, path: Path) -> ModelFolder:
    """Return what the headers of a model folder say. Raise ModelError: why it cannot be loaded, in
    one sentence."""
    try:
        folder = open_model_folder(path)
    except FolderProblem as error:
        raise ModelError(f"the model {model_id} cannot be loaded: {error}") from error
    if folder.architecture.tied and HEAD in folder.entries:
        head, embedding = read_array(folder.entries[HEAD]), read_array(folder.entries[EMBEDDING])
        if not _same(head, embedding):
            raise ModelError(
                f"the model {model_id} cannot be loaded: config.json ties the output head to the"
                f" embeddings, but {HEAD} differs from them; set tie_word_embeddings to false if"
                " the head is meant to be its own"
            )
    return folder


def read_array(entry: TensorEntry) -> np.ndarray:
    """Return one tensor as a memory-mapped array: nothing is read before it is used. Raise
    ModelError when the file is gone."""
    count = entry.end - entry.start
    try:
        data = (
            np.memmap(entry.file, mode="r", offset=entry.start, shape=(count,), dtype=np.uint8)
            if count
            else np.empty(0, np.uint8)
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"the weights in {entry.file.name} cannot be read: {error}") from error
    return data.view(NUMPY[entry.dtype]).reshape(entry.shape)


def read_weights(name: str, entry: TensorEntry) -> np.ndarray:
    """Return ``read_array`` of a tensor. Raise ModelError if it holds anything but numbers of
    float32."""
    array = read_array(entry)
    wrong = sum(_not_finite(entry, piece) for piece in _pieces(array))
    if wrong:
        raise ModelError(
            f"the tensor {name} in {entry.file.name} has {wrong:,} of {array.size:,} weights that"
            " are NaN, infinite or too large for float32; the model cannot compute with them: use"
            " an undamaged copy of it"
        )
    return array


def check_weights(folder: ModelFolder) -> None:
    """Read all weights once, as loading would. Raise ModelError, see ``read_weights``."""
    for name, entry in folder.entries.items():
        read_weights(name, entry)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]


def _not_finite(entry: TensorEntry, piece: np.ndarray) -> int:
    if entry.dtype in _EXPONENT:
        exponent = _EXPONENT[entry.dtype]
        return int(np.count_nonzero((piece.view(np.uint16) & exponent) == exponent))
    with np.errstate(over="ignore", invalid="ignore"):
        return piece.size - int(np.count_nonzero(np.isfinite(piece.astype(np.float32, copy=False))))


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    # their shapes are equal, or the folder had been refused
    pairs = zip(_pieces(first), _pieces(second), strict=True)
    return all(
        np.array_equal(a.astype(np.float32), b.astype(np.float32), equal_nan=True) for a, b in pairs
    )
