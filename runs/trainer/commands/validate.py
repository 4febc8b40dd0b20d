"""``tunix validate``: what a training would do, without doing it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.spec.architectures import (
    Architecture,
    UnsupportedModel,
    count_parameters,
    read_architecture,
    remarks,
)
from runs.spec.families import PRESETS, preset_names
from runs.spec.manifest import training_warnings
from runs.spec.model_folder import FolderProblem, ModelFolder, read_config
from runs.trainer.data.inputs import (
    input_warnings,
    last_step,
    open_manifest,
    plan_facts,
    plan_sentences,
)
from runs.trainer.data.plan import DataPlan, plan_rows
from runs.trainer.data.tokens import TokenisedData
from runs.trainer.errors import ModelError
from runs.trainer.loop.memory import memory_estimate
from runs.trainer.loop.stop import StopWatch
from runs.trainer.modeling.model_files import check_weights, open_model
from runs.trainer.objectives import objective_for

GIB = 2**30


def validate_manifest(config: Path, *, smoke: bool) -> dict[str, Any]:
    """Check manifest, data and model, its weights too where they are here; with ``smoke`` load the
    model and run one real step, of which nothing is kept.

    Obeys ``stop.json`` between its parts, up to the last.

    Raises:
        TrainerError: why this training could not run. Interrupted: the check was asked to stop.
    """
    manifest, folder = open_manifest(config)

    def check_stop() -> None:
        StopWatch(folder).check("before the check was finished")

    check_stop()
    training, objective = manifest["training"], objective_for(manifest)
    model = _find_model(manifest["model"], folder)
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


@dataclass(frozen=True)
class _Model:
    """What is known of a model before it is loaded; ``tokenizer``: its folder (None: bytes),
    ``files``: its weights, if here."""

    config: dict[str, Any]
    architecture: Architecture
    tokenizer: Path | None
    files: ModelFolder | None
    warnings: list[str]


def _find_model(section: dict[str, Any], folder: Path) -> _Model:
    """Never fetches weights. Raises ModelError."""
    name: str = section["id"]
    if section["path"] is None and name.startswith("preset:"):
        if name.removeprefix("preset:") not in PRESETS:
            raise ModelError(
                f"there is no preset {name.removeprefix('preset:')!r}; presets:"
                f" {', '.join(preset_names())}"
            )
        config = dict(PRESETS[name.removeprefix("preset:")])
        return _Model(config, read_architecture(config), None, None, [])
    if section["path"] is not None:
        path = folder / section["path"]
        files = open_model(name, path)
        return _Model(files.config, files.architecture, path, files, list(files.warnings))
    from runs.trainer.modeling.hub import fetch  # noqa: PLC0415 - half a second that only hub ids need

    path, commit = fetch(name, section["revision"], weights=False)
    try:
        config = read_config(path)
        architecture = read_architecture(config)
    except (FolderProblem, UnsupportedModel) as error:
        raise ModelError(f"the model {name} cannot be loaded: {error}") from error
    note = f"Of {name} only configuration and tokenizer were looked at (revision {commit})."
    return _Model(config, architecture, path, None, [note, *remarks(config)])


def _histogram(data: TokenisedData) -> list[list[int]]:
    """``[from, up to, examples]`` in at most a dozen classes of equal width over all examples of
    the dataset."""
    fine = data.counts["length_histogram"]
    longest = fine[-1][0] + 16
    width = 16 * max(1, math.ceil(longest / 16 / 12))
    classes: dict[int, int] = {}
    for start, count in fine:
        classes[start // width * width] = classes.get(start // width * width, 0) + count
    return [[start, start + width - 1, classes.get(start, 0)] for start in range(0, longest, width)]


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
