"""A user who tidies up: deletes runs, those first that a retry resumes from, empties the trash,
and now and then deletes files.

Runs that are permanently deleted are remembered as they were, for the proof.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection

from benchmarks.chaos.house import ROOT, House, ask
from benchmarks.chaos.load import Load
from benchmarks.chaos.monkey import Deed, Monkey
from runs.runfolder import names
from runs.runfolder.checkpoints import complete_steps

RETENTION_SECONDS = (
    20.0  # between two runs of the command, which takes a second of a processor to come up
)
KEPT = 150  # runs that the command keeps


@dataclass
class Removal:
    """Checkpoints or a whole run that went away between two moments; ``outcome``: purged, refused,
    unknown, lost (files were removed)."""

    run_id: str
    began: float
    ended: float
    outcome: str


def is_extension(run: Any) -> bool:
    """Return whether it is an extension, not a retry of one, which has a parent of its own."""
    return run.extend_from_step is not None and run.attempt == 1


class Sweeper:
    def __init__(self, house: House, load: Load, monkey: Monkey, seed: int):
        self.house, self.load, self.monkey = house, load, monkey
        self.random = random.Random(seed * 41 + 11)
        self.removals: list[Removal] = []
        self.seen: dict[str, Any] = {}  # runs in the trash, by id, as they were before a purge
        # of retries, by id: a purge takes the parent's name from their rows
        self.parents: dict[str, str] = {}
        # whose checkpoints a run was to resume from; a purge names the one before instead
        self.sources: dict[str, str] = {}
        self.extended: dict[str, str] = {}  # the same of extensions
        # the steps of their checkpoints, as they were before a removal
        self.saved: dict[str, list[int]] = {}
        self._retention_due = time.monotonic() + RETENTION_SECONDS / 2
        self._thread = threading.Thread(target=self._run, name="sweeper")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop. Call ``load.stop()`` before: both end by the same event."""
        self._thread.join()

    def _run(self) -> None:
        while not self.load.stopping.wait(self.random.uniform(0.2, 1.2)):
            self._delete()
            with self.load.deleting:  # what is in the trash is what has been seen there
                self._look()
                if time.monotonic() >= self._retention_due:
                    self._retention_due = time.monotonic() + RETENTION_SECONDS
                    self._prune()
                else:
                    self._purge()
            if self.random.random() < 0.03:
                self._lose_checkpoints()
        connection.close()

    def _look(self) -> None:
        for run in ask(self.house.tables.runs_in_trash, patience=600):
            self.seen[str(run.pk)] = run
            self.saved.setdefault(
                str(run.pk),
                complete_steps(self.house.output_root / run.output_dir / names.CHECKPOINTS),
            )
            self.parents |= {str(retry.pk): str(run.pk) for retry in run.retries.all()}
            for heir in run.heirs.all():
                self.sources.setdefault(str(heir.pk), str(run.pk))
                if is_extension(heir):
                    self.extended.setdefault(str(heir.pk), str(run.pk))

    def _delete(self) -> None:
        needed = (
            ask(self.house.tables.forebears_of_active, patience=600)
            if self.random.random() < 0.6
            else []
        )
        if pool := needed or self.load.known:
            self.load.delete(self.random.choice(pool))

    def _purge(self) -> None:
        there = [run_id for run_id in self.seen if not self._is_gone(run_id)]
        if not there:
            return
        run_id = self.random.choice(there)
        began = time.time()
        outcome = self.house.tables.purge(run_id)
        self.removals.append(Removal(run_id, began, time.time(), outcome))

    def _is_gone(self, run_id: str) -> bool:
        return any(
            removal.run_id == run_id and removal.outcome == "purged" for removal in self.removals
        )

    def _prune(self) -> None:
        """Run the command of an operator or a cron job; half of the times it is killed while it
        runs."""
        began = time.time()
        command = [sys.executable, "manage.py", "prune_runs", "--empty-trash", "--keep", str(KEPT)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.house.environment("alpha", "retention"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deed = Deed(began, "retention", "manage.py prune_runs")
        try:
            process.wait(self.random.uniform(0.5, 4) if self.random.random() < 0.5 else 60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            deed.kills, deed.what = 1, f"{deed.what}, killed"
        deed.until = time.time()
        self.monkey.deeds.append(deed)
        self.removals += [
            Removal(run_id, began, deed.until, "unknown")
            for run_id in self.seen
            if not self._is_gone(run_id)
        ]

    def _lose_checkpoints(self) -> None:
        """Remove checkpoints that a waiting retry was to resume from. It must say so, not begin
        from scratch."""
        pool = ask(self.house.tables.sources_of_pending, patience=600)
        if not pool:
            return
        run_id, folder = self.random.choice(pool)
        checkpoints = Path(folder) / names.CHECKPOINTS
        self.saved.setdefault(run_id, complete_steps(checkpoints))
        began = time.time()
        shutil.rmtree(checkpoints, ignore_errors=True)
        self.removals.append(Removal(run_id, began, time.time(), "lost"))
        self.monkey.deeds.append(
            Deed(began, "checkpoints removed by hand", run_id, until=time.time())
        )
