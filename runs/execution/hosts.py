"""This host and the others: whose output root it is, which keepers run here, and who has not been heard of.

Several hosts share one database and one output root. A host is judged lost only after one observer saw no heartbeat for
TUNIX_HOST_LOST_SECONDS without a break, by its own clock and with the database there all the while.
"""

import logging
import os
import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from runs import folder as run_folders
from runs import services
from runs.execution.homecoming import bring_home
from runs.execution.outcome import read_end
from runs.lifecycle import TransitionRefused
from runs.models import EXECUTING, Host, OutputRoot, Run, RunEvent, RunMode
from runs.wakeup import hosts_folder

logger = logging.getLogger("tunixrt.hosts")

ROOT_ID = "root_id"
ROOT_FREE_BYTES = 16 * 2**20
KILL_SECONDS = 2.0


def this_host() -> Host:
    """The row of this host, made if it is not there. Read each time: remembered, it would outlive a deletion, and nothing could
    be claimed for it any more."""
    return Host.objects.get_or_create(name=settings.TUNIX_HOST_NAME, defaults={"slots": settings.TUNIX_SLOTS})[0]


# --- the output root --------------------------------------------------------------------------------------------------

_root_checked: dict[str, float] = {}
_ROOT_SECONDS = 10.0


def root_problem() -> str | None:
    """Why this host must not claim runs: its output root is full, or not the one that the database knows. None: all is well."""
    key = str(settings.TUNIX_OUTPUT_ROOT)
    if problem := _space_problem():
        return problem
    if time.monotonic() - _root_checked.get(key, -_ROOT_SECONDS) < _ROOT_SECONDS:
        return None
    known = OutputRoot.objects.first() or OutputRoot.objects.get_or_create(single=True)[0]
    found: str | None
    try:
        marker = hosts_folder() / ROOT_ID
        if not marker.exists() and not Run.objects.filter(mode=RunMode.LOCAL, host__isnull=False).exists():
            run_folders.create_json_once(marker, {"id": str(known.id)})
        found = (run_folders.read_json(marker) or {}).get("id")
    except OSError as error:
        return f"The output root {key} cannot be used: {error.strerror or error}. Check its disk and permissions."
    except run_folders.BrokenFile:
        found = "nothing that can be read"
    if found != str(known.id):
        return (
            f"The output root {key} is not this database's: its marker {ROOT_ID} says {found}, the database {known.id}."
            " Mount the shared output root here, or set TUNIX_OUTPUT_ROOT. (A root moved on purpose takes the marker along.)"
        )
    _root_checked[key] = time.monotonic()
    return None


def _space_problem() -> str | None:
    """A full disk would fail every run that waits, one after the other, within seconds; so they go on waiting."""
    try:
        found = os.statvfs(hosts_folder())
    except OSError as error:
        root = settings.TUNIX_OUTPUT_ROOT
        return f"The output root {root} cannot be used: {error.strerror or error}. Check its disk and permissions."
    free = found.f_bavail * found.f_frsize
    if free >= ROOT_FREE_BYTES:
        return None
    return (
        f"The output root {settings.TUNIX_OUTPUT_ROOT} is full: {free // 2**20} MB are free, {ROOT_FREE_BYTES // 2**20} MB are"
        " needed to start a run. Make room; what waits starts by itself then."
    )


# --- keepers of this host ---------------------------------------------------------------------------------------------


def note_keeper(run: Run) -> None:
    """Remember that this host starts a keeper for ``run``, so that it is found even if the run is taken away meanwhile."""
    folder = _keepers_folder()
    (folder / str(run.run_id)).write_text(str(services.run_folder(run)))


def _keepers_folder() -> Path:
    path: Path = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.keepers"
    path.mkdir(exist_ok=True)
    return path


