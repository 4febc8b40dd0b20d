"""What happens at the boundaries between steps: metrics, held-out loss, checkpoints, stop
requests."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from runs.trainer.data.batches import Batch, HostBatch, Prefetcher
from runs.trainer.data.plan import DataPlan
from runs.trainer.errors import Interrupted, NotANumber
from runs.trainer.loop.checkpoints import Checkpoints
from runs.trainer.loop.devices import give_memory_back, memory_in_use
from runs.trainer.loop.optimizer import learning_rate, schedule_settings
from runs.trainer.loop.step import SftTrainer, StepBoundary
from runs.trainer.loop.stop import StopWatch
from runs.trainer.reporting.metrics import MetricsFile, Progress, say

NAMED_EXAMPLES = 8  # examples named when a step fails
# between two times that freed memory is given back, which costs the step under way some 0.2 s
TRIM_SECONDS = 20.0


@dataclass
class Tally:
    """What a training remembers of itself; saved with every checkpoint and carried on by a resumed
    run."""

    tokens: int = 0  # real ones (no padding) that went through a step
    loss_first: float | None = None
    loss_last: float | None = None
    eval_loss_before: float | None = None
    eval_loss_last: float | None = None
    exact_match_before: float | None = None
    outputs_before: list[str] = field(default_factory=list)
    start: int = (
        0  # the step at which the schedule began: that of the checkpoint which an extension extends
    )


@dataclass
class _Window:
    """Steps since the last line of metrics."""

    steps: int = 0
    loss: float = 0.0
    answers: float = 0.0
    norm: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


class Loop:
    """Feeds ``SftTrainer`` and looks after everything between its steps.

    One step is always in flight: its outcome is read when the next one has been dispatched, so that
    the device never waits for the host. Before a checkpoint everything is read, so a weight that is
    not a number is never saved.
    """

    def __init__(
        self,
        *,
        trainer_of: Callable[[Callable[[dict[str, jax.Array]], None]], SftTrainer],
        training: dict[str, Any],
        plan: DataPlan,
        prefetcher_of: Callable[[int, int], Prefetcher],
        held_out: Callable[[], Iterator[HostBatch]] | None,
        start: int,
        total: int,
        checkpoints: Checkpoints,
        metrics: MetricsFile,
        stop: StopWatch,
        name_examples: Callable[[np.ndarray], list[str]],
    ):
        self.trainer = trainer_of(self._on_step)
        self.tally = Tally(start=start)
        self.stopped_by: str | None = None
        self.seconds = 0.0  # spent in steps, but for those that compiled
        self.timed_tokens = 0
        self.timed_steps = 0
        self._training, self._plan, self.total = training, plan, total
        self._prefetcher_of = prefetcher_of
        self._held_out, self._checkpoints, self._metrics, self._stop = (
            held_out,
            checkpoints,
            metrics,
            stop,
        )
        self._name_examples = name_examples
        self._progress = Progress(total)
        self._pending: deque[tuple[int, HostBatch, dict[str, jax.Array], bool]] = deque()
        self._current: HostBatch | None = None
        self._window = _Window()
        self._shapes: set[tuple[int, ...]] = set()
        self._read_at = self._saved_at = self._trimmed_at = time.monotonic()
        self._eval_loss: tuple[int, float] | None = None
        self._batches: Iterator[HostBatch] = iter(())

    @property
    def lora(self) -> bool:
        return self._training["lora_rank"] is not None

    def run(self) -> None:
        """Train from the trainer's step to the last one, or to a stop request (``stopped_by``).

        Raises:
            NotANumber: names the step and its examples.
            StorageError: a checkpoint could not be written.
        """
        prefetcher = self._prefetcher_of(self.trainer.train_steps, self.total)
        self._batches = iter(prefetcher)
        self._read_at = self._saved_at = time.monotonic()
        try:
            self.trainer.with_data_hooks(StepBoundary(self._next_batch))
            self.trainer.train(())
        finally:
            prefetcher.close()

    def evaluate(self, step: int) -> float | None:
        """Held-out loss now, into the metrics; None without a held-out part. Raises NotANumber and
        Interrupted."""
        if self._held_out is None:
            return None
        # several processes must not leave a common computation one by one
        alone = jax.process_count() == 1
        loss = self.trainer.held_out_loss(
            self._held_out(), self._stop.check if alone else lambda: None
        )
        self._metrics.values(
            step, self.epoch(step), {"eval_loss": loss, "eval_perplexity": perplexity(loss)}
        )
        say(f"step {step}/{self.total} held-out loss {loss:.4f} perplexity {perplexity(loss):.4g}")
        if not math.isfinite(loss):
            advice = (
                "use a lower learning_rate or dtype float32"
                if step
                else "look at the model's weights, or use dtype float32"
            )
            raise NotANumber(f"the held-out loss is {loss} at step {step}; {advice}")
        self.tally.eval_loss_last = loss
        self._eval_loss = (step, loss)
        self._read_at = time.monotonic()
        return loss

    def save(self, step: int) -> None:
        """Write a checkpoint of everything up to ``step`` in the background."""
        measured = self._eval_loss[1] if self._eval_loss and self._eval_loss[0] == step else None
        self._checkpoints.save_now(
            step,
            self.trainer.model,
            self.trainer.optimizer,
            lora=self.lora,
            state=dict(vars(self.tally)),
            eval_loss=measured,
        )
        self._saved_at = self._read_at = time.monotonic()

    def _on_step(self, outcome: dict[str, jax.Array]) -> None:
        assert self._current is not None
        shape = self._current.batch.tokens.shape
        self._pending.append(
            (self._current.step + 1, self._current, outcome, shape not in self._shapes)
        )
        self._shapes.add(shape)

    def _next_batch(self) -> Batch | None:
        step = self.trainer.train_steps
        # Gloo, which joins processes on CPUs, mixes up the messages of two programs in flight.
        alone_in_flight = jax.process_count() > 1 and jax.default_backend() == "cpu"
        self._read_outcomes(keep=0 if alone_in_flight else 1)
        stop, save = self._agree(self._stop.reason() is not None, self._is_save_due(step))
        if not stop and self._is_eval_due(step):
            self._read_outcomes(keep=0)
            try:
                loss = self.evaluate(step)
                save = save or (
                    loss is not None
                    and self._checkpoints.retention.is_among_best(loss, self._checkpoints.steps())
                )
            except Interrupted:
                stop = True  # below, after a checkpoint
        if step > 0 and (save or stop or step >= self.total):
            self._read_outcomes(keep=0)
            self.save(step)
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
            self._held_out is None
            or self._current is None
            or (self._eval_loss and self._eval_loss[0] == step)
        ):
            return False
        return (
            step % (self._training["eval_every_steps"] or self._plan.steps_per_epoch) == 0
            or step >= self.total
        )

    def _agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """All processes do what the first one sees: their clocks and signals differ."""
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
                give_memory_back()
                self._trimmed_at = now

    def _count(self, step: int, host: HostBatch, values: dict[str, float], seconds: float) -> None:
        window, tally = self._window, self.tally
        window.steps += 1
        window.loss += values["loss"] * values["answer_tokens"]
        window.answers += values["answer_tokens"]
        window.norm = max(window.norm, values["grad_norm"])
        window.tokens += host.tokens
        window.seconds += seconds
        tally.tokens += host.tokens
        if tally.loss_first is None:
            tally.loss_first = values["loss"]
        tally.loss_last = values["loss"]
        if window.steps >= self._training["log_every_steps"] or step >= self.total:
            self._log(step)
            self._window = _Window()

    def _log(self, step: int) -> None:
        window = self._window
        rate = learning_rate(
            step - 1,
            total=self.total,
            start=self.tally.start,
            xp=np,
            **schedule_settings(self._training),
        )
        values = {
            "loss": window.loss / max(window.answers, 1.0),
            "learning_rate": float(rate),
            "grad_norm": window.norm,
            "tokens": self.tally.tokens,
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
        names = self._name_examples(host.pieces[:NAMED_EXAMPLES])
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
        """Passes over the training part that ``step`` steps make."""
        return step / self._plan.steps_per_epoch


def perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
