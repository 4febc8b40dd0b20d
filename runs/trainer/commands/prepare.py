"""From a manifest to everything a step needs: the model, and the inputs made for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from runs.trainer.data.inputs import last_step
from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.data.tokens import TokenisedData
from runs.trainer.loop.devices import choose_dtype
from runs.trainer.modeling import apply_lora, load_model
from runs.trainer.objectives import objective_for
from runs.trainer.objectives.objective import Prepared
from runs.trainer.reporting.metrics import say


def prepare(
    manifest: dict[str, Any], folder: Path, mesh: jax.sharding.Mesh, check_stop: Callable[[], None]
) -> Prepared:
    """Load the model and tokenise the dataset, both at once where the tokenizer's folder is known
    beforehand.

    Raises:
        ManifestProblem: there is no such kind of training.
        DataError, ModelError, MemoryProblem, StorageError: what is wrong with data or model.
    """
    section, training = manifest["model"], manifest["training"]
    objective = objective_for(manifest)
    dtype = choose_dtype(training["dtype"])
    path = folder / section["path"] if section["path"] else None
    with ThreadPoolExecutor(1, "tokenise") as pool:
        early: Future[tuple[Tokenizer, TokenisedData]] | None = None
        if path is not None or section["id"].startswith("preset:"):
            early = pool.submit(objective.tokenise, manifest, folder, path, check_stop)
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
            else objective.tokenise(manifest, folder, model.tokenizer_path, check_stop)
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
    plan, held_out_rows = objective.plan(data)
    prepared = Prepared(
        manifest=manifest,
        folder=folder,
        objective=objective,
        mesh=mesh,
        dtype=dtype,
        model=model,
        tokenizer=tokenizer,
        data=data,
        plan=plan,
        held_out_rows=held_out_rows,
        total=last_step(manifest, plan),
    )
    prepared.source = objective.batch_source(prepared)
    return prepared
