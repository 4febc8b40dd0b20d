"""Making a backup while the system runs."""

import errno
import itertools
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from django.conf import settings
from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import User
from django.db import DatabaseError, connection

from runs.backup import archive
from runs.backup.archive import BackupRefused, create, make_folder, require_space
from runs.backup.copying import FolderCopy, copy_folder, opened
from runs.backup.databases import Saved, database_bytes, save_database
from runs.models import ACTIVE, OutputRoot
from runs.runfolder import files
from runs.runfolder.tree import bytes_below
from runs.services.output_root import root_away
from tunixrt.audit import write_log_entry

SAY_SECONDS = 5.0
NAME_SHOWN = 50  # characters of a backup's name in the name that it has while it is written
Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    folder: Path
    runs: int
    files: int
    bytes: int
    warnings: list[str]


class BackupProgress:
    """Says now and then how far it is."""

    def __init__(self, say: Say, what: str, total: int):
        self.say, self.what, self.total = say, what, total
        self.done = 0
        self._due = time.monotonic() + SAY_SECONDS

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + SAY_SECONDS
            self.say(f"{self.what}: {self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB")


def make_backup(*, folder: Path, by: User, how: str, say: Say) -> Made:
    """Write a backup of the running system into ``folder``, which must be new or empty.

    It is written under another name and renamed when it is complete and on the disk, so what has
    the name is a whole backup.

    Raises:
        BackupRefused: nothing is left behind.
    """
    try:
        folder = Path(os.path.abspath(folder))
        _require_place(folder)
        with _partial(folder) as partial:
            if problem := root_away():
                raise BackupRefused(problem)
            made = _fill(partial, say)
            if problem := root_away():  # what was missing may have been missing for that
                raise BackupRefused(problem)
            say("Waiting for the disk")
            os.sync()
            _give_name(partial, folder)
        _sync(folder.parent)
    except OSError as error:
        raise BackupRefused(
            f"The backup cannot be made: {error}. Nothing was left behind."
        ) from error
    except DatabaseError as error:
        raise BackupRefused(
            f"The database does not answer: {error} Nothing was left behind."
        ) from error
    message = f"backup of {made.runs:,} folders of runs, {made.bytes:,} bytes, in {folder}, {how}"
    try:
        root, _ = OutputRoot.objects.get_or_create(single=True)
        write_log_entry(by=by, target=root, name="backup", flag=CHANGE, message=message)
    except DatabaseError as error:
        made.warnings.append(f"the backup is not in the audit log: {error}")
    return replace(made, folder=folder)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, with mode 0700; neither it nor those made for it are
    left, unless used."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), folder.parents))
    partial = None
    try:
        if missing:
            make_folder(folder.parent)
        partial = Path(
            tempfile.mkdtemp(prefix=f".{folder.name[:NAME_SHOWN]}.partial-", dir=folder.parent)
        )
        yield partial
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # it holds the backup
            for path in missing:
                os.rmdir(path)


def _give_name(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise BackupRefused(
                f"Another backup made this folder meanwhile: {folder}. Name a new folder."
            ) from error
        raise


def _require_place(folder: Path) -> None:
    if folder.is_symlink():
        raise BackupRefused(
            f"{folder} is a symbolic link to {os.readlink(folder)}. Name a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise BackupRefused(f"{folder} is a file. Name a new folder.")
    if folder.exists() and any(folder.iterdir()):
        raise BackupRefused(f"{folder} is not empty. Name a new folder.")
    if os.path.ismount(folder):
        raise BackupRefused(f"{folder} is where a file system is mounted. Name a new folder in it.")
    root = settings.TUNIX_OUTPUT_ROOT
    if folder.resolve().is_relative_to(root):
        raise BackupRefused(
            f"{folder} lies in the output root {root}, which is what is backed up. Name a folder"
            " elsewhere."
        )


def _fill(partial: Path, say: Say) -> Made:
    estimate = database_bytes()
    require_space(partial, estimate)
    say(f"Saving the database ({estimate / 1e6:,.0f} MB)")
    name = archive.DATABASES[connection.vendor]
    saved = save_database(partial / name)
    with create(partial / archive.SECRET_KEY) as file:
        file.write(settings.SECRET_KEY.encode())
    say("Measuring the folders of runs")
    folders = {run.folder for run in saved.runs}
    total = sum(bytes_below(settings.TUNIX_OUTPUT_ROOT / folder) for folder in folders)
    require_space(partial, total)
    made = _copy_runs(
        partial, saved, folders, BackupProgress(say, "Copying the folders of runs", total)
    )
    archive.write_manifest(partial, _manifest(partial, name, saved, made))
    return made


def _copy_runs(
    partial: Path, saved: Saved, folders: Collection[str], progress: BackupProgress
) -> Made:
    inside = nested(folders)
    copied: set[str] = set()  # runs of old versions may share one
    file_count = 0
    warnings: list[str] = []
    with create(partial / archive.RUNS) as lines:
        for run in saved.runs:
            copy = None
            if run.folder not in copied:
                copy = _copy_run(
                    run.folder, partial / archive.OUTPUT / run.folder, inside[run.folder], progress
                )
            if copy is not None:
                copied.add(run.folder)
                file_count += len(copy.files)
                warnings += [f"run {run.run_id}: {warning}" for warning in copy.warnings]
            if copy is None and run.status not in ACTIVE:
                continue  # it has no folder
            listed = (
                None
                if copy is None
                else [[file.path, file.size, file.sha256] for file in copy.files]
            )
            line = {
                "run_id": str(run.run_id),
                "status": run.status,
                "folder": run.folder,
                "files": listed,
            }
            lines.write(json.dumps(line).encode() + b"\n")
    return Made(partial, len(copied), file_count, progress.done, warnings)


def _copy_run(
    folder: str, target: Path, others: Collection[str], progress: BackupProgress
) -> FolderCopy | None:
    """Copy the folder of a run; None if it has none: not started yet, removed, or a link in its
    place."""
    try:
        with opened(settings.TUNIX_OUTPUT_ROOT, folder.split("/")) as source:
            return copy_folder(source, target, others=others, progress=progress)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def nested(folders: Collection[str]) -> dict[str, set[str]]:
    """Return folders of runs inside the folder of another run, relative to that one; old versions
    allowed it."""
    inside: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        parts = folder.split("/")
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in folders:
                inside[above].add("/".join(parts[depth:]))
    return inside


def _manifest(partial: Path, database: str, saved: Saved, made: Made) -> dict[str, object]:
    def described(name: str) -> dict[str, object]:
        with archive.open_file(partial, name) as file:
            return {
                "name": name,
                "bytes": os.fstat(file.fileno()).st_size,
                "sha256": archive.hash_file(file),
            }

    return {
        "format": archive.FORMAT,
        "version": archive.version(),
        "made_at": files.timestamp(),
        "host": settings.TUNIX_HOST_NAME,
        "database": described(database) | {"vendor": connection.vendor} | saved.details,
        "secret_key": described(archive.SECRET_KEY),
        "runs": described(archive.RUNS),
        "output": {
            "root_id": saved.root_id,
            "folders": made.runs,
            "files": made.files,
            "bytes": made.bytes,
        },
        "migrations": saved.migrations,
        "counts": saved.counts,
        "warnings": made.warnings,
    }


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
