"""The folders of imports, in the output root: ``.imports/<id>/`` with the source (an upload, or
files of the Hub), the staging, the lines that were left out, the output of the process, and a lock.

Who holds the lock works on the import: a process of its own, or a request. An import under way
whose lock is free was interrupted.
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from tunixrt.refusals import Busy

SOURCE = "source"
HUB = "hub"
STAGING = "staging.sqlite3"
GROUPED = "grouped.sqlite3"
SKIPPED = "skipped.jsonl"
LOG = "log"
_LOCK = "lock"
_FREE_BYTES = 16 * 2**20  # below it nothing is begun

# What says why the output root cannot be used; `runs` adds its check of the root's marker.
root_checks: list[Callable[[], str | None]] = []


def imports_folder() -> Path:
    root: Path = settings.TUNIX_OUTPUT_ROOT
    return root / ".imports"


def folder_of(import_id: uuid.UUID) -> Path:
    return imports_folder() / str(import_id)


def make_folder(import_id: uuid.UUID) -> Path:
    """Make the folder of an import. Raise Busy where the output root cannot be used, OSError."""
    for check in root_checks:
        if problem := check():
            raise Busy(problem)
    folder = folder_of(import_id)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def remove_folder(import_id: uuid.UUID, *, keep: tuple[str, ...] = ()) -> None:
    """Remove the folder of an import, or all of it but the files ``keep``."""
    folder = folder_of(import_id)
    if not any((folder / name).exists() for name in keep):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in os.scandir(folder):
        if entry.name not in keep:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def try_lock(import_id: uuid.UUID) -> int | None:
    """Return the descriptor that holds the lock of an import, or None while another process holds
    it. Raise OSError where there is no folder."""
    descriptor = os.open(folder_of(import_id) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
