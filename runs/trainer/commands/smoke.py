"""One real step of a training, of which nothing is kept but the tokenised data."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from runs.trainer.commands.prepare import prepare
from runs.trainer.errors import NotANumber
from runs.trainer.loop.devices import make_mesh, memory_in_use
from runs.trainer.loop.step import make_trainer


def run_one_step(manifest: dict[str, Any], folder: Path) -> dict[str, float]:
    """Load the model and run the first step.

    Returns:
        The step's outcome (``loss``, ``grad_norm`` and what the objective counts), ``seconds`` with
        loading, and ``memory_bytes`` in use afterwards.

    Raises:
        NotANumber: the loss or the gradient is NaN or infinite.
        TrainerError: see ``prepare``.
    """
    training = manifest["training"]
    started = time.monotonic()
    mesh = make_mesh(
        data_parallel=training["data_parallel"], fsdp_parallel=training["fsdp_parallel"]
    )
    with mesh:
        prepared = prepare(manifest, folder, mesh, lambda: None)
        trainer = make_trainer(prepared, on_step=lambda outcome: None)
        batches = prepared.source.train(start=0, stop=1)
        try:
            host = next(iter(batches))
        finally:
            batches.close()
        values = {name: float(value) for name, value in trainer.first_step(host.batch).items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise NotANumber(
            f"the first step gives loss {values['loss']} and gradient norm {values['grad_norm']};"
            " use dtype float32"
        )
    return {
        **values,
        "seconds": round(time.monotonic() - started, 2),
        "memory_bytes": memory_in_use(),
    }
