"""``tunix validate``: what a training or an evaluation would do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs.spec.architectures import Architecture, count_parameters
from runs.spec.kinds import EVALUATE
from runs.spec.manifest import training_warnings
from runs.trainer.commands.found_model import find_model, length_classes
from runs.trainer.data.inputs import (
    input_warnings,
    last_step,
    open_manifest,
    plan_facts,
    plan_sentences,
)
from runs.trainer.data.plan import DataPlan, plan_rows
from runs.trainer.data.tokens import TokenisedData
from runs.trainer.loop.memory import memory_estimate
from runs.trainer.loop.stop import StopWatch
from runs.trainer.modeling.model_files import check_weights
from runs.trainer.objectives import objective_for

GIB = 2**30


def validate_manifest(config: Path, *, smoke: bool) -> dict[str, Any]:
    """Check manifest, data and model, its weights too where they are here; with ``smoke`` load the
    model and run one real step, of which nothing is kept.

    Obey ``stop.json`` between its parts, up to the last.

    Raises:
        TrainerError: why this run could not be done. Interrupted: the check was asked to stop.
    """
    manifest, folder = open_manifest(config)
    if manifest["kind"] == EVALUATE.name:
        from runs.trainer.commands.validate_evaluation import (  # noqa: PLC0415 - loads JAX
            validate_evaluation,
        )

        return validate_evaluation(manifest, folder, smoke=smoke)

    def check_stop() -> None:
        StopWatch(folder).check("before the check was finished")

    check_stop()
    training, objective = manifest["training"], objective_for(manifest)
    model = find_model(manifest["model"], folder)
    architecture, warnings = model.architecture, model.warnings + training_warnings(training)
    total, trainable = count_parameters(
        model.config, lora_rank=training["lora_rank"], lora_targets=training["lora_targets"]
    )
    tokenizer, data = objective.tokenise(manifest, folder, model.tokenizer, check_stop)
    data.check_vocabulary(architecture.vocab)
    check_stop()
    plan, _ = objective.plan(data)
    steps = last_step(manifest, plan)
    report: dict[str, Any] = {
        **plan_facts(data, plan, steps),
        "num_epochs": round(steps / plan.steps_per_epoch, 4),
        "length_histogram": _histogram(data),
        "padding_waste_packed": _waste(data, training, packing=True),
        "padding_waste_unpacked": _waste(data, training, packing=False),
        "parameters": total,
        "trainable_parameters": trainable,
        **_memory(architecture, training, plan, total=total, trainable=trainable),
        "warnings": [*warnings, *input_warnings(tokenizer, data, positions=architecture.positions)],
        "smoke": None,
    }
    report["sentences"] = plan_sentences(data, plan, training, steps)
    if report["memory"]["total"] > report["memory_there"]:
        report["warnings"].append(
            f"The training needs about {report['memory']['total'] / GIB:.1f} GiB of memory on each"
            f" device, and there are {report['memory_there'] / GIB:.1f} GiB: lower batch_size or"
            " max_seq_length, use LoRA or gradient_checkpointing."
        )
    check_stop()
    if smoke:
        from runs.trainer.commands.smoke import run_one_step  # noqa: PLC0415 - loads google-tunix, which only a real step needs

        report["smoke"] = run_one_step(manifest, folder)
    elif model.files is not None:
        check_weights(model.files)
    check_stop()
    return report


def _histogram(data: TokenisedData) -> list[list[int]]:
    """Return the lengths of all examples of the dataset in classes."""
    fine = data.counts["length_histogram"]
    return length_classes(fine, longest=fine[-1][0] + 16)


def _waste(data: TokenisedData, training: dict[str, Any], *, packing: bool) -> float:
    return round(plan_rows(data, training, packing=packing)[0].padding_waste(), 4)


def _memory(
    architecture: Architecture,
    training: dict[str, Any],
    plan: DataPlan,
    *,
    total: int,
    trainable: int,
) -> dict[str, Any]:
    # Everything before needs no JAX, so that a bad manifest or dataset is told at once.
    import jax  # noqa: PLC0415

    from runs.trainer.loop.devices import (  # noqa: PLC0415
        choose_dtype,
        make_mesh,
        memory_there,
        start_devices,
    )

    start_devices()
    mesh = make_mesh(
        data_parallel=training["data_parallel"], fsdp_parallel=training["fsdp_parallel"]
    )
    dtype = choose_dtype(training["dtype"])
    estimate = memory_estimate(
        architecture,
        training,
        total=total,
        trainable=trainable,
        rows=plan.rows_per_batch,
        length=plan.row_lengths[-1],
        itemsize=dtype.itemsize,
        shards=mesh.shape["fsdp"],
        replicas=mesh.shape["data"],
        on_cpu=jax.default_backend() == "cpu",
    )
    return {
        "dtype": str(dtype),
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "memory": estimate,
        "memory_there": memory_there(),
    }


def print_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    if report.get("kind") == EVALUATE.name:
        for sentence in report["sentences"]:
            print(sentence)
        for warning in report["warnings"]:
            print(f"Warning: {warning}")
        return
    for sentence in report["sentences"]:
        print(sentence)
    print("Lengths in tokens:")
    for start, end, count in report["length_histogram"]:
        print(f"  {start:>6}–{end:<6} {count:>9,}")
    print(
        f"Padding: {report['padding_waste_packed']:.1%} with packing,"
        f" {report['padding_waste_unpacked']:.1%} without."
    )
    share = report["trainable_parameters"] / report["parameters"]
    print(
        f"Parameters: {report['parameters']:,}, of which {report['trainable_parameters']:,} are"
        f" trained ({share:.1%})."
    )
    parts = ", ".join(
        f"{name} {size / GIB:.2f}" for name, size in report["memory"].items() if name != "total"
    )
    print(
        f"Memory: about {report['memory']['total'] / GIB:.1f} GiB on each of {report['devices']}"
        f" {report['backend']} device(s) ({parts}); there are {report['memory_there'] / GIB:.1f}"
        " GiB."
    )
    for warning in report["warnings"]:
        print(f"Warning: {warning}")
    if smoke := report["smoke"]:
        print(
            f"One step: loss {smoke['loss']:.4g}, gradient norm {smoke['grad_norm']:.4g},"
            f" {smoke['seconds']:.1f} s with loading."
        )
