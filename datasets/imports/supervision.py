"""Processes of imports, for the attendant of a host: start pending imports, and interrupted ones;
and the process that indexes the words of what they stored.

A process holds the lock of its import, which the attendant takes and hands to it: there is no
moment at which a second one could start. It outlives the attendant.
"""

import contextlib
import logging
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from datasets.files import folders
from datasets.imports.importing import abandon_without_folder, remove_old_drafts
from datasets.models import UNDER_WAY, Import, ImportState
from datasets.storage.word_index import ready_backlogs

logger = logging.getLogger("tunixrt.imports")

MANAGE = Path(settings.BASE_DIR) / "manage.py"
LEFTOVER_SECONDS = 3600.0
AGAIN_SECONDS = 60.0  # until words are indexed again, after a process that failed


class Supervisor:
    """Looks after the imports that this host works on."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def attend(self) -> int:
        """Start processes while there are places (TUNIXRT_IMPORTS_AT_ONCE); return how many work
        here."""
        self._processes = [process for process in self._processes if process.poll() is None]
        rows = list(Import.objects.filter(state__in=UNDER_WAY).order_by("created_at"))
        working = 0
        for row in rows:
            try:
                lock = folders.try_lock(row.pk)
            except FileNotFoundError:
                abandon_without_folder(row)
                continue
            except OSError as error:
                logger.warning("import %s cannot be locked: %s", row.pk, error)
                continue
            if lock is None:
                working += row.host == settings.TUNIX_HOST_NAME and not row.in_request
                continue
            try:
                if working < settings.TUNIXRT_IMPORTS_AT_ONCE and self._claim(row):
                    self._start(row.pk, lock)
                    working += 1
            finally:
                os.close(lock)
        return working

    @staticmethod
    def _claim(row: Import) -> bool:
        """Return whether this host works on the import now. Only the holder of its lock changes
        it."""
        now = timezone.now()
        return (
            Import.objects.filter(pk=row.pk, state__in=UNDER_WAY).update(
                state=ImportState.RUNNING,
                host=settings.TUNIX_HOST_NAME,
                attempts=F("attempts") + 1,
                started_at=row.started_at or now,
            )
            == 1
        )

    def _start(self, import_id: uuid.UUID, lock: int) -> None:
        folder = folders.folder_of(import_id)
        with (folder / folders.LOG).open("wb") as log:  # what ended the last process counts
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(MANAGE), "work_on_import", str(import_id)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            )


class WordIndexing:
    """Keeps a process at work on the backlog of words (datasets/storage/word_index.py). A second
    one, of another host, does no harm."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0

    def keep(self) -> None:
        """Start a process if there is work and none is at work."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            if self._process.returncode:
                self._due = time.monotonic() + AGAIN_SECONDS
            self._process = None
        if time.monotonic() >= self._due and ready_backlogs().exists():
            self._process = subprocess.Popen(
                [sys.executable, str(MANAGE), "index_words"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )


def remove_leftovers() -> None:
    """Remove drafts that are old, and folders without a row, as a server leaves behind that was
    killed while it read."""
    remove_old_drafts()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folders.imports_folder()):
            try:
                import_id = uuid.UUID(entry.name)
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < LEFTOVER_SECONDS:
                    continue
                if Import.objects.filter(pk=import_id).exists():
                    continue
                lock = folders.try_lock(import_id)
            except (ValueError, OSError):
                continue
            if lock is not None:
                folders.remove_folder(import_id)
                os.close(lock)
