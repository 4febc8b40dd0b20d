"""What a training writes down while it runs: ``metrics.jsonl``, the progress lines on stdout,
``result.json``."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any


def strict(value: Any) -> Any:
    """Return the value with every number that JSON does not know as a string: "NaN", "Infinity",
    "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all: a temporary file in the same folder, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(strict(content), file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, appended and flushed.

    A run that continues after a crash appends; steps since the checkpoint then occur twice, and the
    later line counts.
    """

    def __init__(self, path: Path, *, write: bool = True):
        """Open the file. ``write`` false: of several processes only the first one writes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path if write else os.devnull, "ab", buffering=0)  # noqa: SIM115 - open as long as the training
        if write:
            self._drop_torn_line(path)

    def _drop_torn_line(self, path: Path) -> None:
        """Remove the incomplete line that a kill in the middle of a write leaves, which has not
        been read yet."""
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            self._file.truncate(content.rfind(b"\n") + 1)

    def plan(self, plan: dict[str, Any]) -> None:
        self._write({"plan": plan})

    def values(self, step: int, epoch: float, values: dict[str, float]) -> None:
        self._write({"step": step, "epoch": round(epoch, 6), "values": values})

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps({"time": time.time(), **strict(line)}, allow_nan=False)
        self._file.write(text.encode() + b"\n")

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Progress:
    """Progress as plain lines: ``step 12/375 epoch 0.10 loss 1.234 lr 2.0e-05 1,234 tokens/s eta
    00:01:20``."""

    SECONDS_BETWEEN = 0.5

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._printed_at = 0.0

    def step(
        self, *, step: int, epoch: float, values: dict[str, float], seconds_left: float
    ) -> None:
        now = time.monotonic()
        if step < self._total and now - self._printed_at < self.SECONDS_BETWEEN:
            return
        self._printed_at = now
        print(
            f"step {step}/{self._total} epoch {epoch:.2f} loss {values['loss']:.4g} lr"
            f" {values['learning_rate']:.1e} {values['tokens_per_second']:,.0f} tokens/s eta"
            f" {clock(seconds_left)}",
            flush=True,
        )


def clock(seconds: float) -> str:
    """Return ``HH:MM:SS``."""
    whole = max(0, round(seconds))
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def say(sentence: str) -> None:
    """Print one line on stdout about what the training does or decided."""
    print(sentence, flush=True)
