"""Wall and processor time of a call. Standard library only: all sides use it."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return result, {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }


def report(outputs: list[list[int]], took: dict[str, float], warm: dict[str, float]) -> None:
    """Print what a side has measured."""
    facts = {
        "outputs": outputs,
        **took,
        "first_seconds": warm["seconds"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    json.dump(facts, sys.stdout)
