"""``tunix validate`` for an evaluation: what it would do, and with ``--smoke`` how long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runs.spec.architectures import Architecture, count_parameters
from runs.spec.evaluation import GENERATE
from runs.spec.scorers import choose
from runs.trainer.commands.evaluate import (
    check_references,
    check_source,
    missing_outputs,
    read_set,
)
from runs.trainer.commands.found_model import FoundModel, find_model, length_classes
from runs.trainer.commands.likelihood import Likelihood
from runs.trainer.commands.subject import (
    check_shape,
    find_checkpoint,
    load_subject,
    tokenizer_folder,
)
from runs.trainer.data.inputs import open_tokenizer
from runs.trainer.evaluation.answers import (
    Answers,
    Prompt,
    encode_prompts,
    measured,
    most_prompt_tokens,
)
from runs.trainer.evaluation.generate import generation_bytes
from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.record import most_characters
from runs.trainer.evaluation.scoring import Scoring
from runs.trainer.loop.devices import choose_dtype, make_mesh, memory_there, start_devices
from runs.trainer.loop.stop import StopWatch
from runs.trainer.modeling.adapter import read_adapter_config
from runs.trainer.modeling.decoding import copied_size, decoding_weights
from runs.trainer.modeling.model_files import check_weights

GIB = 2**30
SMOKE_TOKENS = 32  # of each output


def validate_evaluation(manifest: dict[str, Any], folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Check manifest, data, scorers and model; with ``smoke`` load the model and generate a few
    tokens for some of the prompts.

    Obeys ``stop.json`` between its parts.

    Raises:
        TrainerError: why this evaluation could not be done. Interrupted: the check was asked to
            stop.
    """

    def check_stop() -> None:
        StopWatch(folder).check("before the check was finished")

    check_stop()
    evaluation = manifest["evaluation"]
    questions = read_set(manifest, folder)
    chosen = choose(evaluation["scorers"])
    check_references(manifest, questions, chosen)
    if evaluation["method"] == GENERATE:
        with Scoring(chosen, files=manifest["scorer_files"]) as scoring:
            scoring.start()
    check_stop()
    report: dict[str, Any] = {
        "kind": manifest["kind"],
        "total_steps": len(questions),
        "examples": len(questions),
        "outputs": len(questions) * evaluation["samples"],
        "warnings": [],
        "smoke": None,
    }
    if manifest["outputs_from"] is not None:
        source = check_source(manifest["outputs_from"], folder)
        report["missing"] = missing_outputs(source, questions)
        return report | {"sentences": _sentences(report, evaluation)}
    model = find_model(manifest["model"], folder)
    _check_parts(manifest, folder, model)
    report |= _sizes(manifest, model, questions)
    check_stop()
    if smoke:
        report["smoke"] = _smoke(manifest, folder, questions)
    elif model.files is not None:
        check_weights(model.files)
    report["sentences"] = _sentences(report, evaluation)
    report["warnings"] = [*model.warnings, *_warnings(report)]
    check_stop()
    return report


def _check_parts(manifest: dict[str, Any], folder: Path, model: FoundModel) -> None:
    """Check what is looked at of checkpoint and adapter before the model is loaded."""
    section = manifest["model"]
    if section["checkpoints"] is not None:
        identity = find_checkpoint(folder / section["checkpoints"], section["step"])
        check_shape(identity, model.config, model_id=section["id"])
    elif section["adapter"] is not None:
        read_adapter_config(folder / section["adapter"])


