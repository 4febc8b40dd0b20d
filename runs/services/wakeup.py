"""Waking attendants when a run waits or has started, so that it does not wait for their next round:
a byte into a named pipe for the one of this host, and on PostgreSQL a notification for those of all
hosts. A wake-up that is lost does no harm: the rounds come anyway."""

import os
import select
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction

from runs.runfolder import names

CHANNEL = "tunixrt_attendants"


def hosts_folder() -> Path:
    """Return the folder of locks, pipes and notes that hosts keep beside the runs;
    ``services.output_root`` makes it."""
    path: Path = settings.TUNIX_OUTPUT_ROOT / names.HOSTS
    return path


def _pipe() -> Path:
    return hosts_folder() / f"{settings.TUNIX_HOST_NAME}.wake"


def wake_attendants() -> None:
    """Wake the attendants of all hosts when the transaction is committed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
    transaction.on_commit(wake_attendant)


def wake_for_import(**kwargs: object) -> None:
    """Wake the attendants: an import waits, or is to be cancelled."""
    wake_attendants()


def wake_attendant() -> None:
    """Wake the attendant of this host. Never block or fail, also when no attendant runs."""
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
    """The attendant's end: of the pipe, and of the notifications of its database connection."""

    def __init__(self) -> None:
        if not _pipe().is_fifo():
            _pipe().unlink(missing_ok=True)
            os.mkfifo(_pipe(), 0o600)
        # read and write: never at its end
        self.descriptor = os.open(_pipe(), os.O_RDWR | os.O_NONBLOCK)
        self._heard_from: Any = None  # the connection that listens

    def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, at most so long; return whether one came."""
        sources = [self.descriptor]
        if connection.vendor == "postgresql":
            try:
                if self._begins_to_listen() or self._take_notifications():
                    return True
                sources.append(self._heard_from.fileno())
            except (OperationalError, InterfaceError):
                connection.close()  # the database is away, as the next round finds out
        ready = select.select(sources, [], [], seconds)[0]
        if self.descriptor in ready:
            os.read(self.descriptor, 4096)
        if sources[1:] and sources[-1] in ready:
            try:
                self._take_notifications()
            except (OperationalError, InterfaceError):
                connection.close()
        return bool(ready)

    def _begins_to_listen(self) -> bool:
        """Listen for notifications. True for a new connection: what came before was not heard, so
        there may be something."""
        connection.ensure_connection()
        if self._heard_from is connection.connection:
            return False
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        self._heard_from = connection.connection
        return True

    def _take_notifications(self) -> bool:
        """Take the notifications that have come, be it in the middle of a query; return whether
        there were any."""
        with connection.wrap_database_errors:
            return bool(list(self._heard_from.notifies(timeout=0)))

    def close(self) -> None:
        os.close(self.descriptor)
