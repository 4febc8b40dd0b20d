"""Waking this host's attendant: a byte into a named pipe, so that a new run does not wait for the next round. Losing it does no
harm: the rounds come anyway."""

import os
import select
from pathlib import Path

from django.conf import settings

from runs import folder as run_folders


def hosts_folder() -> Path:
    """Where hosts keep what is theirs beside the runs: locks, pipes, notes of their keepers. ``runs.output_root`` makes it."""
    path: Path = settings.TUNIX_OUTPUT_ROOT / run_folders.HOSTS
    return path


def _pipe() -> Path:
    return hosts_folder() / f"{settings.TUNIX_HOST_NAME}.wake"


def wake_attendant() -> None:
    """Never waits, never fails: without an attendant there is nobody to wake."""
    try:
        descriptor = os.open(_pipe(), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.write(descriptor, b"!")
    except OSError:
        pass  # full: it will wake up as it is
    finally:
        os.close(descriptor)


class WakeUp:
    """The attendant's end of the pipe."""

    def __init__(self) -> None:
        if not _pipe().is_fifo():
            _pipe().unlink(missing_ok=True)
            os.mkfifo(_pipe(), 0o600)
        self.descriptor = os.open(_pipe(), os.O_RDWR | os.O_NONBLOCK)  # read and write: never at its end

    def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, at most so long; True if one came."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return False
        os.read(self.descriptor, 4096)
        return True

    def close(self) -> None:
        os.close(self.descriptor)
