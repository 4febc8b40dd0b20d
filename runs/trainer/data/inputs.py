"""What a training reads, without its model: manifest, tokenised data, plan. Nothing here imports
JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runs.spec.manifest import ManifestError, read_manifest, with_revision
from runs.spec.model_folder import FolderProblem, check_tokenizer
from runs.trainer.data.plan import DataPlan, total_steps
from runs.trainer.data.remarks import remarks
from runs.trainer.data.tokenizer import Tokenizer, load_tokenizer
from runs.trainer.data.tokens import TokenisedData
from runs.trainer.errors import ManifestProblem, ModelError, TrainerError


def open_manifest(config: Path) -> tuple[dict[str, Any], Path]:
    """Return the checked manifest and its folder. Raise ManifestProblem."""
    try:
        return read_manifest(config), config.absolute().parent
    except ManifestError as error:
        raise ManifestProblem(f"{config.name}: {error}") from error


def pin_revision(config: Path, commit: str) -> None:
    """Write the commit of a hub model into its manifest, so that starting it again trains the same
    model."""
    text = config.read_text(encoding="utf-8")
    pinned = with_revision(text, commit)
    if pinned == text:
        return
    temporary = config.with_name(f".{config.name}.{os.getpid()}")
    try:
        temporary.write_text(pinned, encoding="utf-8")
        os.replace(temporary, config)
    finally:
        temporary.unlink(missing_ok=True)


def input_warnings(tokenizer: Tokenizer, data: TokenisedData, *, positions: int) -> list[str]:
    """Return what people should know about how their conversations become tokens, in sentences.

    ``positions``: the longest sequence that the model was made for, in tokens.
    """
    warnings = [*tokenizer.notes, *remarks(data.counts)]
    if beyond := int((data.pieces["length"] > positions).sum()):
        warnings.append(
            f"{beyond:,} of {len(data.pieces):,} examples have more tokens than the model has"
            f" positions ({positions:,}, max_position_embeddings in config.json); lower"
            f" max_seq_length to {positions}."
        )
    return warnings


def open_tokenizer(folder: Path | None, *, prompt_style: str) -> Tokenizer:
    """Open the tokenizer in ``folder``; None means bytes. Raise ModelError whatever is wrong with
    its files."""
    try:
        if folder is not None:
            check_tokenizer(folder)
        return load_tokenizer(folder, prompt_style=prompt_style)
    except FolderProblem as error:
        raise ModelError(str(error)) from error
    except (TrainerError, KeyboardInterrupt, SystemExit, MemoryError, ImportError):
        raise
    except BaseException as error:
        # The tokenizers library panics, which is no Exception, on files it does not understand.
        raise ModelError(
            f"the tokenizer in {folder} cannot be used: {type(error).__name__}: {error}"
        ) from error


def last_step(manifest: dict[str, Any], plan: DataPlan) -> int:
    """Return the last optimizer step that the manifest asks for, counted from 1."""
    training = manifest["training"]
    return total_steps(
        plan.steps_per_epoch,
        num_epochs=training["num_epochs"],
        max_steps=training["max_steps"],
        extend_from=manifest["extend_from_step"],
    )


def plan_facts(data: TokenisedData, plan: DataPlan, total: int) -> dict[str, Any]:
    """Return the plan in numbers: the first line of metrics.jsonl and part of the validation
    report."""
    train = data.counts["train"]
    return {
        "total_steps": total,
        "steps_per_epoch": plan.steps_per_epoch,
        "examples": train["examples"],
        "held_out": data.counts["held_out"]["examples"],
        "tokens": train["tokens"],
        "answer_tokens": train["answer_tokens"],
        "dropped": _left_out(train),
        "truncated": train["truncated"],
        "split": train["split"],
        "rows_per_step": plan.micro_batches * plan.rows_per_batch,
        "row_lengths": plan.row_lengths,
        "padding_waste": round(plan.padding_waste(), 4),
    }


def plan_sentences(
    data: TokenisedData, plan: DataPlan, training: dict[str, Any], total: int
) -> list[str]:
    """Return what people should know about the plan before the first step, in sentences."""
    train, held = data.counts["train"], data.counts["held_out"]
    epochs = total / plan.steps_per_epoch
    sentences = [
        (
            f"{_counted(train['examples'] - _left_out(train), 'example')} to learn from"
            f" ({train['tokens']:,} tokens, {train['answer_tokens']:,} of answers),"
            f" {held['examples'] - _left_out(held):,} held out."
        ),
        (
            f"{_counted(total, 'step')}: {epochs:.4g} epoch{'' if epochs == 1 else 's'} of"
            f" {plan.steps_per_epoch:,}, {plan.micro_batches * plan.rows_per_batch} rows a step of"
            f" {' or '.join(map(str, plan.row_lengths))} tokens, {plan.padding_waste():.1%}"
            " padding."
        ),
    ]
    for name, words in (
        ("dropped", "longer than max_seq_length and left out (too_long: drop)"),
        ("truncated", "longer than max_seq_length and cut at the end (too_long: truncate)"),
        ("split", "longer than max_seq_length and split into several rows (too_long: split)"),
        ("no_answer", "left out: no token of the answer fits into max_seq_length"),
    ):
        if number := train[name] + held[name]:
            sentences.append(
                f"{_counted(number, 'example')} {'is' if number == 1 else 'are'} {words}."
            )
    steps = training["max_steps"]
    if steps is not None and total < steps:  # an extension takes all of max_steps
        sentences.append(
            f"max_steps {steps:,} is not reached: num_epochs {training['num_epochs']} ends the"
            " training before. Raise num_epochs to train longer."
        )
    if plan.smaller_than_batch:
        sentences.append(
            f"The batch ({training['batch_size'] * training['gradient_accumulation_steps']} rows)"
            f" is larger than the training part ({plan.row_count} rows): every step sees all of it."
        )
    return sentences


def _left_out(count: dict[str, int]) -> int:
    return count["dropped"] + count["no_answer"]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
