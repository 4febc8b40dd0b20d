"""The end of a training: ``model/`` and ``result.json``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jax

from runs.trainer.commands.prepare import Prepared
from runs.trainer.evaluation.exact_match import ExactMatch
from runs.trainer.loop.training import Loop
from runs.trainer.modeling import export_model

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
    """The content of ``result.json`` but for ``model``; null where something does not apply."""
    tally = loop.tally
    samples = []
    if problems is not None:
        before = tally.outputs_before or [""] * len(outputs)
        samples = [
            {**sample, "before": first, "after": last}
            for sample, first, last in zip(problems.samples(), before, outputs, strict=True)
        ]
    return {
        "loss_first": tally.loss_first,
        "loss_last": tally.loss_last,
        "eval_loss_before": tally.eval_loss_before,
        "eval_loss_after": tally.eval_loss_last if prepared.held_out_rows else None,
        "exact_match_before": tally.exact_match_before,
        "exact_match_after": exact_match,
        "steps": prepared.total,
        "tokens": tally.tokens,
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
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def export(prepared: Prepared, result: dict[str, Any]) -> str:
    """Write the model folder; its path relative to the run folder. With several processes every one
    must call this."""
    name = str(prepared.manifest["output"]["model"])
    export_model(
        prepared.model,
        prepared.folder / name,
        lora=prepared.training["lora_rank"] is not None,
        merged=prepared.training["export_merged"],
        card={
            **{key: prepared.manifest[key] for key in ("run_id", "dataset", "model", "training")},
            "result": result,
        },
    )
    return name


def result_sentences(result: dict[str, Any]) -> list[str]:
    """The result for people."""

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
    if result["loss_first"] is not None:
        sentences[0] += f" Loss {result['loss_first']:.4g} → {result['loss_last']:.4g}."
    for name, words in (("eval_loss", "Held-out loss"), ("exact_match", "Exact match")):
        if text := change(name):
            sentences.append(f"{words} {text}.")
    sentences.append(f"Checkpoint {result['checkpoint']}, model {result['model']}.")
    return sentences
