"""The scores of an evaluation: of each scorer, over questions, with what failed beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from runs.spec.scorers import SCORERS, Chosen
from runs.spec.statistics import bootstrap_interval, pass_at_k, share_interval
from runs.trainer.evaluation.record import LENGTH, PROMPT_TOO_LONG, Answer

Scores = list[float | None]


@dataclass
class Tally:
    """What was scored so far. ``scores``: by label, for each item those of its outputs."""

    labels: tuple[str, ...]
    items: int = 0
    outputs: int = 0
    truncated: int = 0
    prompt_too_long: int = 0
    tokens: int = 0
    scores: dict[str, list[Scores]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    likelihood: list[tuple[float, int]] = field(default_factory=list)

    def add(self, answers: Sequence[Answer]) -> None:
        """Count the outputs of an item."""
        self.items += 1
        self.outputs += len(answers)
        self.truncated += sum(answer.finish_reason == LENGTH for answer in answers)
        self.prompt_too_long += any(answer.finish_reason == PROMPT_TOO_LONG for answer in answers)
        self.tokens += sum(answer.tokens for answer in answers)
        for label in self.labels:
            scores = [answer.scores.get(label) for answer in answers]
            self.scores.setdefault(label, []).append(scores)
            if found := [score for score in scores if score is not None]:
                total = self.sums.setdefault(label, [0.0, 0])
                total[0] += fmean(found)
                total[1] += 1
            for answer in answers:
                if problem := answer.problems.get(label):
                    self.problems.setdefault(label, problem)
        self.likelihood += [
            (nll * answer.tokens, answer.tokens)
            for answer in answers
            if (nll := answer.scores.get("nll")) is not None
        ]

    def means(self) -> dict[str, float]:
        """Return the mean of each label so far."""
        return {label: total / count for label, (total, count) in self.sums.items()}

    def perplexity(self) -> float | None:
        """Return the perplexity over all tokens of the answers that were measured."""
        tokens = sum(count for _, count in self.likelihood)
        if not tokens:
            return None
        mean = math.fsum(nll for nll, _ in self.likelihood) / tokens
        return math.exp(mean) if mean < 700 else math.inf

    def failed_entirely(self) -> list[str]:
        """Return the labels that have no score at all."""
        return [label for label in self.labels if label not in self.sums]


def summary_of(label: str, tally: Tally, *, chosen: Chosen | None) -> dict[str, Any]:
    """Return what ``result.json`` says of one label; ``chosen``: the scorer, where it is one's."""
    items = tally.scores.get(label, [])
    flat = [score for scores in items for score in scores]
    scored = sum(score is not None for score in flat)
    means = question_means(items)
    is_share = all(0 <= mean <= 1 for mean in means) and label != "nll"
    low = high = None
    if means and is_share:
        low, high = share_interval(means)
    elif len(means) > 1:
        low, high = bootstrap_interval(means, seed=0)
    return {
        "scorer": chosen.as_json() if chosen else None,
        "hash": chosen.hash if chosen else None,
        "mean": fmean(means) if means else None,
        "low": low,
        "high": high,
        "questions": len(means),
        "scored": scored,
        "failed": len(flat) - scored,
        "truncated": tally.truncated,
        "total": len(flat),
        "pass_at_k": _pass_at_k(items) if chosen and SCORERS[chosen.name].binary else None,
        "first_problem": tally.problems.get(label),
    }


def question_means(items: Iterable[Scores]) -> list[float]:
    """Return the mean of each question that has a score."""
    found = ([score for score in scores if score is not None] for scores in items)
    return [fmean(scores) for scores in found if scores]


def weighted(labels: Sequence[str], chosen: Sequence[Chosen], tally: Tally) -> dict[str, Any]:
    """Return the mean of the scorers together, each with its weight, over the outputs that every
    one has scored."""
    total = sum(one.weight for one in chosen)
    together: list[Scores] = []
    for item in zip(*(tally.scores.get(label, []) for label in labels), strict=True):
        scores: Scores = []
        for of_output in zip(*item, strict=True):
            known = [score for score in of_output if score is not None]
            if len(known) == len(of_output):
                weights = (one.weight for one in chosen)
                pairs = zip(weights, known, strict=True)
                scores.append(sum(weight * score for weight, score in pairs) / total)
        together.append(scores)
    means = question_means(together)
    low, high = share_interval(means) if means else (None, None)
    return {
        "mean": fmean(means) if means else None,
        "low": low,
        "high": high,
        "questions": len(means),
        "scored": sum(map(len, together)),
    }


def _pass_at_k(items: Sequence[Scores]) -> dict[str, float] | None:
    """Return pass@1, 2, 4 … and pass@n by k, over the questions with that many scores; None where
    there is one sample."""
    samples = max((len(scores) for scores in items), default=0)
    if samples < 2:
        return None
    ks = sorted({*(2**power for power in range(samples.bit_length())), samples})
    found = [[score for score in scores if score is not None] for scores in items]
    result = {}
    for k in ks:
        estimates = [
            pass_at_k(len(scores), sum(score == 1 for score in scores), k)
            for scores in found
            if len(scores) >= k
        ]
        if estimates:
            result[str(k)] = fmean(estimates)
    return result or None
