"""Tensors between safetensors files and the parameters of a module, in both directions."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from runs.spec.architectures import Architecture, Tensor
from runs.spec.model_folder import INDEX
from runs.trainer.modeling.model_files import NUMPY

_NAMES = {np.dtype(kind): name for name, kind in NUMPY.items()}

# Files above this size are split, as transformers does.
SHARD_BYTES = 5_000_000_000

Names = Mapping[str, tuple[np.dtype, tuple[int, ...]]]  # dtype and shape of each tensor


def to_parameter(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Return a checkpoint's array in the layout of the module (a view)."""
    return array.reshape(tensor.expanded).transpose(tensor.axes)


def to_checkpoint(tensor: Tensor, parameter: np.ndarray) -> np.ndarray:
    """Return the tensor's slice of a parameter in the checkpoint's layout, the reverse of
    ``to_parameter``."""
    part = parameter if tensor.index is None else parameter[tensor.index]
    return part.transpose(np.argsort(tensor.axes)).reshape(tensor.shape)


def by_parameter(table: Iterable[Tensor]) -> dict[Any, list[Tensor]]:
    """Return the tensors that make up each parameter, slices in order."""
    parameters: dict[Any, list[Tensor]] = {}
    for tensor in table:
        parameters.setdefault(tensor.path, []).append(tensor)
    return parameters


def random_array(tensor: Tensor, architecture: Architecture, seed: int) -> np.ndarray:
    """Return fresh float32 weights in the checkpoint's layout; they depend on the seed and the
    tensor's name only.

    Norms are ones (Gemma's, which add one, zeros), biases zero, embeddings narrow so that the first
    loss is that of a guess; a matrix has the variance of its fan-in, those that end a residual
    branch less, by the number of branches.
    """
    if len(tensor.shape) == 1:
        ones = "norm" in tensor.name and not architecture.is_gemma
        return np.full(tensor.shape, 1.0 if ones else 0.0, np.float32)
    generator = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    scale = 0.02 if tensor.projection is None else tensor.shape[1] ** -0.5
    if tensor.projection in ("o_proj", "down_proj"):
        scale *= (2 * architecture.layers) ** -0.5
    return generator.standard_normal(tensor.shape, dtype=np.float32) * np.float32(scale)


def place(array: np.ndarray, dtype: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """Return the array on its devices in ``dtype``; with a sharding each device receives only its
    part."""
    if sharding is None:
        return jax.device_put(np.ascontiguousarray(array, dtype=dtype))
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: np.ascontiguousarray(array[index], dtype=dtype)
    )


def write_safetensors(folder: Path, names: Names, arrays: Iterator[np.ndarray]) -> None:
    """Write ``model.safetensors``, or shards with an index beyond SHARD_BYTES, one tensor in memory
    at a time.

    ``names`` gives dtype and shape of each tensor, ``arrays`` their contents in the same order.
    """
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, (dtype, shape) in names.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if filled and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    files: dict[str, str] = {}
    for number, members in enumerate(shards, start=1):
        file = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        with (folder / file).open("wb") as stream:
            write_one(stream, {name: names[name] for name in members}, arrays)
        files |= dict.fromkeys(members, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        (folder / INDEX).write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


def write_one(stream: BinaryIO, names: Names, arrays: Iterator[np.ndarray]) -> None:
    """Write one safetensors file (https://huggingface.co/docs/safetensors), flushed to the disk:
    header length, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in names.items():
        end = position + int(np.prod(shape)) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name, (dtype, shape) in names.items():
        array = next(arrays)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name}: {array.dtype}{array.shape} instead of {dtype}{shape}")
        stream.write(np.ascontiguousarray(array).view(np.uint8).data)
    stream.flush()
    os.fsync(stream.fileno())
