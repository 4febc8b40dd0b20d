"""What the training program leaves of an evaluation, for tests without a model.

Questions are read, and lines written, by the training program's own code;
``test_evaluations.py`` of the training program compares what is left with a real evaluation. Needs
the standard library only: the scripted training program uses it as well.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from runs.runfolder import names
from runs.tests.checkpoint_layout import read_sections
from runs.trainer.evaluation.items import Question, read_questions
from runs.trainer.evaluation.record import Answer, ItemsFile, item_line

Scores = dict[str, list[Any]]


def questions_of(folder: Path) -> list[Question]:
    """Return the questions that the manifest of an evaluation asks for."""
    manifest = read_sections(folder / names.MANIFEST)
    evaluation, dataset = manifest["evaluation"], manifest["dataset"]
    return read_questions(
        folder / dataset["path"],
        format=dataset["format"],
        part=evaluation["part"],
        limit=evaluation["limit"],
        system_prompt=evaluation["system_prompt"],
    )


def leave_items(
    folder: Path,
    scores: Scores,
    *,
    upto: int | None = None,
    text: str | list[str] = "",
    finish_reason: str = "stop",
    weights: str = "a" * 64,
    **result: Any,
) -> None:
    """Answer the questions of an evaluation, the first ``upto`` of them, and say at its end what
    the training program says.

    Args:
        scores: for each label a list, whose elements are used for one question after the other, and
            again from the start. An element is a score, None for a failure, or a list with one for
            each sample.
        text: of the outputs, or a list, used as those of ``scores``; empty: one of the question.
        weights: the hash of the model's parameters.
    """
    questions = questions_of(folder)
    asked = questions[:upto]
    with (
        ItemsFile(folder / names.ITEMS) as items,
        open(folder / names.METRICS, "a", encoding="utf-8") as metrics,
    ):
        done = {line["hash"] for line in items.read()}
        _measure(metrics, plan={"total_steps": len(questions), "items": len(questions)})
        for place, question in enumerate(asked):
            if question.hash in done:
                continue
            answers = [
                Answer(
                    _text(text, place) or f"The answer to {question.id} is {question.reference}",
                    12,
                    finish_reason,
                    0.25,
                    scores=sample,
                    problems={
                        label: "it failed" for label, score in sample.items() if score is None
                    },
                )
                for sample in _samples(scores, place)
            ]
            items.append(
                item_line(place, question, rendered="<s>", prompt_tokens=3, answers=answers)
            )
            _measure(metrics, step=place + 1, epoch=0.0, values={"items": place + 1})
    (folder / names.EVALUATION).write_text("{}\n", encoding="utf-8")
    if upto is None:
        found = {
            "weights_sha256": weights,
            "template_hash": "b" * 64,
            "jax_backend": "cpu",
            "dtype": "float32",
            "versions": {"google-tunix": "0.1.3", "jax": "0.7.0"},
            "items": len(questions),
            "items_sha256": hashlib.sha256((folder / names.ITEMS).read_bytes()).hexdigest(),
        }
        (folder / names.RESULT).write_text(json.dumps(found | result), encoding="utf-8")


def _text(text: str | list[str], place: int) -> str:
    return text if isinstance(text, str) else text[place % len(text)]


def _samples(scores: Scores, place: int) -> list[dict[str, Any]]:
    """The scores of each output of a question, by their labels."""
    of_question = {label: values[place % len(values)] for label, values in scores.items()}
    count = max(len(one) if isinstance(one, list) else 1 for one in of_question.values())
    return [
        {label: one[number] if isinstance(one, list) else one for label, one in of_question.items()}
        for number in range(count)
    ]


def _measure(file: Any, **line: Any) -> None:
    file.write(json.dumps({"time": time.time(), **line}) + "\n")
    file.flush()
