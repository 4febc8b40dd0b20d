"""The contract of engines: where the keepers of runs are started.

The run folder is the protocol, whatever the engine: its lock says who is alive, and exit.json says
what happened (docs/run-folder.md). An engine only places the keeper, and what it says about a job
is a hint. It may lose replies, forget jobs, lie, or start a job late. A keeper refuses a run that
has, or had, a keeper (keeper.json) or an end (exit.json), so a job that is submitted twice trains
once, and a job that starts after its run has ended trains nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol


class NotPlaced(Exception):
    """The keeper was not started and will not be; the message says why."""


class JobState(Enum):
    """What an engine says about a job."""

    WAITING = "waiting"  # accepted, not started yet
    STARTED = "started"
    UNKNOWN = "unknown"  # no such job, or no reply


@dataclass(frozen=True)
class Job:
    """A keeper to be started.

    Attributes:
        run_id: The key of the job: an engine starts one keeper for a key, however often the job is
            submitted.
        folder: The run folder, with command.json in it.
        environment: All environment variables of the keeper, and so of the training program.
        lock: A descriptor of the locked lock file. An engine that starts the keeper as a child
            hands it over; with any other engine the keeper takes the lock after the caller has
            released it.
    """

    run_id: str
    folder: Path
    environment: Mapping[str, str]
    lock: int


class Engine(Protocol):
    """Where keepers run. Every method may be called again, by any process of any host."""

    def check(self) -> str | None:
        """Return why no run can be submitted right now, in a sentence; None if one can."""

    def submit(self, job: Job) -> JobState:
        """Start the keeper of ``job``; return UNKNOWN if no reply came.

        Raises:
            NotPlaced: nothing was started, and nothing will be.
        """

    def poll(self, run_id: str) -> JobState:
        """Return the state of a job. Called while the run has no keeper."""

    def cancel(self, run_id: str) -> None:
        """Withdraw a job that has not started. A keeper that has started obeys stop.json."""

    def adopt(self, run_id: str, folder: Path) -> bool:
        """Return whether this host can take charge of a run whose host was deleted."""
