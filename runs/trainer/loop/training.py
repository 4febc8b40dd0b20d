"""What happens at the boundaries between steps: metrics, held-out loss, checkpoints, stop
requests."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from runs.trainer.data.batches import HostBatch
from runs.trainer.errors import Interrupted, NotANumber
from runs.trainer.loop.checkpoints import Checkpoints
from runs.trainer.loop.devices import memory_in_use, release_freed_memory
from runs.trainer.loop.optimizer import learning_rate, schedule_settings
from runs.trainer.loop.step import Outcome, StepBoundary, make_trainer
from runs.trainer.loop.stop import StopWatch
from runs.trainer.objectives.objective import Prepared
from runs.trainer.reporting.metrics import MetricsFile, Progress, say

NAMED_EXAMPLES = 8  # examples named when a step fails
# Between two releases of freed memory, each of which costs the step under way some 0.2 s.
TRIM_SECONDS = 20.0


@dataclass
class TrainingRecord:
    """What a training remembers of itself: saved with every checkpoint, carried on by a resumed
    run.

    ``tokens`` (without padding) have gone through a step since the very beginning. ``start`` is the
    step at which the schedule began: that of the checkpoint which an extension extends, else 0.
    ``outputs_before`` are the first answers to the held-out problems before the first step.
    ``values`` are numbers by name, which ends with ``_first``, ``_last`` or ``_before``.
    """

    tokens: int = 0
    start: int = 0
    outputs_before: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TrainingRecord:
        """Read what ``state`` returned, today or in a version before; the checkpoint's own entries
        are left out."""
        return cls(
            tokens=state.get("tokens", 0),
            start=state.get("start", 0),
            outputs_before=list(state.get("outputs_before", [])),
            values={
                name: value
                for name, value in state.items()
                if name.endswith(("_first", "_last", "_before")) and isinstance(value, int | float)
            },
        )

    def state(self) -> dict[str, Any]:
        """Return everything as one flat JSON object. Checkpoints outlive versions of this program:
        names stay."""
        return {
            "tokens": self.tokens,
            "start": self.start,
            "outputs_before": self.outputs_before,
            **self.values,
        }

    def add_step(self, metric: str, value: float) -> None:
        """Remember a metric of the step just taken."""
        self.values.setdefault(f"{metric}_first", value)
        self.values[f"{metric}_last"] = value


@dataclass
class _Window:
    """Steps since the last line of metrics. ``sums`` are those of the objective, by metric."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: float = 0.0
    norm: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


