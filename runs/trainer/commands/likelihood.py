"""The methods ``choices`` and ``perplexity``: what is measured of each question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from runs.spec.evaluation import CHOICES, LIKELIHOOD_LABELS
from runs.trainer.data.tokenizer import Encoded, Tokenizer
from runs.trainer.errors import DataError
from runs.trainer.evaluation.answers import encode_answer
from runs.trainer.evaluation.choices import COLUMN, read_choices
from runs.trainer.evaluation.items import Question
from runs.trainer.evaluation.record import MEASURED, NOTHING, PROMPT_TOO_LONG, Answer
from runs.trainer.evaluation.scorers.item import CannotScore
from runs.trainer.objectives.likelihood import measure


class Likelihood:
    """Questions with the answers whose likelihood is measured.

    Attributes:
        prompts: by place, the ids before the answers.
    """

    def __init__(self, method: str, questions: list[Question], *, tokenizer: Tokenizer, most: int):
        """Prepare the measurement. ``most``: tokens of a question with its answer.

        Raises:
            DataError: nothing can be measured.
        """
        self._labels = LIKELIHOOD_LABELS[method]
        self._chooses = method == CHOICES
        self._questions = questions
        self._rows: dict[int, list[Encoded]] = {}
        self._right: dict[int, int] = {}
        self._failed: dict[int, Answer] = {}
        self.prompts: dict[int, list[int]] = {}
        for place, question in enumerate(questions):
            try:
                rows = [encode_answer(question, one, tokenizer) for one in self._asked(place)]
            except CannotScore as error:
                self._failed[place] = Answer.without(NOTHING, str(error), self._labels)
                self.prompts[place] = []
                continue
            first = rows[0]
            self.prompts[place] = first.ids[: first.counted[-1][0]]
            if max(len(row.ids) for row in rows) > most:
                self._failed[place] = Answer.without(
                    PROMPT_TOO_LONG, f"has more than {most:,} tokens with its answer", self._labels
                )
                continue
            self._rows[place] = rows
        if not self._rows:
            [first_problem, *_] = (answer.problems for answer in self._failed.values())
            raise DataError(
                f"nothing can be measured of {len(questions):,} examples:"
                f" {first_problem[self._labels[0]]}"
            )

    def _asked(self, place: int) -> list[dict[str, Any]]:
        """Return the answers of a question. Raise CannotScore if there is none."""
        question = self._questions[place]
        if self._chooses:
            options, self._right[place] = read_choices(question)
            return [{"role": "assistant", "content": option} for option in options]
        if question.answer is not None:
            return [question.answer]
        if not (question.reference or "").strip():
            raise CannotScore("the example has no reference answer")
        return [{"role": "assistant", "content": question.reference}]

    def measured(self) -> dict[str, int]:
        """Return the numbers that the plan of an evaluation has of its prompts."""
        lengths = [len(ids) for ids in self.prompts.values()]
        too_long = [one for one in self._failed.values() if one.finish_reason == PROMPT_TOO_LONG]
        return {
            "prompt_tokens": sum(lengths),
            "longest_prompt": max(lengths),
            "prompt_too_long": len(too_long),
        }

    def answers(
        self, module: Any, left: set[int], *, check_stop: Callable[[], None]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the place of each question that is ``left``, and what was measured of it."""
        for place in sorted(left & self._failed.keys()):
            yield place, self._failed[place]
        rows = [
            (place, number, row)
            for place in sorted(left & self._rows.keys())
            for number, row in enumerate(self._rows[place])
        ]
        found: dict[int, dict[int, float]] = {}
        seconds: dict[int, float] = {}
        for index, log_prob, spent in measure(
            module, [row for _, _, row in rows], check_stop=check_stop
        ):
            place, number, _ = rows[index]
            found.setdefault(place, {})[number] = log_prob
            seconds[place] = seconds.get(place, 0.0) + spent
            if len(found[place]) == len(self._rows[place]):
                yield place, self._answer(place, found.pop(place), seconds.pop(place))

    def _answer(self, place: int, log_probs: dict[int, float], seconds: float) -> Answer:
        rows = self._rows[place]
        counts = [sum(end - start for start, end in row.counted) for row in rows]
        sums = [log_probs[number] for number in range(len(rows))]
        if not all(math.isfinite(value) for value in sums):
            problem = "the log-probability is not a finite number"
            return Answer("", sum(counts), MEASURED, seconds).fail(problem, self._labels)
        means = [value / count for value, count in zip(sums, counts, strict=True)]
        if not self._chooses:
            return Answer("", counts[0], MEASURED, seconds, {"nll": -means[0]})
        options, right = self._questions[place].columns[COLUMN], self._right[place]
        best, best_by_sum = means.index(max(means)), sums.index(max(sums))
        scores: dict[str, float | None] = {
            "choice": float(best == right),
            "choice_by_sum": float(best_by_sum == right),
        }
        listed = [
            {"text": text[:1000], "tokens": count, "log_prob": value, "mean_log_prob": mean}
            for text, count, value, mean in zip(options, counts, sums, means, strict=True)
        ]
        more = {"choices": listed, "chosen": best, "right": right}
        return Answer(options[best], counts[best], MEASURED, seconds, scores, more=more)
