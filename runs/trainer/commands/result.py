"""The end of a training: ``model/`` and ``result.json``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jax

from runs.trainer.evaluation.exact_match import ExactMatch
from runs.trainer.loop.training import Loop, TrainingRecord
from runs.trainer.modeling import export_model
from runs.trainer.objectives.objective import Objective, Prepared

_LIBRARIES = ("google-tunix", "jax", "flax", "optax", "orbax-checkpoint", "transformers")


def make_result(
    prepared: Prepared,
    loop: Loop,
    *,
    resumed: int | None,
    exact_match: float | None,
    problems: ExactMatch | None,
    outputs: list[str],
) -> dict[str, Any]:
    """Return the content of ``result.json`` except for ``model``; null where something does not
    apply.

    ``exact_match`` and ``outputs`` are of the trained model, ``resumed`` is the step of the
    restored checkpoint.
    """
    record = loop.record
    samples = []
    if problems is not None:
        before = record.outputs_before or [""] * len(outputs)
        samples = [
            {**sample, "before": first, "after": last}
            for sample, first, last in zip(problems.samples(), before, outputs, strict=True)
        ]
    return {
        **_reported(prepared, record),
        "exact_match_before": record.values.get("exact_match_before"),
        "exact_match_after": exact_match,
        "steps": prepared.total,
        "tokens": record.tokens,
        "tokens_per_second": round(loop.timed_tokens / loop.seconds, 1) if loop.seconds else None,
        "checkpoint": f"{prepared.manifest['output']['checkpoints']}/{prepared.total}",
        "model": None,
        "model_revision": prepared.model.revision,
        "samples": samples,
        "resumed_from_step": resumed,
        "extended_from_step": prepared.start or None,
        "jax_backend": jax.default_backend(),
        "devices": jax.device_count(),
        "dtype": str(prepared.dtype),
        "versions": versions(),
    }


def _reported(prepared: Prepared, record: TrainingRecord) -> dict[str, float | None]:
    """Return the numbers that the objective reports."""
    found: dict[str, float | None] = {}
    for name in prepared.objective.reported:
        for key in (f"{name}_first", f"{name}_last", f"eval_{name}_before"):
            found[key] = record.values.get(key)
        found[f"eval_{name}_after"] = (
            record.values.get(f"eval_{name}_last") if prepared.held_out_rows else None
        )
    return found


def versions(*others: str) -> dict[str, str]:
    """Return the installed versions of the libraries that compute, and of ``others``."""
    found = {}
    for name in (*_LIBRARIES, *others):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def export(prepared: Prepared, result: dict[str, Any]) -> str:
    """Write the model folder; return its path relative to the run folder. With several processes,
    every one must call this."""
    name = str(prepared.manifest["output"]["model"])
    export_model(
        prepared.model,
        prepared.folder / name,
        lora=prepared.training["lora_rank"] is not None,
        merged=prepared.training["export_merged"],
        card={
            **{key: prepared.manifest[key] for key in ("run_id", "dataset", "model", "training")},
            "kind": prepared.objective.kind,
            "method": prepared.objective.method,
            "result": result,
        },
    )
    return name


def result_sentences(result: dict[str, Any], objective: Objective) -> list[str]:
    """Return the result as readable text."""

    def change(name: str) -> str | None:
        first, last = result[f"{name}_before"], result[f"{name}_after"]
        return (
            None
            if last is None
            else f"{first:.4g} → {last:.4g}"
            if first is not None
            else f"{last:.4g}"
        )

    added = (
        ""
        if not result["extended_from_step"]
        else f", {result['steps'] - result['extended_from_step']:,} of them added"
    )
    sentences = [f"Trained {result['steps']:,} steps{added}, {result['tokens']:,} tokens."]
    for name in objective.reported:
        first, last = result[f"{name}_first"], result[f"{name}_last"]
        if first is not None:
            sentences[0] += f" {_words(name).capitalize()} {first:.4g} → {last:.4g}."
    held_out = [(f"eval_{name}", f"Held-out {_words(name)}") for name in objective.reported]
    for name, words in (*held_out, ("exact_match", "Exact match")):
        if text := change(name):
            sentences.append(f"{words} {text}.")
    sentences.append(f"Checkpoint {result['checkpoint']}, model {result['model']}.")
    return sentences


def _words(metric: str) -> str:
    return metric.replace("_", " ")