class Loop:
    """Feeds ``ObjectiveTrainer`` and does everything between its steps.

    One step is always in flight: its outcome is read when the next one has been dispatched, so that
    the device never waits for the host. Before a checkpoint everything is read, so a weight that is
    not a number is never saved.

    Attributes:
        step: the number of optimizer steps taken, those of a restored checkpoint included.
        stopped_by: what asked for the stop that ended ``run``, or None.
        seconds: spent in steps, except those that compiled; ``timed_tokens`` and ``timed_steps``
            were trained in them.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        checkpoints: Checkpoints,
        metrics: MetricsFile,
        stop: StopWatch,
    ):
        self.trainer = make_trainer(prepared, on_step=self._on_step)
        self.record = TrainingRecord(start=prepared.start)
        self.total = prepared.total
        self.step = 0
        self.stopped_by: str | None = None
        self.seconds = 0.0
        self.timed_tokens = 0
        self.timed_steps = 0
        self._prepared, self._training = prepared, prepared.training
        self._objective, self._source = prepared.objective, prepared.source
        self._checkpoints, self._metrics, self._stop = checkpoints, metrics, stop
        self._progress = Progress(self.total)
        self._pending: deque[tuple[int, HostBatch, Outcome, bool]] = deque()
        self._current: HostBatch | None = None
        self._window = _Window()
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._read_at = self._saved_at = self._trimmed_at = time.monotonic()
        self._eval_loss: tuple[int, float] | None = None
        self._batches: Iterator[HostBatch] = iter(())

    def run(self) -> None:
        """Train from ``step`` to the last one, or to a stop request (``stopped_by``).

        Raises:
            NotANumber: names the step and its examples.
            StorageError: a checkpoint could not be written.
        """
        batches = self._source.train(start=self.step, stop=self.total)
        self._batches = iter(batches)
        self._read_at = self._saved_at = time.monotonic()
        try:
            self.trainer.with_data_hooks(StepBoundary(self._next_batch))
            self.trainer.train(())
        finally:
            batches.close()

    def evaluate(self, *, before: bool = False) -> float | None:
        """Measure the held-out part now, into the metrics; return its loss, or None without one.

        ``before``: this is the model before its training.

        Raises:
            NotANumber: the loss is NaN or infinite.
            Interrupted: a stop was requested.
        """
        if not self._has_held_out:
            return None
        step = self.step
        # Several processes must not leave a common computation one by one.
        alone = jax.process_count() == 1
        means = self.trainer.held_out_means(
            self._source.held_out(), self._stop.check if alone else lambda: None
        )
        loss, values = means["loss"], self._objective.held_out_metrics(means)
        self._metrics.values(step, self.epoch(step), values)
        others = "".join(
            f" {name.removeprefix('eval_').replace('_', ' ')} {value:.4g}"
            for name, value in values.items()
            if name != "eval_loss"
        )
        say(f"step {step}/{self.total} held-out loss {loss:.4f}{others}")
        if not math.isfinite(loss):
            advice = (
                "use a lower learning_rate or dtype float32"
                if step
                else "look at the model's weights, or use dtype float32"
            )
            raise NotANumber(f"the held-out loss is {loss} at step {step}; {advice}")
        for name in self._objective.reported:
            for when in ("before", "last") if before else ("last",):
                self.record.values[f"eval_{name}_{when}"] = means[name]
        self._eval_loss = (step, loss)
        self._read_at = time.monotonic()
        return loss

    def save(self) -> None:
        """Write a checkpoint in the background. Raise StorageError."""
        step = self.step
        measured = self._eval_loss[1] if self._eval_loss and self._eval_loss[0] == step else None
        self._checkpoints.save_now(
            step,
            self.trainer.model,
            self.trainer.optimizer,
            lora=self.trainer.lora,
            state=self.record.state(),
            eval_loss=measured,
        )
        self._saved_at = self._read_at = time.monotonic()

    @property
    def _has_held_out(self) -> bool:
        return bool(self._prepared.held_out_rows)

    def _on_step(self, outcome: Outcome) -> None:
        assert self._current is not None
        self.step += 1
        # A new shape is compiled first, so the step tells nothing about the pace.
        shape = tuple(array.shape for array in jax.tree.leaves(self._current.batch))
        self._pending.append((self.step, self._current, outcome, shape not in self._shapes))
        self._shapes.add(shape)

    def _next_batch(self) -> Any | None:
        step = self.step
        # Gloo, which joins processes on CPUs, mixes up the messages of two programs in flight.
        alone_in_flight = jax.process_count() > 1 and jax.default_backend() == "cpu"
        self._read_outcomes(keep=0 if alone_in_flight else 1)
        stop, save = self._agree(self._stop.reason() is not None, self._is_save_due(step))
        if not stop and self._is_eval_due(step):
            self._read_outcomes(keep=0)
            try:
                loss = self.evaluate()
                save = save or (
                    loss is not None
                    and self._checkpoints.retention.is_among_best(loss, self._checkpoints.steps())
                )
            except Interrupted:
                stop = True  # below, after a checkpoint
        if step > 0 and (save or stop or step >= self.total):
            self._read_outcomes(keep=0)
            self.save()
        if step >= self.total:
            return None
        if stop:
            self.stopped_by = self._stop.reason() or "another process"
            return None
        self._current = next(self._batches)
        return self._current.batch

    def _is_save_due(self, step: int) -> bool:
        if self._current is None:
            return False  # nothing trained yet
        steps, minutes = (
            self._training["checkpoint_every_steps"],
            self._training["checkpoint_every_minutes"],
        )
        return bool(steps and step % steps == 0) or bool(
            minutes and time.monotonic() - self._saved_at >= 60 * minutes
        )

    def _is_eval_due(self, step: int) -> bool:
        if (
            not self._has_held_out
            or self._current is None
            or (self._eval_loss and self._eval_loss[0] == step)
        ):
            return False
        return (
            step % (self._training["eval_every_steps"] or self._prepared.plan.steps_per_epoch) == 0
            or step >= self.total
        )

    def _agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Return what the first process sees, in every process: their clocks and signals differ."""
        if jax.process_count() == 1:
            return stop, save
        flags = multihost_utils.broadcast_one_to_all(np.array([stop, save]))
        return bool(flags[0]), bool(flags[1])

    def _read_outcomes(self, *, keep: int) -> None:
        while len(self._pending) > keep:
            step, host, outcome, compiled = self._pending.popleft()
            values = {name: float(value) for name, value in outcome.items()}
            now = time.monotonic()
            seconds, self._read_at = now - self._read_at, now
            self._check_finite(step, host, values)
            if not compiled:
                self.seconds += seconds
                self.timed_tokens += host.tokens
                self.timed_steps += 1
            self._count(step, host, values, seconds)
            if now - self._trimmed_at >= TRIM_SECONDS:
                release_freed_memory()
                self._trimmed_at = now

    def _count(self, step: int, host: HostBatch, values: dict[str, float], seconds: float) -> None:
        window, record = self._window, self.record
        count = values[self._objective.denominator]
        window.steps += 1
        for name in self._means(values):
            window.sums[name] = window.sums.get(name, 0.0) + values[name] * count
        window.count += count
        window.norm = max(window.norm, values["grad_norm"])
        window.tokens += host.tokens
        window.seconds += seconds
        record.tokens += host.tokens
        for name in self._objective.reported:
            record.add_step(name, values[name])
        if window.steps >= self._training["log_every_steps"] or step >= self.total:
            self._log(step)
            self._window = _Window()

    def _means(self, values: dict[str, float]) -> list[str]:
        """Return the metrics of a step that are means over the objective's denominator, the loss
        first."""
        others = values.keys() - {"loss", "grad_norm", self._objective.denominator}
        return ["loss", *sorted(others)]

    def _log(self, step: int) -> None:
        window = self._window
        rate = learning_rate(
            step - 1,
            total=self.total,
            start=self.record.start,
            xp=np,
            **schedule_settings(self._training),
        )
        values = {
            **{name: total / max(window.count, 1.0) for name, total in window.sums.items()},
            "learning_rate": float(rate),
            "grad_norm": window.norm,
            "tokens": self.record.tokens,
            "tokens_per_second": window.tokens / max(window.seconds, 1e-9),
            "memory_bytes": memory_in_use(),
        }
        self._metrics.values(step, self.epoch(step), values)
        pace = (
            self.seconds / self.timed_steps if self.timed_steps else window.seconds / window.steps
        )
        self._progress.step(
            step=step,
            epoch=self.epoch(step),
            values=values,
            seconds_left=pace * (self.total - step),
        )

    def _check_finite(self, step: int, host: HostBatch, values: dict[str, float]) -> None:
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
        if not wrong:
            return
        self._metrics.values(
            step, self.epoch(step), {name: values[name] for name in ("loss", "grad_norm")}
        )
        names = self._prepared.example_names(host.pieces[:NAMED_EXAMPLES])
        more = f" and {len(host.pieces) - len(names)} more" if len(host.pieces) > len(names) else ""
        what = "the loss" if wrong[0] == "loss" else "the gradient"
        # Nothing has been learnt before the first step, so no learning rate is to blame, and all
        # weights are numbers.
        advice = (
            "use a lower learning_rate, a lower max_grad_norm or dtype float32"
            if step > 1
            else "use dtype float32"
        )
        raise NotANumber(
            f"{what} is {values[wrong[0]]} at step {step}, whose batch holds the examples"
            f" {', '.join(names)}{more}; {advice}, or look at these examples"
            + ("" if step > 1 else " and at the model, which was not trained yet")
        )

    def epoch(self, step: int) -> float:
        """Return the passes over the training part that ``step`` steps make."""
        return step / self._prepared.plan.steps_per_epoch
