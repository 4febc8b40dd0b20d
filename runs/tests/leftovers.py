"""Runs with files, for the tests of what reads them: rows and real folders, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from runs.models import Run, RunStatus
from runs.services.measurements import take_in_metrics
from runs.services.reservations import run_folder
from runs.spec.kinds import SFT
from runs.tests.checkpoint_layout import leave_checkpoints


def make_run(
    owner: User,
    *,
    status: str = RunStatus.RUNNING,
    files: dict[str, bytes] | None = None,
    **fields: Any,
) -> Run:
    """A run as the database would have it in that status, and its folder with ``files`` in it."""
    now = timezone.now()
    ended = status in (
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.TIMEOUT,
        RunStatus.CANCELLED,
    )
    run = Run(
        dataset_key="adding-v1",
        model_id="preset:tiny-llama",
        dry_run=False,
        status=status,
        owner=owner,
        created_at=now,
        started_at=None if status == RunStatus.PENDING else now,
        completed_at=now if ended else None,
        exit_code=0 if status == RunStatus.COMPLETED else None,
    )
    for name, value in fields.items():
        setattr(run, name, value)
    run.output_dir = run.output_dir or str(run.run_id)
    run.save(force_insert=True)
    folder = run_folder(run)
    folder.mkdir(parents=True)
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return run


def training_of(run: Run) -> dict[str, Any]:
    """The training parameters of a run."""
    return {
        name: run.config.get(name, parameter.default) for name, parameter in SFT.parameters.items()
    }


def leave_checkpoints_of(run: Run, *steps: int) -> None:
    """In the folder of ``run``: what its training has left if it saved after each of ``steps``."""
    leave_checkpoints(run_folder(run), *steps, model_id=run.model_id, training=training_of(run))


def measured(step: int, *, time: float | None = None, **values: Any) -> bytes:
    """A line of metrics.jsonl."""
    line = {
        "time": float(step) if time is None else time,
        "step": step,
        "epoch": step / 10,
        "values": values,
    }
    return json.dumps(line).encode() + b"\n"


def take_in(run: Run, *lines: bytes) -> None:
    """Write lines to metrics.jsonl and bring them home as the attendant does."""
    folder: Path = run_folder(run)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"".join(lines))
    take_in_metrics(run, folder)
