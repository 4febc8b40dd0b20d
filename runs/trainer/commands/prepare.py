"""From a manifest to everything a step needs: the model, and the inputs made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runs.trainer.data.batches import BatchBuilder, HostBatch
from runs.trainer.data.dataset import examples_at
from runs.trainer.data.inputs import plan_data, tokenise
from runs.trainer.data.plan import DataPlan, StepRows
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.data.tokens import TokenisedData
from runs.trainer.loop.devices import choose_dtype
from runs.trainer.modeling import LoadedModel, apply_lora, load_model
from runs.trainer.reporting.metrics import say


@dataclass
class Prepared:
    """What a training is made of. ``folder`` is the manifest's; paths in the manifest are relative
    to it."""

    manifest: dict[str, Any]
    folder: Path
    dtype: Any
    model: LoadedModel
    tokenizer: Tokenizer
    data: TokenisedData
    plan: DataPlan
    total: int
    builder: BatchBuilder
    held_out_rows: list[StepRows]

    @property
    def training(self) -> dict[str, Any]:
        return self.manifest["training"]

    @property
    def start(self) -> int:
        """The step at which the schedule begins: 0, or for an extension that of the checkpoint it
        extends."""
        return self.manifest["extend_from_step"] or 0

    @property
    def dataset_path(self) -> Path:
        return self.folder / self.manifest["dataset"]["path"]

    def held_out(self) -> Iterator[HostBatch]:
        """The held-out part, in a fixed order."""
        for rows in self.held_out_rows:
            yield self.builder.build(
                0, rows, micro_batches=1, rows_per_batch=self.plan.rows_per_batch
            )

    def example_names(self, pieces: np.ndarray) -> list[str]:
        """The ids of the examples that these pieces are of."""
        offsets = list(dict.fromkeys(int(offset) for offset in self.data.pieces["offset"][pieces]))
        return [example.id for example in examples_at(self.dataset_path, offsets)]


def prepare(
    manifest: dict[str, Any], folder: Path, mesh: jax.sharding.Mesh, check_stop: Callable[[], None]
) -> Prepared:
    """Load the model and tokenise the dataset, both at once where the tokenizer's folder is known
    beforehand.

    Raises:
        DataError, ModelError, MemoryProblem, StorageError: what is wrong with them.
    """
    section, training = manifest["model"], manifest["training"]
    dtype = choose_dtype(training["dtype"])
    path = folder / section["path"] if section["path"] else None
    with ThreadPoolExecutor(1, "tokenise") as pool:
        early: Future[tuple[Tokenizer, TokenisedData]] | None = None
        if path is not None or section["id"].startswith("preset:"):
            early = pool.submit(tokenise, manifest, folder, path, check_stop)
        model = load_model(
            model_id=section["id"],
            path=path,
            revision=section["revision"],
            dtype=dtype,
            mesh=mesh,
            seed=training["seed"],
            gradient_checkpointing=training["gradient_checkpointing"],
        )
        tokenizer, data = (
            early.result()
            if early
            else tokenise(manifest, folder, model.tokenizer_path, check_stop)
        )
    data.check_vocabulary(model.vocab_size)
    if model.revision:
        section["revision"] = model.revision
    for warning in model.warnings:
        say(warning)
    if training["lora_rank"] is not None:
        apply_lora(
            model,
            rank=training["lora_rank"],
            alpha=training["lora_alpha"],
            targets=training["lora_targets"],
            seed=training["seed"],
        )
    plan, rows, total = plan_data(data, training, extend_from=manifest["extend_from_step"])
    builder = BatchBuilder(
        data, shards=mesh.size, process=jax.process_index(), processes=jax.process_count()
    )
    return Prepared(manifest, folder, dtype, model, tokenizer, data, plan, total, builder, rows)
