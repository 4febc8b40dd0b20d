"""Writes the items of an evaluation, and its progress to ``metrics.jsonl`` and stdout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from runs.trainer.evaluation.record import Answer, ItemsFile
from runs.trainer.evaluation.summary import Tally
from runs.trainer.reporting.metrics import MetricsFile, clock, say

SECONDS_BETWEEN = 1.0  # two lines of metrics


class Writer:
    """Writes items, and progress at most once a second.

    Attributes:
        scoring_seconds: of the time until now, to be added to by the one who scores.
    """

    def __init__(self, items: ItemsFile, metrics: MetricsFile, tally: Tally, *, total: int):
        """Open the writer. ``tally`` has what was there before; ``total``: items, with those."""
        self._items, self._metrics, self._tally, self._total = items, metrics, tally, total
        self._started = self._reported_at = time.monotonic()
        self._resumed = self._reported = tally.items
        self._tokens_before = tally.tokens
        self.scoring_seconds = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that were made here in the time that was not spent on scores."""
        tokens, seconds = self._tally.tokens - self._tokens_before, self.seconds
        making = seconds - self.scoring_seconds
        return round(tokens / making, 1) if tokens and making > 0 else None

    def write(self, line: dict[str, Any], answers: Sequence[Answer]) -> None:
        """Write an item that is scored."""
        # before it is counted: items come in batches, and this is the first of the next one
        if time.monotonic() - self._reported_at >= SECONDS_BETWEEN:
            self.report()
            self._reported_at = time.monotonic()
        self._items.append(line)
        self._tally.add(answers)

    def report(self) -> None:
        """Write the means so far, unless that is done."""
        tally = self._tally
        if tally.items == self._reported:
            return
        means, rate = tally.means(), self.tokens_per_second or 0.0
        values = {"items": tally.items, "truncated": tally.truncated, "tokens_per_second": rate}
        self._metrics.values(tally.items, tally.items / self._total, values | means)
        left = self.seconds / (tally.items - self._resumed) * (self._total - tally.items)
        shown = "".join(f" {label} {mean:.4g}" for label, mean in means.items())
        say(f"item {tally.items}/{self._total}{shown} {rate:,.0f} tokens/s eta {clock(left)}")
        self._reported = tally.items
