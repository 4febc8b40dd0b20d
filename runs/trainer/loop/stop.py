"""How a training is asked to stop: ``stop.json`` in the run folder, SIGTERM or SIGINT."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

from runs.trainer.errors import Interrupted


class StopWatch:
    """Remembers that a stop was asked for; the training looks at it at every step boundary.

    ``stop.json`` is the run folder's one stop request (docs/architecture.md); signals serve people
    at a terminal and process managers.
    """

    def __init__(self, folder: Path):
        self._path = folder / "stop.json"
        self._signal: str | None = None

    def install(self) -> None:
        """Catch SIGTERM and SIGINT from now on. Only the main thread may call this."""
        signal.signal(signal.SIGTERM, self._remember)
        signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def reason(self) -> str | None:
        """Return what asked for the stop, in words, or None."""
        if self._signal:
            return self._signal
        return "stop.json" if os.path.exists(self._path) else None

    def check(
        self, when: str = "outside of the training steps; start the run again to continue"
    ) -> None:
        """Raise Interrupted when a stop was asked for. For the times outside of the steps, when
        there is nothing to save."""
        if reason := self.reason():
            raise Interrupted(f"stopped by {reason} {when}")
