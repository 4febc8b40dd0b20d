"""Run a side as a process and note when its steps were done, how much processor time they took, and
its largest memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.1


@dataclass
class Trial:
    """One process of a side, from its start to its end. ``steps``: ``(seconds since its start,
    tokens that carry information or None)``."""

    side: str
    steps: list[tuple[float, int | None]] = field(default_factory=list)
    # samples: seconds since the start, seconds of all cores
    processor: list[tuple[float, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def sentence(self, warm: int) -> str:
        took = self.steps[-1][0] - self.steps[warm - 1][0]
        return (
            f"{self.side}: first step after {self.steps[0][0]:.1f} s, then"
            f" {took / (len(self.steps) - warm):.2f} s a step, {self.peak_bytes / 2**30:.2f} GiB"
        )

    def processor_seconds(self, start: float, end: float) -> float:
        """Return the processor time of all cores between two moments, interpolated."""
        times, used = zip(*self.processor, strict=True)
        return float(np.interp(end, times, used) - np.interp(start, times, used))


def watch(
    side: str, command: list[Any], folder: Path, environment: dict[str, str], file: Path
) -> Trial:
    """Run ``command`` in ``folder`` until it ends; ``file`` is where it writes its steps, a JSON
    object a line."""
    trial = Trial(side)
    with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as errors:
        began, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, env=environment, stdout=out, stderr=errors
        )
        while True:
            # Read before it is reaped: afterwards its counters are gone.
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            fields = (
                Path(f"/proc/{process.pid}/stat")
                .read_text(encoding="utf-8")
                .rpartition(")")[2]
                .split()
            )
            trial.processor.append(
                (time.monotonic() - clock, (int(fields[11]) + int(fields[12])) / TICKS)
            )
            time.sleep(INTERVAL)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = (folder / "stderr.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        sys.exit(f"bench-train: {side} ended with {process.returncode}:\n{tail}")
    trial.peak_bytes = usage.ru_maxrss * 1024  # the same counter as VmHWM
    total = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        values = record.get("values", record)
        if "loss" not in values and "tokens" not in values:
            continue  # our trainer's plan
        tokens = values.get("tokens")
        if tokens is not None and "values" in record:
            tokens, total = tokens - total, tokens  # ours counts from the beginning
        trial.steps.append((record["time"] - began, tokens))
    return trial
