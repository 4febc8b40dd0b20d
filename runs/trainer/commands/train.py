"""``tunix train``: from a manifest to a trained model, in the manifest's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from runs.runfolder.checkpoints import make_identity
from runs.spec.kinds import EVALUATE
from runs.trainer.commands.prepare import prepare
from runs.trainer.commands.result import export, make_result, result_sentences
from runs.trainer.data.inputs import (
    input_warnings,
    open_manifest,
    pin_revision,
    plan_facts,
    plan_sentences,
)
from runs.trainer.data.seen import first_seen
from runs.trainer.errors import Interrupted, ManifestProblem, StorageError
from runs.trainer.evaluation.exact_match import ExactMatch
from runs.trainer.loop.checkpoints import Checkpoints
from runs.trainer.loop.devices import make_mesh, release_freed_memory, start_devices
from runs.trainer.loop.stop import StopWatch
from runs.trainer.loop.training import Loop, TrainingRecord
from runs.trainer.modeling.loading import config_hash
from runs.trainer.objectives.objective import Prepared
from runs.trainer.reporting.metrics import MetricsFile, say, write_json

SEEN = "seen.json"


def train_from_manifest(config: Path) -> None:
    """Train. Everything is written below the manifest's folder; docs/manifest.md says what.

    Raises:
        TrainerError: what went wrong, with its exit code.
    """
    manifest, folder = open_manifest(config)
    if manifest["kind"] == EVALUATE.name:
        raise ManifestProblem(f"{config.name}: kind is evaluate; `tunix evaluate` does that")
    stop = StopWatch(folder)
    stop.install()
    start_devices()
    mesh = make_mesh(
        data_parallel=manifest["training"]["data_parallel"],
        fsdp_parallel=manifest["training"]["fsdp_parallel"],
    )
    with mesh:
        stop.check()
        prepared = prepare(manifest, folder, mesh, stop.check)
        if prepared.model.revision and jax.process_index() == 0:
            say(f"The model is {prepared.model.model_id} at revision {prepared.model.revision}.")
            pin_revision(config, prepared.model.revision)
        train(prepared, stop)


def train(prepared: Prepared, stop: StopWatch) -> None:
    """Restore or begin, evaluate, train, evaluate, write the model and ``result.json``."""
    output, folder = prepared.manifest["output"], prepared.folder
    with (
        MetricsFile(folder / output["metrics"], write=jax.process_index() == 0) as metrics,
        Checkpoints(
            folder / output["checkpoints"],
            identity=_identity(prepared),
            keep_last=prepared.training["keep_last_checkpoints"],
            keep_best=prepared.training["keep_best_checkpoints"],
        ) as checkpoints,
    ):
        loop = Loop(prepared, checkpoints=checkpoints, metrics=metrics, stop=stop)
        result = _train(prepared, loop, checkpoints, metrics, stop)
    for sentence in result_sentences(result, prepared.objective):
        say(sentence)


def _train(
    prepared: Prepared, loop: Loop, checkpoints: Checkpoints, metrics: MetricsFile, stop: StopWatch
) -> dict[str, Any]:
    resumed = _restore(prepared, loop, checkpoints)
    begun = resumed or 0
    facts = {"resumed_from_step": resumed, "extended_from_step": prepared.start or None}
    metrics.plan({**plan_facts(prepared.data, prepared.plan, prepared.total), **facts})
    for sentence in plan_sentences(prepared.data, prepared.plan, prepared.training, prepared.total):
        say(sentence)
    for sentence in input_warnings(
        prepared.tokenizer, prepared.data, positions=prepared.model.architecture.positions
    ):
        say(sentence)
    if jax.process_index() == 0:
        write_json(prepared.folder / SEEN, first_seen(prepared.data, prepared.tokenizer))
    problems = _exact_match(prepared)
    if begun == prepared.start:
        loop.evaluate(before=True)
        share, loop.record.outputs_before = _measure_exact_match(problems, loop, metrics, stop)
        if share is not None:
            loop.record.values["exact_match_before"] = share
    loop.run()
    checkpoints.finish()
    if loop.stopped_by:
        saved = (
            f"a checkpoint of step {loop.step} is saved; start the run again to continue"
            if loop.step
            else "nothing was trained yet"
        )
        raise Interrupted(
            f"stopped by {loop.stopped_by} after step {loop.step} of {prepared.total}; {saved}"
        )
    exact, outputs = _measure_exact_match(problems, loop, metrics, stop)
    result = make_result(
        prepared, loop, resumed=resumed, exact_match=exact, problems=problems, outputs=outputs
    )
    result["model"] = export(prepared, result)
    if jax.process_index() == 0:
        write_json(prepared.folder / prepared.manifest["output"]["result"], result)
    return result


def _restore(prepared: Prepared, loop: Loop, checkpoints: Checkpoints) -> int | None:
    """Resume from this folder's own newest checkpoint, else from that of ``resume_from``; return
    its step, or None where there is neither.

    An extension begins with the weights and the optimizer of the checkpoint that it extends; its
    record, except for the number of tokens, starts again.

    Raises:
        StorageError: there is no such checkpoint, or it cannot be used here.
    """
    start, folder = prepared.start, checkpoints.folder
    trainer = loop.trainer
    found = checkpoints.restore(trainer.model, trainer.optimizer, lora=trainer.lora)
    source = prepared.manifest["resume_from"]
    if found is None and source is not None:
        # resolved: libraries shorten ".." after a path through a descriptor by its text
        folder = (prepared.folder / source).resolve()
        if not folder.is_dir():
            raise StorageError(
                f"resume_from: there is no folder {folder}; name the checkpoints folder of the run"
                " to resume from"
            )
        with Checkpoints(
            folder, identity=_identity(prepared), keep_last=1, keep_best=0, read_only=True
        ) as other:
            found = other.restore(trainer.model, trainer.optimizer, lora=trainer.lora)
        if found is None:
            raise StorageError(
                f"resume_from: there is no complete checkpoint in {folder}; remove resume_from to"
                " start from scratch"
            )
    if found is None:
        if start:
            raise StorageError(
                f"extend_from_step: there is no checkpoint of step {start} to extend; name its"
                " folder as resume_from"
            )
        return None
    step, state = found
    record = TrainingRecord.from_state(state)
    if start and record.start != start:  # not the extension's own
        if step != start:
            raise StorageError(
                f"extend_from_step: the newest checkpoint in {folder} that can be read is of step"
                f" {step}, not of step {start}; extend the training from a step that is there"
            )
        record = TrainingRecord(tokens=record.tokens)
    record.start = start
    loop.record, loop.step = record, step
    say(f"Resumed from step {step}.")
    if start:
        say(
            f"Extends a training of {start:,} steps by {prepared.total - start:,}, with a learning"
            " rate schedule over these."
        )
    return step


def _identity(prepared: Prepared) -> dict[str, Any]:
    return {
        **make_identity(model_id=prepared.manifest["model"]["id"], training=prepared.training),
        "revision": prepared.model.revision,
        "model_config": config_hash(prepared.model.config),
        "dtype": str(prepared.dtype),
        "data": prepared.data.key,
    }


def _exact_match(prepared: Prepared) -> ExactMatch | None:
    count = prepared.training["exact_match_examples"]
    if count == 0 or len(prepared.data.answers) == 0:
        return None
    if jax.process_count() > 1:
        say("Exact match is left out: generation needs all weights in one process.")
        return None
    return ExactMatch(
        prepared.dataset_path,
        prepared.data.answers,
        count=count,
        tokenizer=prepared.tokenizer,
        architecture=prepared.model.architecture,
        dtype=prepared.dtype,
        max_prompt=prepared.training["max_seq_length"],
        max_tokens=prepared.training["exact_match_max_tokens"],
    )


def _measure_exact_match(
    problems: ExactMatch | None, loop: Loop, metrics: MetricsFile, stop: StopWatch
) -> tuple[float | None, list[str]]:
    if problems is None:
        return None, []
    share, outputs = problems.solve(loop.trainer.model, stop.check)
    release_freed_memory()  # of copied weights and the cache, before the next step
    step = loop.step
    metrics.values(step, loop.epoch(step), {"exact_match": share})
    say(f"step {step}/{loop.total} exact match {share:.3f} on {len(problems)} held-out problems")
    return share, outputs
