"""Checkpoints: what a training needs to resume, written asynchronously and atomically by
google-tunix's manager (orbax).

``checkpoints/<step>/`` appears whole or not at all (written under a temporary name, then renamed).
``checkpoints/identity.json`` says to which training they belong; checkpoints of another model or
another order of the data are refused by name. Which ones are complete is decided in
``runs.runfolder.checkpoints``, for the server as well.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from flax import nnx
from tunix.sft import checkpoint_manager

from runs.runfolder.checkpoints import IDENTITY, complete_steps, first_difference, read_identity
from runs.trainer.errors import StorageError, TrainerError, explain, shortened
from runs.trainer.reporting.metrics import say, write_json


class Retention:
    """orbax's preservation policy: the newest N, and besides the M with the lowest held-out
    loss."""

    def __init__(self, *, last: int, best: int):
        self._last, self._best = last, best
        self.eval_losses: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        kept = set(sorted(steps)[-self._last :]) | set(self.best(steps))
        return [step in kept for step in steps]

    def best(self, steps: Sequence[int]) -> list[int]:
        """Return steps with the lowest held-out loss, lowest first; at equal losses the earlier."""
        measured = sorted(
            (self.eval_losses[step], step) for step in steps if step in self.eval_losses
        )
        return [step for _, step in measured[: self._best]]

    def is_among_best(self, loss: float, steps: Sequence[int]) -> bool:
        best = self.best(steps)
        return self._best > 0 and (len(best) < self._best or loss < self.eval_losses[best[-1]])


class Checkpoints(checkpoint_manager.CheckpointManager):
    """The checkpoints of one run folder.

    ``identity`` describes the training; every value of it must be equal for a checkpoint to be
    used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: dict[str, Any],
        keep_last: int,
        keep_best: int,
        read_only: bool = False,
    ):
        """Open the folder. Raise StorageError if it cannot be used, or holds checkpoints of another
        training."""
        self.folder = folder.absolute()
        self.retention = Retention(last=keep_last, best=keep_best)
        self._unreadable: set[int] = set()
        self._writing: int | None = None  # the step whose checkpoint is being written
        check_identity(self.folder, identity)
        _quiet()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.retention,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            if not read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            super().__init__(root_directory=str(self.folder), options=options)
            if not read_only:
                self._remove_incomplete()
            if not read_only and not self.steps():
                write_json(self.folder / IDENTITY, identity)
        except OSError as error:
            raise StorageError(
                f"cannot write checkpoints to {folder}: {error.strerror or error}"
            ) from error
        self._read_eval_losses()

    @property
    def manager(self) -> ocp.CheckpointManager:
        assert self._checkpoint_manager is not None
        return self._checkpoint_manager

    def steps(self) -> list[int]:
        """Return steps that have a checkpoint, complete or still being written."""
        return sorted(self.manager.all_steps())

    def save_now(
        self,
        step: int,
        model: nnx.Module,
        optimizer: nnx.Optimizer,
        *,
        lora: bool,
        state: dict[str, Any],
        eval_loss: float | None,
    ) -> None:
        """Save in the background; return when the weights may change again. ``state`` comes back
        from ``restore``.

        Raises:
            StorageError: this checkpoint, or the one before it, could not be written.
        """
        if step in self.steps():
            if step not in self._unreadable:
                return
            self.manager.delete(step)
        if eval_loss is not None:
            self.retention.eval_losses[step] = eval_loss
        self.finish()  # so that an error names the checkpoint that it is of
        metadata = {**state, "eval_loss": eval_loss, "saved_at": time.time()}
        self._writing = step
        try:
            self.save(
                step,
                model,
                optimizer,
                save_only_lora_params=lora,
                force=True,
                custom_metadata=metadata,
            )
        except Exception as error:
            raise self._cannot_write(error) from error

    def finish(self) -> None:
        """Wait until everything is on the disk. Raise StorageError."""
        try:
            self.manager.wait_until_finished()
            self.manager.check_for_errors()
        except Exception as error:
            raise self._cannot_write(error) from error
        self._writing = None

    def restore(
        self, model: nnx.Module, optimizer: nnx.Optimizer, *, lora: bool
    ) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest complete checkpoint into ``model`` and ``optimizer``: its step and
        ``state``; None: there is none.

        One that cannot be read (a damaged disk) is skipped with a sentence, for the one before it.

        Raises:
            StorageError: there are checkpoints, and none can be read.
        """
        failure: Exception | None = None
        for step in reversed(complete_steps(self.folder)):
            try:
                found, state = self.maybe_restore(
                    model, optimizer, step=step, restore_only_lora_params=lora
                )
                return found, dict(state)
            except Exception as error:  # tensorstore and orbax raise what they like
                if (known := explain(error)) is not None and not isinstance(known, StorageError):
                    raise
                failure = error
                self._unreadable.add(step)
                say(
                    f"The checkpoint of step {step} cannot be read and is passed over:"
                    f" {self._short(error)}"
                )
        if failure is None:
            return None
        raise StorageError(
            f"no checkpoint in {self.folder} can be read ({self._short(failure)}); move the folder"
            " away to start over"
        ) from failure

    def restore_weights(self, model: nnx.Module, step: int, *, lora: bool) -> None:
        """Restore the weights that the checkpoint of ``step`` has into ``model``.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            self.maybe_restore(model, step=step, restore_only_lora_params=lora)
        except Exception as error:  # tensorstore and orbax raise what they like
            if (known := explain(error)) is not None and not isinstance(known, StorageError):
                raise
            raise StorageError(
                f"the checkpoint of step {step} in {self.folder} cannot be read:"
                f" {self._short(error)}"
            ) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, and wait for what is still being written. An error that is on its way already goes
        first."""
        try:
            self.close()
        except Exception as error:
            if kind is None:
                raise self._cannot_write(error) from error

    def _remove_incomplete(self) -> None:
        """Make room for what a damaged disk or a person has left of a checkpoint: its step is to be
        saved again."""
        for step in set(self.steps()) - set(complete_steps(self.folder)):
            self.manager.delete(step)

    def _read_eval_losses(self) -> None:
        for step in self.steps():
            try:
                loss = (self.manager.metadata(step).custom_metadata or {}).get("eval_loss")
            except Exception:  # noqa: BLE001 - a damaged checkpoint, which `restore` will name
                continue
            if loss is not None:
                self.retention.eval_losses[step] = loss

    def _cannot_write(self, error: Exception) -> TrainerError:
        known = explain(error)
        what = (
            "a checkpoint" if self._writing is None else f"the checkpoint of step {self._writing}"
        )
        reason = self._short(error) if known is None else str(known)
        return StorageError(f"{what} could not be written to {self.folder}: {reason}")

    def _short(self, error: BaseException) -> str:
        """Return what a library says, with paths that start in the run folder (the real ones may
        lead through a descriptor)."""
        text = str(error).replace(str(self.folder), self.folder.name)
        return shortened(text) or type(error).__name__


def check_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder whose checkpoints are of another training. Raise StorageError, naming the
    first difference."""
    if not complete_steps(folder):
        return
    found = read_identity(folder)
    if found is None:
        raise StorageError(
            f"{folder} holds checkpoints without a readable {IDENTITY}: this program did not write"
            " them; choose another folder"
        )
    if name := first_difference(found, identity):
        raise StorageError(
            f"the checkpoints in {folder} are of another training: {name} is {found.get(name)!r}"
            f" there and {identity[name]!r} here; correct the manifest, or choose another folder"
        )


def _quiet() -> None:
    """Keep orbax's own words off stderr; its failures reach us as exceptions as well.

    It reports every file at INFO, retried ones at WARNING and failures at ERROR, each several times
    with its traceback. After a failure it closes the event loop of a write, and tensorstore's
    threads cannot report the other parts to that loop any more.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _print_unless_loop_is_closed


def _print_unless_loop_is_closed(problem: sys.UnraisableHookArgs) -> None:
    if str(problem.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(problem)