def _sizes(
    manifest: dict[str, Any], model: FoundModel, questions: list[Question]
) -> dict[str, Any]:
    evaluation, architecture = manifest["evaluation"], model.architecture
    tokenizer = open_tokenizer(
        tokenizer_folder(model.tokenizer, vocabulary=architecture.vocab),
        prompt_style=evaluation["prompt_style"],
    )
    most = most_prompt_tokens(evaluation, architecture)
    start_devices()
    dtype = choose_dtype(evaluation["dtype"])
    rows = 0
    if evaluation["method"] == GENERATE:
        prompts = encode_prompts(questions, tokenizer, most=most)
        facts, lengths = measured(prompts), [len(prompt.ids) for prompt in prompts]
        answers = Answers(
            evaluation,
            prompts,
            tokenizer=tokenizer,
            architecture=architecture,
            itemsize=dtype.itemsize,
            characters=most_characters(evaluation["samples"]),
        )
        rows = answers.rows
    else:
        likelihood = Likelihood(evaluation["method"], questions, tokenizer=tokenizer, most=most)
        facts = likelihood.measured()
        lengths = [len(ids) for ids in likelihood.prompts.values()]
    total, _ = count_parameters(model.config)
    return {
        "tokens": facts["prompt_tokens"],
        **facts,
        "length_histogram": length_classes(
            ((length // 16 * 16, 1) for length in lengths), longest=max(lengths) + 1
        ),
        "parameters": total,
        "dtype": str(dtype),
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "memory": _memory(
            architecture,
            total=total,
            itemsize=dtype.itemsize,
            rows=rows,
            prompt=facts["longest_prompt"],
            max_tokens=evaluation["max_tokens"],
        ),
        "memory_there": memory_there(),
        "rows": rows,
    }


def _memory(
    a: Architecture, *, total: int, itemsize: int, rows: int, prompt: int, max_tokens: int
) -> dict[str, int]:
    """Return the bytes on each device; those of the program itself are not counted. ``rows`` 0:
    nothing is generated."""
    on_cpu = jax.default_backend() == "cpu"
    parts = {"weights": total * itemsize, "copy": 0, "generation": 0}
    if rows:
        parts["copy"] = copied_size(a, copy=on_cpu) * itemsize
        parts["generation"] = generation_bytes(
            a, rows=rows, prompt_length=prompt, max_tokens=max_tokens, itemsize=itemsize
        )
    return parts | {"total": sum(parts.values())}


def _smoke(manifest: dict[str, Any], folder: Path, questions: list[Question]) -> dict[str, Any]:
    """Load the model; generate twice, because the first time the program is compiled."""
    evaluation = manifest["evaluation"]
    started = time.monotonic()
    with make_mesh(data_parallel=None, fsdp_parallel=None) as mesh:
        subject = load_subject(manifest, folder, mesh=mesh, dtype=choose_dtype(evaluation["dtype"]))
        loading = time.monotonic() - started
        if evaluation["method"] != GENERATE:
            return {
                "seconds": round(loading, 2),
                "tokens_per_second": None,
                "seconds_at_most": None,
            }
        architecture = subject.model.architecture
        prompts = encode_prompts(
            questions,
            subject.tokenizer,
            most=most_prompt_tokens(evaluation, architecture),
        )
        answers = Answers(
            evaluation,
            prompts,
            tokenizer=subject.tokenizer,
            architecture=architecture,
            itemsize=subject.dtype.itemsize,
            characters=most_characters(evaluation["samples"]),
        )
        weights = decoding_weights(subject.model.module, architecture)
        taken = _typical(prompts, answers.rows)
        tokens = [0]

        def count(place: int, sample: int, answer: Any) -> None:
            tokens[0] += answer.tokens

        spent = 0.0
        for _ in range(2):
            tokens[0], began = 0, time.monotonic()
            answers.generate(
                weights,
                taken,
                on_answer=count,
                check_stop=lambda: None,
                max_tokens=min(SMOKE_TOKENS, evaluation["max_tokens"]),
            )
            spent = time.monotonic() - began
    rate = tokens[0] / spent
    outputs = len(questions) * evaluation["samples"]
    return {
        "seconds": round(time.monotonic() - started, 2),
        "tokens_per_second": round(rate, 1),
        "seconds_at_most": round(loading + outputs * evaluation["max_tokens"] / rate, 1),
    }


def _typical(prompts: list[Prompt], rows: int) -> dict[int, Prompt]:
    """Return as many prompts as there are rows, spread over the lengths."""
    fitting = [place for place, prompt in enumerate(prompts) if prompt.fits]
    fitting.sort(key=lambda place: (len(prompts[place].ids), place))
    chosen = np.linspace(0, len(fitting) - 1, min(rows, len(fitting))).astype(int)
    return {fitting[index]: prompts[fitting[index]] for index in dict.fromkeys(chosen.tolist())}


def _sentences(report: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    sentences = [
        f"{report['examples']:,} items, {report['outputs']:,} outputs of at most"
        f" {evaluation['max_tokens']:,} tokens."
        if evaluation["method"] == GENERATE
        else f"{report['examples']:,} items; nothing is generated (method {evaluation['method']})."
    ]
    if report.get("missing"):
        sentences.append(f"{report['missing']:,} of them have no output that could be scored.")
    if "prompt_tokens" in report:
        sentences.append(
            f"Prompts: {report['prompt_tokens']:,} tokens, at most {report['longest_prompt']:,}."
        )
        if too_long := report["prompt_too_long"]:
            sentences.append(f"{too_long:,} prompts are too long and get no output.")
        sentences.append(
            f"Memory: about {report['memory']['total'] / GIB:.1f} GiB of"
            f" {report['memory_there'] / GIB:.1f} GiB."
        )
    if smoke := report["smoke"]:
        sentences.append(f"Loaded and tried in {smoke['seconds']:.1f} s.")
        if smoke["seconds_at_most"] is not None:
            sentences.append(
                f"{smoke['tokens_per_second']:,.0f} tokens/s: all outputs take at most"
                f" {smoke['seconds_at_most']:,.0f} s, if every one reaches max_tokens."
            )
    return sentences


def _warnings(report: dict[str, Any]) -> list[str]:
    if report["memory"]["total"] <= report["memory_there"]:
        return []
    return [
        f"The evaluation needs about {report['memory']['total'] / GIB:.1f} GiB of memory, and there"
        f" are {report['memory_there'] / GIB:.1f} GiB: use a smaller model or dtype bfloat16."
    ]
