"""Scorers that count what an output shares with the reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from runs.trainer.evaluation.scorers.item import Item

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def token_f1() -> Callable[[Item], float]:
    def score(item: Item) -> float:
        said, expected = _words(item.text), _words(item.expected)
        if not said or not expected:
            return float(said == expected)
        shared = sum((Counter(said) & Counter(expected)).values())
        return 2 * shared / (len(said) + len(expected))

    return score


def _words(text: str) -> list[str]:
    """Return words as SQuAD compares them."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def chrf() -> Callable[[Item], float]:
    from sacrebleu.metrics import CHRF  # noqa: PLC0415

    metric = CHRF()

    def score(item: Item) -> float:
        return _share(metric.sentence_score(item.text, [item.expected]).score)

    return score


def bleu() -> Callable[[Item], float]:
    from sacrebleu.metrics import BLEU  # noqa: PLC0415

    metric = BLEU(effective_order=True)

    def score(item: Item) -> float:
        return _share(metric.sentence_score(item.text, [item.expected]).score)

    return score


def _share(percent: float) -> float:
    return min(1.0, max(0.0, percent / 100))
