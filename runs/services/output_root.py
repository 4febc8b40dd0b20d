"""The output root, where every run has its folder: whether the right one is there, and how it is
marked for its database.

The root may be on a network file system or a mount of its own, so it can be away for a moment, or
an empty mount point can stand in its place. What is missing there says nothing about the runs. So
nothing is concluded from a missing file unless the root's marker is readable, and the root is never
created where a database has already used one.

A restore leaves a note in the root before it changes anything and removes it as its last act. While
the note is there, no other process starts or concludes anything, and the attendant does nothing at
all.
"""

import contextlib
import errno
import os
import shlex
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User

from runs.models import OutputRoot, Run, RunEngine
from runs.runfolder import files, names
from runs.services.wakeup import hosts_folder
from tunixrt.compiled import Compiled, as_object, column_names
from tunixrt.refusals import Busy
from tunixrt.roles import Role, user_role

ROOT_FREE_BYTES = 16 * 2**20
RESTORING = "restoring.json"  # the note of a restore
_restores = threading.Event()  # this process


def root_problem() -> str | None:
    """Return why no run must be started on the output root, or None. Marks the root of a new
    database."""
    if problem := interrupted_restore():  # first: its database may have no tables
        return problem
    known = _known_root() or OutputRoot.objects.get_or_create(single=True)[0]
    try:
        if not os.path.lexists(_marker()) and not _root_in_use():
            hosts_folder().mkdir(parents=True, exist_ok=True)
            files.create_json_once(_marker(), {"id": str(known.id)})
    except OSError as error:
        return _unusable(error)
    return _away(known) or _space_problem()


def start_problem() -> str | None:
    """Return why the output root keeps runs waiting, or None. Changes nothing."""
    if problem := interrupted_restore():
        return problem
    known = _known_root()
    return None if known is None else _away(known) or _space_problem()


def root_notice(user: User) -> str | None:
    """Return a notice for a user whose runs wait for the output root, or None;
    operators also learn why. Changes nothing."""
    known = _known_root()
    if known is None:
        return None
    if reason := _away(known):
        notice = (
            "The output root is away: no run is started now. Waiting runs start by themselves when"
            " it is back."
        )
    elif reason := _space_problem():
        notice = (
            "The output root is full: no run is started now. Waiting runs start by themselves when"
            " there is room."
        )
    else:
        return None
    return f"{notice} {reason}" if user_role(user) >= Role.OPERATOR else notice


def root_away() -> str | None:
    """Return why the output root of this database cannot be seen right now, or None. Changes
    nothing.

    While it is away, missing files and folders mean nothing: no run is failed, started, retried or
    purged because of them.
    """
    if problem := interrupted_restore():
        return problem
    known = _known_root()
    return None if known is None else _away(known)  # None: no host has used a root yet


# --- a restore ------------------------------------------------------------------------------------


def interrupted_restore() -> str | None:
    """Return what to do if a restore was interrupted in this output root, else None. Do not query
    the database."""
    if _restores.is_set():
        return None
    try:
        note = files.read_json(_note())
    except OSError:
        return None  # then the marker cannot be read either, which says so
    except files.BrokenFile:
        note = {}
    if note is None:
        return None
    backup = note.get("backup")
    command = f"manage.py restore {shlex.quote(str(backup)) if backup else 'DIR'} --replace"
    return (
        f"A restore was interrupted here; run {command} again. Until then nothing is started, and"
        f" no status changes ({_note()} says so)."
    )


@contextlib.contextmanager
def restoring(backup: Path) -> Iterator[None]:
    """Keep all other processes from starting or concluding anything, until ``forget_restore`` is
    called; this process may, within the block. Raise OSError if the note cannot be written."""
    files.write_json(_note(), {"backup": str(backup)})
    _restores.set()
    try:
        yield
    finally:
        _restores.clear()


def restore_is_noted() -> bool:
    """Return whether an earlier restore was interrupted."""
    return os.path.lexists(_note())


def forget_restore() -> None:
    """Remove the note. Raise OSError."""
    _note().unlink()


def _note() -> Path:
    return hosts_folder() / RESTORING


@cache
def _root_rows() -> Compiled:
    return Compiled(OutputRoot.objects.order_by("pk").values_list(*column_names(OutputRoot))[:1])


def _known_root() -> OutputRoot | None:
    rows = _root_rows().read()
    return as_object(OutputRoot, rows[0]) if rows else None


# --- the marker -----------------------------------------------------------------------------------


def _away(known: OutputRoot) -> str | None:
    try:
        found = (files.read_json(_marker()) or {}).get("id")
    except OSError as error:
        return _unusable(error)
    except files.BrokenFile:
        found = "something that cannot be read"
    if found == str(known.id):
        return None
    says = "is missing" if found is None else f"says {found}"
    return (
        f"The output root {settings.TUNIX_OUTPUT_ROOT} is not there, or is not this database's: its"
        f" marker {_marker()} {says}."
        " Mount the shared output root here, or set TUNIX_OUTPUT_ROOT. If it is the right one,"
        " restore the marker:"
        f' {{"id": "{known.id}"}}'
    )


class RootAway(Busy):
    """What the files of a run would say is not known right now."""


def while_root_is_there(folder: Path) -> Path:
    """Return a run's folder. Raise RootAway if it is missing because the output root is away: then
    nothing follows from that."""
    try:
        seen = folder.is_dir()
    except OSError:
        seen = False
    if not seen and (problem := root_away()):
        raise RootAway(problem, retry_after=5)
    return folder


def is_missing(path: Path) -> bool:
    """Return whether ``path`` does not exist although the output root is there. Raise OSError if
    the file system cannot tell."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return root_away() is None  # asked afterwards: the root may have gone a moment ago
    return False


def make_folder(path: Path) -> None:
    """Make a folder below the output root and those above it. Raise OSError, also if one of them is
    a symbolic link."""
    root: Path = settings.TUNIX_OUTPUT_ROOT
    if not root.is_dir() and not _root_in_use():
        with contextlib.suppress(FileExistsError):  # something else of that name: said below
            root.mkdir(parents=True)
    folder = root
    for name in path.relative_to(root).parts:
        folder /= name
        try:
            folder.mkdir()
        except FileExistsError:
            if folder.is_symlink():
                raise OSError(f"{folder} has become a symbolic link") from None
            if not folder.is_dir():
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)
                ) from None


def _marker() -> Path:
    return hosts_folder() / names.ROOT_ID


def _root_in_use() -> bool:
    # by the index of the modes: there may be a million dry runs
    return Run.objects.filter(mode__in=RunEngine.values, started_at__isnull=False).exists()


def _unusable(error: OSError) -> str:
    root = settings.TUNIX_OUTPUT_ROOT
    return (
        f"The output root {root} cannot be used: {error.strerror or error}. Check its disk and"
        " permissions."
    )


def _space_problem() -> str | None:
    """Return the problem of a full disk, which would fail every pending run within seconds, so they
    wait."""
    try:
        found = os.statvfs(hosts_folder())
    except OSError as error:
        return _unusable(error)
    free = found.f_bavail * found.f_frsize
    if free >= ROOT_FREE_BYTES:
        return None
    return (
        f"The output root {settings.TUNIX_OUTPUT_ROOT} is full: {free // 2**20} MB are free,"
        f" {ROOT_FREE_BYTES // 2**20} MB are needed to start a run. Make room; waiting runs start"
        " by themselves then."
    )
