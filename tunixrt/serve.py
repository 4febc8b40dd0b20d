"""What ``make serve`` runs: honcho, which starts what the Procfile names, for as long as the
terminal is there.

When a terminal goes away, the kernel tells the first process of its session only: a shell, which
tells its jobs, or ``make`` itself (``ssh -t host make serve``), which reports it to no process. And
honcho gives its programs sessions of their own, so that they are not told at all: they end with
their parent (``--end-with``)."""

import os
import select
import signal
import sys
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from honcho import manager
from honcho.command import main as honcho

from runs.execution import stopping
from tunixrt.parent import end_with

# of the attendant, after the trainings: recording their ends, stopping its task workers
MARGIN_SECONDS = 10.0


def main() -> None:
    if sys.stdin.isatty():
        _watch(sys.stdin.fileno())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
    try:
        _give_time_to_save()
    except ImproperlyConfigured as error:
        sys.exit(f"error: {error}")
    # the Procfile names programs of this environment
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    sys.argv = ["honcho", "start"]
    honcho()


def _give_time_to_save() -> None:
    """Let the attendant wait for its trainings where they may be killed after its end: honcho kills
    its programs five seconds after it has told them to stop. Raise ImproperlyConfigured."""
    if stopping.ends_with_attendant():
        manager.KILL_WAIT = stopping.seconds_to_stop() + MARGIN_SECONDS


def _watch(terminal: int) -> None:
    """Start a process that sends SIGHUP to this process group when the terminal is gone."""
    watched = os.getpid()
    if os.fork():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the others
    end_with(watched)
    poll = select.poll()
    poll.register(terminal, 0)  # a hang-up is reported without being asked for
    poll.poll()
    os.killpg(0, signal.SIGHUP)
    os._exit(0)


if __name__ == "__main__":
    main()