def stop_taken_away() -> None:
    """Stop the keepers of runs that are ours no longer: judged lost while we were away, and perhaps retried elsewhere."""
    noted = {entry.name: entry for entry in _keepers_folder().iterdir()}
    _adopt(noted)
    ours = Run.objects.executing().filter(Q(host=this_host()) | Q(host=None), pk__in=list(noted)).values_list("pk", flat=True)
    for run_id in noted.keys() - {str(pk) for pk in ours}:
        note = noted[run_id]
        path = Path(note.read_text() or note)  # empty: the disk was full, and nothing has been started
        lock = run_folders.try_lock(path / run_folders.LOCK) if path.is_dir() else None
        if lock is not None:
            try:
                if (read_end(path) or {}).get("reason", "lost") == "lost":  # no keeper saw to it that nothing is left
                    run_folders.kill_leftovers(path, run_id, timeout=KILL_SECONDS)
                run_folders.withdraw_late_stop(path)
            except run_folders.StillAlive as error:
                logger.warning("run %s was taken away: %s", run_id, error)
                continue
            finally:
                os.close(lock)
        elif path.is_dir():
            # another run may have the folder by now: this one was deleted, and the folder is free for the next who asks for it
            its_own = (run_folders.read_keeper(path) or {}).get("run_id") == run_id
            if its_own and read_end(path) is None:
                run_folders.request_stop(path, "cancel", "attendant: the run was taken away from this host")
            continue
        note.unlink(missing_ok=True)


def _adopt(noted: Collection[str]) -> None:
    """Executing runs whose host was deleted from the table: ours if we started them; else, if they have no keeper, anybody's."""
    for run in Run.objects.executing().filter(host=None, supervised=True):
        folder = services.run_folder(run)
        lock = None if str(run.pk) in noted or not folder.is_dir() else run_folders.try_lock(folder / run_folders.LOCK)
        if str(run.pk) in noted or lock is not None or not folder.is_dir():
            Run.objects.filter(pk=run.pk, host=None).update(host=this_host())
        if lock is not None:
            os.close(lock)


# --- the others -------------------------------------------------------------------------------------------------------


class Observer:
    """Watches the heartbeats of the other hosts. After ``broken()`` (the database was away) nothing counts that came before."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[datetime | None, float]] = {}

    def broken(self) -> None:
        self._seen.clear()

    def observe(self) -> None:
        now = time.monotonic()
        executing = Run.objects.filter(status__in=EXECUTING, host__isnull=False)
        for host in Host.objects.exclude(pk=this_host().pk).filter(pk__in=executing.values("host")):
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
        reason = f"host {host.name} not heard since {since:%Y-%m-%d %H:%M:%S} UTC; the run may well go on"
        logger.warning(reason)
        RunEvent.objects.bulk_create(
            RunEvent(run=run, reason=reason, by=settings.TUNIX_HOST_NAME, at=timezone.now())
            for run in Run.objects.executing_on(host)
        )

    @staticmethod
    def _judge_lost(host: Host, silence: float) -> None:
        for run in Run.objects.executing_on(host).filter(supervised=True):  # any host answers the others
            folder = services.run_folder(run)
            lock = run_folders.try_lock(folder / run_folders.LOCK) if folder.is_dir() else None
            if lock is None and folder.is_dir():
                continue  # its keeper holds the lock on the shared root: alive, whatever its attendant does
            reason = f"Host {host.name} was lost: nothing was heard of it for {silence:.0f} s."
            try:
                if lock is None:
                    services.finish_run(run=run, status="failed", reason=reason, by=settings.TUNIX_HOST_NAME, lost=True)
                    continue
                if read_end(folder) is None:
                    run_folders.write_lost_exit(folder, str(run.run_id), reason)
                bring_home(run, by=settings.TUNIX_HOST_NAME)  # with the output and the measurements that it left
            except TransitionRefused as refused:
                logger.info("run %s: %s", run.run_id, refused)
            finally:
                if lock is not None:
                    os.close(lock)
