"""The files of a run folder. Whatever names and links a training left there, nothing outside the
folder is listed, read, removed.

Folders are opened one inside the other without following links (``openat``): no link can come
between a check and its use.
"""

import os
import re
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.admin.models import DELETION
from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.utils import timezone

from runs.models import TERMINAL, Run, RunEvent
from runs.runfolder import names
from runs.runfolder.checkpoints import IDENTITY
from runs.runfolder.tree import bytes_below, remove_tree
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.sources import require_no_heir
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Missing

LISTED_MAX = 5000
DEPTH_MAX = 16
REMOVABLE = (names.CHECKPOINTS, names.MODEL)
_NUMBERS = re.compile("([0-9]+)")
_KINDS = {
    names.CHECKPOINTS: "checkpoint",
    names.MODEL: "model",
    names.STDOUT: "log",
    names.STDERR: "log",
    names.MANIFEST: "manifest",
    names.DATASET: "dataset",
    f"{names.DATASET}.idx": "dataset",
}


class NoSuchArtifact(Missing):
    """There is no such file (or, to remove, folder) inside the run folder."""

    def __init__(self, path: str):
        super().__init__(f"This run has no file {path[:256]!r} that could be read or removed here.")


@dataclass(frozen=True)
class Artifact:
    """``path`` is relative, with slashes; ``size`` in bytes; ``modified`` in seconds since the
    epoch."""

    path: str
    size: int
    modified: float
    kind: str


@dataclass(frozen=True)
class Listing:
    artifacts: list[Artifact]
    truncated: bool


def artifact_kind(path: str) -> str:
    """Return checkpoint, model, log, manifest, dataset or other, by the first part of the path."""
    return _KINDS.get(path.split("/", 1)[0], "other")


def is_free_of_examples(path: str) -> bool:
    """Return whether nothing of what the run's examples say stands in a file: in a model, a
    checkpoint, the manifest, the measurements. Any other file may quote them."""
    return path == names.METRICS or artifact_kind(path) in ("checkpoint", "model", "manifest")


def list_artifacts(folder: Path, *, limit: int = LISTED_MAX) -> Listing:
    """Return the regular files below ``folder``, by path, ``limit`` of them at most, without the
    lock, hidden files and links. A missing folder is empty."""
    found: list[Artifact] = []
    truncated = False
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return Listing([], False)
    try:
        # fwalk goes by descriptors: a folder that is replaced by a link on the way is not entered
        for path, folders, files, descriptor in os.fwalk(".", dir_fd=top):
            inside = path[2:] + "/" if path != "." else ""
            folders[:] = sorted((name for name in folders if _is_shown(name)), key=_natural)
            if folders and inside.count("/") >= DEPTH_MAX:
                folders.clear()
                truncated = True
            for name in sorted(filter(_is_shown, files), key=_natural):
                if inside + name == names.LOCK:
                    continue
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if len(found) == limit:
                        return Listing(sorted(found, key=_path), True)
                    found.append(
                        Artifact(
                            inside + name,
                            status.st_size,
                            status.st_mtime,
                            artifact_kind(inside + name),
                        )
                    )
    finally:
        os.close(top)
    return Listing(sorted(found, key=_path), truncated)


def _is_shown(name: str) -> bool:
    try:
        name.encode()  # a name that is not UTF-8 has no address
    except UnicodeEncodeError:
        return False
    return not name.startswith(".")


def is_removable(path: str) -> bool:
    """Return whether a file may be removed: checkpoints and the model, but not the file that says
    to which training the checkpoints belong."""
    return path.split("/", 1)[0] in REMOVABLE and path != f"{names.CHECKPOINTS}/{IDENTITY}"


def _natural(path: str) -> list[list[Any]]:
    """Return a sort key for paths: numbers in names by their value, so that ``checkpoints/9`` comes
    before ``checkpoints/10``."""
    return [
        [int(part) if index % 2 else part for index, part in enumerate(_NUMBERS.split(name))]
        for name in path.split("/")
    ]


def _path(artifact: Artifact) -> list[list[Any]]:
    return _natural(artifact.path)


def open_artifact(folder: Path, path: str) -> int:
    """Return a descriptor for reading the regular file ``path`` inside ``folder``. Raise
    NoSuchArtifact."""
    *parents, name = _parts(path)
    with _opened(folder, parents) as parent:
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
            )
        except OSError as error:
            raise NoSuchArtifact(path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoSuchArtifact(path)
    return descriptor


def remove_artifact(*, run: Run, path: str, by: User) -> int:
    """Remove a file or folder of an ended run's checkpoints or model; return the bytes freed.

    Raises:
        NoSuchArtifact: it is not there, or nothing that may be removed.
        StateConflict: the run has not ended, or a retry is still to resume from its checkpoints.
    """
    *parents, name = parts = _parts(path)
    if not is_removable(path):
        raise NoSuchArtifact(path)
    if run.status not in TERMINAL:
        raise StateConflict(f"Files can be removed when the run has ended; it is {run.status}.")
    with _opened(run_folder(run), parents) as parent:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise NoSuchArtifact(path) from error
        is_folder = stat.S_ISDIR(status.st_mode)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            raise NoSuchArtifact(path)
        freed = bytes_below(name, dir_fd=parent) if is_folder else status.st_size
        # Renamed in the transaction, since that is quick, and removed after it: a retry either
        # finds the checkpoint and keeps it, or does not find it.
        removed = f".removed.{uuid.uuid4()}"
        try:
            with transaction.atomic():
                list(Run.objects.select_for_update().filter(pk=run.pk).values_list("pk"))
                if parts[0] == names.CHECKPOINTS:
                    require_no_heir(run)
                reason = f"{path} removed ({freed:,} bytes)"
                RunEvent.objects.create(
                    run=run, reason=reason, by=by.get_username(), at=timezone.now()
                )
                # the events go with the run
                write_log_entry(by=by, target=run, name=str(run), flag=DELETION, message=reason)
                Run.objects.filter(pk=run.pk).update(
                    disk_bytes=Greatest(F("disk_bytes") - freed, 0)
                )
                os.rename(name, removed, src_dir_fd=parent, dst_dir_fd=parent)
        except FileNotFoundError as error:
            raise NoSuchArtifact(path) from error  # removed concurrently
        except DatabaseError:
            # the commit failed after the renaming, or nothing was renamed yet
            with suppress(FileNotFoundError):
                os.rename(removed, name, src_dir_fd=parent, dst_dir_fd=parent)
            raise
        if is_folder:
            remove_tree(removed, dir_fd=parent)
        else:
            os.unlink(removed, dir_fd=parent)
    return freed


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def _opened(folder: Path, parents: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the folder that ``parents`` lead to. Raise NoSuchArtifact."""
    descriptor = None
    try:
        descriptor = os.open(folder, _FOLDER)
        for name in parents:
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise NoSuchArtifact("/".join(parents)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _parts(path: str) -> list[str]:
    """Return the names on the way. Raise NoSuchArtifact for what is not a plain relative path of
    shown files."""
    parts = path.split("/")
    if any(
        not part or part in (".", "..") or "\x00" in part or not _is_shown(part) for part in parts
    ):
        raise NoSuchArtifact(path)
    if parts == [names.LOCK]:
        raise NoSuchArtifact(path)
    return parts
