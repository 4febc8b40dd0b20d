"""A PEFT adapter put beside the projections of a loaded model: the opposite of what export.py
writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from runs.spec.architectures import Tensor, tensors
from runs.trainer.errors import ModelError
from runs.trainer.modeling.loading import LoadedModel
from runs.trainer.modeling.lora import apply_lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of PEFT's settings, those that change what an adapter computes, and the values that we know.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
}


def load_adapter(loaded: LoadedModel, folder: Path) -> None:
    """Apply the adapter in ``folder`` to the model, in place.

    Raises:
        ModelError: it cannot be read, is of a kind that is not known, or does not fit the model.
    """
    config = read_adapter_config(folder)
    try:
        matrices = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the adapter's {WEIGHTS} cannot be read: {error}") from error
    known = {_bare(tensor): tensor for tensor in tensors(loaded.architecture) if tensor.projection}
    found: list[tuple[Tensor, str, np.ndarray]] = []
    for name, matrix in matrices.items():
        bare, letter = _split(name)
        tensor = known.get(bare)
        if tensor is None or letter is None:
            raise ModelError(f"the adapter does not fit {loaded.model_id}: it has {name}")
        found.append((tensor, letter, matrix))
    if not found:
        raise ModelError(f"the adapter's {WEIGHTS} is empty")
    rank = config["r"]
    for tensor, letter, matrix in found:
        out, width = tensor.shape
        expected = (rank, width) if letter == "a" else (out, rank)
        if matrix.shape != expected:
            raise ModelError(
                f"the adapter does not fit {loaded.model_id}: {_bare(tensor)} has a matrix of"
                f" {' × '.join(map(str, matrix.shape))}, not {' × '.join(map(str, expected))}"
            )
    targets = sorted({str(tensor.projection) for tensor, _, _ in found})
    apply_lora(loaded, rank=rank, alpha=float(config["lora_alpha"]), targets=targets, seed=0)
    for tensor, letter, matrix in found:
        variable = getattr(_owner(loaded.module, tensor), f"{tensor.projection}_lora_{letter}")
        variable.value = jax.device_put(
            np.ascontiguousarray(matrix.astype(np.float32).T), variable.value.sharding
        )


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the settings of the adapter in ``folder``. Raise ModelError: they are not those of an
    adapter that can be loaded."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"the adapter's {CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"the adapter's {CONFIG} is no JSON object")
    for name, values in _PLAIN.items():
        if name in config and config[name] not in values:
            raise ModelError(f"an adapter with {name} {config[name]!r} cannot be loaded")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ModelError(f"r in the adapter's {CONFIG} is {rank!r}, not a number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise ModelError(f"lora_alpha in the adapter's {CONFIG} is {alpha!r}, not a number")
    return config


def _split(name: str) -> tuple[str, str | None]:
    """Return the projection that a matrix belongs to, and ``a`` or ``b``."""
    bare = name.removeprefix("base_model.model.").replace("model.language_model.", "model.", 1)
    for letter in ("a", "b"):
        end = f".lora_{letter.upper()}.weight"
        if bare.endswith(end):
            return bare.removesuffix(end), letter
    return bare, None


def _bare(tensor: Tensor) -> str:
    return tensor.name.removesuffix(".weight")


def _owner(module: Any, tensor: Tensor) -> Any:
    for step in tensor.path[:-1]:
        module = module[step] if isinstance(step, int) else getattr(module, step)
    return module
