"""Which folder of the output root belongs to which run, from the request that reserves it to the
purge that frees it.

Two runs in one folder would resume each other and delete each other's files, and so would one
inside another's. Some file systems take names for the same that differ in case or Unicode form, so
names are compared by ``requests.comparable_name``.
"""

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet

from runs.models import FolderReservation, Run
from runs.runfolder import names
from runs.runfolder.tree import bytes_below, remove_tree
from runs.services.run_requests import InvalidRequest, comparable_name

PURGED = ".purged"
_RESERVING = 0x74756E6978  # PostgreSQL's advisory locks are numbers; this one spells "tunix"


def run_folder(run: Run) -> Path:
    """Return the folder of a run: the one it reserved, or, for a dry run, which reserves nothing,
    one named by its id."""
    name = run.output_dir if not run.dry_run and run.output_dir else str(run.run_id)
    return settings.TUNIX_OUTPUT_ROOT / name


# --- reserving ------------------------------------------------------------------------------------


def reserve_folder(run: Run) -> None:
    """Reserve the folder of ``run``. Must be called in the transaction that stores the run, before
    it is stored.

    Reservations are serialised: by an advisory lock on PostgreSQL, on SQLite because there is one
    writer and every transaction takes the write lock first. So a second request sees the
    reservation of the first or comes before it, never in between.

    Raises:
        InvalidRequest: the folder is, holds, or lies in the folder of another run.
    """
    if not _has_chosen_folder(run):
        return
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # until the transaction ends
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_RESERVING])
    _require_free(run)
    keys = folder_keys(run.output_dir)
    FolderReservation.objects.bulk_create(
        FolderReservation(run=run, key=key, own=key == keys[-1]) for key in keys
    )


def require_free_folder(run: Run) -> None:
    """Raise InvalidRequest if the folder of ``run`` is another run's, or if something is in its
    place on disk."""
    if _has_chosen_folder(run):
        _require_free(run)  # first, since it can name the run
    folder = run_folder(run)
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InvalidRequest({"output_dir": [f"The folder {run.output_dir} is used or not empty."]})


def has_been_run(folder: Path) -> bool:
    """Return whether the folder of a run that has never been claimed holds the beginning or the end
    of another one."""
    return any(os.path.lexists(folder / name) for name in (names.KEEPER, names.EXIT))


def _has_chosen_folder(run: Run) -> bool:
    """Return whether the request named the folder. A request cannot name a folder after a run id,
    so such a folder needs no reservation."""
    return not run.dry_run and run.output_dir != str(run.run_id)


def folder_keys(path: str) -> list[str]:
    """Return a key for each folder on the way to ``path``, itself last. Hashed, since an index
    entry has a limited size."""
    parts = [comparable_name(name) for name in PurePosixPath(path).parts]
    return [
        hashlib.sha256("/".join(parts[: depth + 1]).encode()).hexdigest()
        for depth in range(len(parts))
    ]


def _reservations(run: Run) -> QuerySet[FolderReservation]:
    """Return other runs' reservations of the folder of ``run``, of one above it, or of one below
    it."""
    keys = folder_keys(run.output_dir)
    return (
        FolderReservation.objects.filter(Q(key__in=keys, own=True) | Q(key=keys[-1]))
        .exclude(run=run)
        .select_related("run")
    )


def _require_free(run: Run) -> None:
    if (taken := _reservations(run).first()) is not None:
        raise InvalidRequest({"output_dir": [_taken_by(taken, run)]})


def _taken_by(reservation: FolderReservation, run: Run) -> str:
    other = reservation.run
    if not reservation.own:
        problem = f"The folder {run.output_dir} holds the folder of run {other.run_id}."
    else:
        problem = f"The folder {other.output_dir} belongs to run {other.run_id}."
    ours, theirs = PurePosixPath(run.output_dir).parts, PurePosixPath(other.output_dir).parts
    if any(one != another for one, another in zip(ours, theirs, strict=False)):
        problem += (
            " Names that differ only in case or Unicode form count as the same: some file systems"
            " do not tell them apart."
        )
    return problem


# --- removing -------------------------------------------------------------------------------------


def set_aside(run: Run) -> None:
    """Move the files of ``run`` out of its folder, for ``remove_set_aside`` to delete. Must be
    called in a transaction that has locked the row of ``run``: as long as the row is there, its
    folder cannot become another run's. Raise OSError.

    Nothing that belongs to another run is moved. Runs of versions that checked this less strictly
    may share a folder: files inside the folder of another run stay for that run, and folders of
    other runs inside this one stay too.
    """
    folder = run_folder(run)
    # a symbolic link leads to what is not ours
    if not folder.is_dir() or folder.resolve() != folder:
        return
    others = [run_folder(other) for other in _sharing(run)]
    if any(_lies_in(folder, other) for other in others):
        return
    kept = [other for other in others if _lies_in(other, folder)]
    moved = (
        [entry for entry in folder.iterdir() if not any(_lies_in(other, entry) for other in kept)]
        if kept
        else [folder]
    )
    purged = settings.TUNIX_OUTPUT_ROOT / PURGED
    purged.mkdir(exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{run.run_id}.", dir=purged))
    for entry in moved:
        entry.rename(aside / entry.name)


def remove_set_aside(run: Run) -> int:
    """Delete what ``set_aside`` has moved, now or in an earlier attempt; return the bytes freed.
    Raise OSError."""
    freed = 0
    for aside in (settings.TUNIX_OUTPUT_ROOT / PURGED).glob(f"{run.run_id}.*"):
        freed += bytes_below(aside)
        remove_tree(aside)
    return freed


def _sharing(run: Run) -> list[Run]:
    """Return other runs whose folders are, hold, or lie in that of ``run``."""
    if not _has_chosen_folder(run):
        return []
    return [reservation.run for reservation in _reservations(run)]


def _lies_in(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is ``folder`` or below it, as the file system sees it."""
    return folder.exists() and any(
        each.exists() and each.samefile(folder) for each in (path, *path.parents)
    )
