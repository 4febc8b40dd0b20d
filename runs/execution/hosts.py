"""The host of this process and the others: which keepers run here, and which hosts are silent.

Several hosts share one database and one output root. A host is judged lost only after one observer
saw no heartbeat for TUNIX_HOST_LOST_SECONDS without a break, by its own clock and with the database
there all the while.
"""

import logging
import os
import time
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from runs.execution.engines import engine_for
from runs.execution.homecoming import bring_home
from runs.execution.local import keepers_folder
from runs.execution.outcome import read_end
from runs.lifecycle import TransitionRefused
from runs.models import EXECUTING, Host, Run, RunEvent
from runs.runfolder import files, leftovers, names, records
from runs.services import finishing, reservations
from runs.services.output_root import is_missing, root_away
from tunixrt.compiled import Finder

logger = logging.getLogger("tunixrt.hosts")

KILL_SECONDS = 2.0
_hosts = Finder(Host, "name", "")


def this_host() -> Host:
    """Return the row of this host; make it if it is missing. Read it each time: a remembered row
    would outlive a deletion, and nothing could be claimed for it any more."""
    name = settings.TUNIX_HOST_NAME
    return (
        _hosts.find(name)
        or Host.objects.get_or_create(name=name, defaults={"slots": settings.TUNIX_SLOTS})[0]
    )


# --- keepers of this host -------------------------------------------------------------------------


def stop_taken_away() -> None:
    """Stop the keepers of runs that are ours no longer: judged lost while we were away, and perhaps
    retried elsewhere."""
    if root_away():
        return
    noted = {entry.name: entry for entry in keepers_folder().iterdir()}
    _adopt()
    ours = (
        Run.objects.executing()
        .filter(Q(host=this_host()) | Q(host=None), pk__in=list(noted))
        .values_list("pk", flat=True)
    )
    for run_id in noted.keys() - {str(pk) for pk in ours}:
        folder = noted[run_id].read_text()  # empty: the disk was full, and nothing has been started
        if not folder or _is_stopped(Path(folder), run_id):
            noted[run_id].unlink(missing_ok=True)


def _is_stopped(folder: Path, run_id: str) -> bool:
    """Stop all processes of a run; return False if that has to be retried."""
    if not folder.is_dir():
        return is_missing(folder)  # then its keeper has ended by itself
    lock = files.try_lock(folder / names.LOCK)
    if lock is None:
        # another run may have the folder by now: this one was deleted, and the folder is free for
        # the next who asks for it
        its_own = (records.read_keeper(folder) or {}).get("run_id") == run_id
        if its_own and read_end(folder) is None:
            records.request_stop(
                folder, "cancel", "attendant: the run was taken away from this host"
            )
        return False
    try:
        # no keeper saw to it that nothing is left
        if (read_end(folder) or {}).get("reason", "lost") == "lost":
            leftovers.kill_leftovers(folder, run_id, timeout=KILL_SECONDS)
        records.withdraw_late_stop(folder)
    except leftovers.StillAlive as error:
        logger.warning("run %s was taken away: %s", run_id, error)
        return False
    finally:
        os.close(lock)
    return True


def _adopt() -> None:
    """Take charge of executing runs whose host was deleted from the table."""
    for run in Run.objects.executing().filter(host=None, supervised=True):
        if engine_for(run).adopt(str(run.pk), reservations.run_folder(run)):
            Run.objects.filter(pk=run.pk, host=None).update(host=this_host())


# --- the others -----------------------------------------------------------------------------------


class Observer:
    """Watches the heartbeats of the other hosts. After ``broken()`` (the database was away) nothing
    counts that came before."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[datetime | None, float]] = {}

    def broken(self) -> None:
        self._seen.clear()

    def observe(self) -> None:
        # the locks on it are what tells a dead host from one whose attendant is dead
        if root_away():
            self._seen.clear()
            return
        now = time.monotonic()
        executing = Run.objects.filter(status__in=EXECUTING, host__isnull=False)
        for host in Host.objects.exclude(name=settings.TUNIX_HOST_NAME).filter(
            pk__in=executing.values("host")
        ):
            beat, since = self._seen.get(host.pk, (None, now))
            if host.pk not in self._seen or beat != host.heartbeat_at:
                self._seen[host.pk] = (host.heartbeat_at, now)
                continue
            silence = now - since
            if silence >= settings.TUNIX_HOST_LOST_SECONDS:
                self._judge_lost(host, silence)
            elif silence >= settings.TUNIX_HOST_SILENT_SECONDS and host.silent_since is None:
                self._mark_silent(host)

    @staticmethod
    def _mark_silent(host: Host) -> None:
        since = host.heartbeat_at or timezone.now()
        if Host.objects.filter(pk=host.pk, silent_since=None).update(silent_since=since) != 1:
            return  # another observer said it
        reason = (
            f"host {host.name} not heard since {since:%Y-%m-%d %H:%M:%S} UTC; the run may"
            " still be executing"
        )
        logger.warning(reason)
        RunEvent.objects.bulk_create(
            RunEvent(run=run, reason=reason, by=settings.TUNIX_HOST_NAME, at=timezone.now())
            for run in Run.objects.executing_on(host)
        )

    @staticmethod
    def _judge_lost(host: Host, silence: float) -> None:
        # any host answers the others
        for run in Run.objects.executing_on(host).filter(supervised=True):
            folder = reservations.run_folder(run)
            missing = is_missing(folder)
            lock = None if missing else files.try_lock(folder / names.LOCK)
            if lock is None and not missing:
                # its keeper holds the lock on the shared root: alive, whatever its attendant does
                continue
            reason = f"Host {host.name} was lost: nothing was heard of it for {silence:.0f} s."
            try:
                if lock is None:
                    finishing.finish_run(
                        run=run,
                        status="failed",
                        reason=reason,
                        by=settings.TUNIX_HOST_NAME,
                        lost=True,
                    )
                    continue
                if read_end(folder) is None:
                    records.write_lost_exit(folder, str(run.run_id), reason)
                # with the output and the measurements that it left
                bring_home(run, by=settings.TUNIX_HOST_NAME)
            except TransitionRefused as refused:
                logger.info("run %s: %s", run.run_id, refused)
            finally:
                if lock is not None:
                    os.close(lock)
