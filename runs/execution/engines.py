"""The registry of engines."""

from runs.execution.engine import Engine
from runs.execution.local import LocalEngine
from runs.models import Run

ENGINES: dict[str, Engine] = {"local": LocalEngine()}


def engine_for(run: Run) -> Engine:
    """Return the engine that executes ``run``."""
    return ENGINES[run.engine]
