"""The hash of a model's weights: which weights made an output."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from runs.spec.architectures import Tensor, tensors
from runs.trainer.modeling.loading import LoadedModel
from runs.trainer.modeling.weights import to_checkpoint


def weights_sha256(loaded: LoadedModel) -> str:
    """Return the SHA-256 of all weights as they are in memory: name, type, shape and bytes of each
    tensor, in the order and layout of a checkpoint.

    LoRA matrices are hashed beside the weights that they are added to, because a sum differs in its
    last bits from machine to machine.
    """
    digest = hashlib.sha256()
    last: tuple[Any, np.ndarray | None] = (None, None)
    for tensor in tensors(loaded.architecture):
        owner = _owner(loaded.module, tensor)
        if last[0] != tensor.path:
            last = tensor.path, np.asarray(getattr(owner, str(tensor.path[-1])).value)
        assert last[1] is not None
        _add(digest, tensor.name, to_checkpoint(tensor, last[1]))
        a = getattr(owner, f"{tensor.projection}_lora_a", None)
        if a is not None:
            b = getattr(owner, f"{tensor.projection}_lora_b")
            _add(digest, f"{tensor.name} lora_a {loaded.lora.scale!r}", jax.device_get(a.value))
            _add(digest, f"{tensor.name} lora_b", jax.device_get(b.value))
    return digest.hexdigest()


def _add(digest: Any, name: str, array: np.ndarray) -> None:
    digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _owner(module: Any, tensor: Tensor) -> Any:
    for step in tensor.path[:-1]:
        module = module[step] if isinstance(step, int) else getattr(module, step)
    return module
