"""Copying the folders of runs, while trainings write to them, and back.

Folders are opened one inside the other without following links (``openat``), and only regular files
are copied: whatever a training has put into its folder, nothing outside the output root is read.
Every byte is read for its hash, so neither hard links (which would share later damage with the
original) nor reflinks are used.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from runs.backup.archive import CHUNK, Damaged, create, make_folder
from runs.runfolder import names
from runs.runfolder.checkpoints import complete_steps
from runs.runfolder.tree import DEPTH_MAX

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ATTEMPTS = 3
WARNINGS_MAX = 10  # of one run
PATH_MAX_BYTES = (
    2000  # of a path inside a run's folder; the system's limit is 4096 with what is before it
)
# from this size on, a file that takes less than a hundredth on disk is no file of a training
SPARSE_BYTES = 2**30
_STEP = re.compile(r"[0-9]+(\..*)?", re.ASCII)  # of a checkpoint, under its own or a temporary name

Progress = Callable[[int], None]  # is told the bytes of each file


@dataclass(frozen=True)
class CopiedFile:
    """``path`` is relative to the run's folder; ``mtime`` in nanoseconds since the epoch."""

    path: str
    size: int
    mtime: int
    sha256: str


@dataclass
class FolderCopy:
    """What was copied of one folder, and what was not as it should be, in sentences: no run keeps
    others from being backed up."""

    files: list[CopiedFile] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        if len(self.warnings) < WARNINGS_MAX and sentence not in self.warnings:
            self.warnings.append(sentence)


class UnreadableFile(Exception):
    """What is to be copied cannot be read."""


@contextmanager
def opened(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the folder that ``parts`` lead to, no link followed below ``root``.
    Raise OSError."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts:
            inner = os.open(name, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


# --- into a backup --------------------------------------------------------------------------------


def copy_folder(
    source: int, target: Path, *, others: Collection[str] = (), progress: Progress
) -> FolderCopy:
    """Copy the folder of a run, which may be executing, into the new folder ``target``.

    ``exit.json`` goes first: if it is there, all else is complete already; if it is written later,
    the copy is that of a run that was still executing. A checkpoint is copied whole or not at all,
    the newest first. A file that grows (a log) is copied as far as it reached. ``others``: folders
    inside, relative to the run's, that belong to other runs.

    Raises:
        OSError: the copy cannot be written.
    """
    make_folder(target)
    copy = FolderCopy()
    with suppress(UnreadableFile):
        _copy_file(source, names.EXIT, target, "", copy, progress)
    done = {names.EXIT, names.LOCK, names.CHECKPOINTS, *others}
    _copy_tree(
        source, target, "", copy, progress, skip=lambda path: path in done or _is_temporary(path)
    )
    try:
        checkpoints = os.open(names.CHECKPOINTS, FOLDER, dir_fd=source)
    except OSError:
        return copy
    try:
        _copy_checkpoints(checkpoints, target, copy, progress)
    finally:
        os.close(checkpoints)
    return copy


def _is_temporary(path: str) -> bool:
    """Return whether a killed writer leaves such a file, the keeper reserves space with it, or a
    removal is under way."""
    name, _, suffix = path[1:].rpartition(".")
    return (
        path.startswith(".") and name in names.NAMES and len(suffix) == 8
    ) or "/.removed." in f"/{path}"


def _copy_checkpoints(source: int, target: Path, copy: FolderCopy, progress: Progress) -> None:
    inside = f"{names.CHECKPOINTS}/"
    (target / names.CHECKPOINTS).mkdir(mode=0o700)
    _copy_tree(
        source,
        target,
        inside,
        copy,
        progress,
        skip=lambda path: _STEP.fullmatch(path.split("/")[1]) is not None or _is_temporary(path),
    )
    there = Path(f"/proc/self/fd/{source}")
    copied: set[int] = set()
    had_any = False
    # while a checkpoint is copied, the training may save a newer one and remove this one
    for _ in range(ATTEMPTS):
        for step in reversed(complete_steps(there)):
            had_any = True
            if step not in copied and _copy_checkpoint(source, step, target, copy, progress):
                copied.add(step)
        if copied or not had_any:
            return
    copy.warn(
        "none of its checkpoints is in this backup: they were replaced faster than they could be"
        " copied, or cannot be read"
    )


def _copy_checkpoint(
    source: int, step: int, target: Path, copy: FolderCopy, progress: Progress
) -> bool:
    """Copy one complete checkpoint; return False, and leave nothing of it, if it was removed
    meanwhile."""
    part = FolderCopy()
    inside = f"{names.CHECKPOINTS}/{step}/"
    try:
        descriptor = os.open(str(step), FOLDER, dir_fd=source)
    except OSError:
        return False
    try:
        before = _names_below(descriptor)
        (target / inside).mkdir(mode=0o700)
        _copy_tree(descriptor, target, inside, part, progress)
        for warning in part.warnings:
            copy.warn(warning)
        whole = (
            {file.path.removeprefix(inside) for file in part.files}
            == before
            == _names_below(descriptor)
        )
    finally:
        os.close(descriptor)
    if whole and step in complete_steps(Path(f"/proc/self/fd/{source}")):
        copy.files += part.files
        return True
    shutil.rmtree(target / inside)
    return False


def _names_below(folder: int) -> set[str]:
    """Return the regular files below a folder, by path."""
    found = set()
    for path, _, files, descriptor in os.fwalk(".", dir_fd=folder):
        for name in files:
            if _is_regular(name, descriptor):
                found.add(f"{path}/{name}"[2:])
    return found


def _copy_tree(
    source: int,
    target: Path,
    inside: str,
    copy: FolderCopy,
    progress: Progress,
    skip: Callable[[str], bool] = lambda path: False,
) -> None:
    """Copy what is below ``source``, which is the folder ``inside`` of the run's, but for the paths
    that are to be skipped."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            copy.warn(f"a folder in {inside or 'it'} cannot be read ({error.strerror})")

    def wanted(path: str) -> bool:
        if skip(path):
            return False
        if len(os.fsencode(path)) > PATH_MAX_BYTES or path.count("/") > DEPTH_MAX:
            copy.warn(
                f"what lies deeper than {DEPTH_MAX} folders or has a path of more than"
                f" {PATH_MAX_BYTES:,} bytes is left out"
            )
            return False
        return True

    for path, folders, files, descriptor in os.fwalk(".", dir_fd=source, onerror=unreadable):
        here = inside + (path[2:] + "/" if path != "." else "")
        folders[:] = sorted(
            name for name in folders if wanted(here + name) and _is_folder(name, descriptor)
        )
        for name in folders:
            (target / here / name).mkdir(mode=0o700)
        for name in sorted(files):
            if wanted(here + name):
                try:
                    _copy_file(descriptor, name, target, here, copy, progress)
                except UnreadableFile as error:
                    copy.warn(f"{here}{name} cannot be copied: {error}")


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copy_file(
    parent: int, name: str, target: Path, inside: str, copy: FolderCopy, progress: Progress
) -> None:
    """Copy a regular file if it is there. Raise UnreadableFile, and leave nothing of it then."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
        )
    except OSError as error:
        if _is_regular(name, parent):
            raise UnreadableFile(error.strerror) from error
        return  # removed meanwhile, or a link or a socket, which is not copied
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return
        if status.st_size > SPARSE_BYTES and status.st_blocks * 512 < status.st_size / 100:
            raise UnreadableFile(
                f"it claims to have {status.st_size:,} bytes and has next to none on disk"
            )
        path = target / inside / name
        with create(path) as file:
            try:
                copied, steady = _copy_steadily(descriptor, status, file.fileno())
            except UnreadableFile:
                path.unlink()
                raise
            os.utime(file.fileno(), ns=(copied.mtime, copied.mtime))
    finally:
        os.close(descriptor)
    if not steady:
        copy.warn(f"{inside}{name} changed all the while it was copied")
    copy.files.append(replace(copied, path=inside + name))
    progress(copied.size)


def _copy_steadily(source: int, status: os.stat_result, target: int) -> tuple[CopiedFile, bool]:
    """Copy a file as far as it reaches now, again if it is changed meanwhile other than by growing;
    whether it came to rest."""
    for _ in range(ATTEMPTS - 1):
        copied = _copy_bytes(source, status, target)
        before, status = status, os.fstat(source)
        if status.st_mtime_ns == before.st_mtime_ns or status.st_size > before.st_size:
            return copied, True
    return _copy_bytes(source, status, target), os.fstat(source).st_mtime_ns == status.st_mtime_ns


def _is_regular(name: str, parent: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copy_bytes(source: int, status: os.stat_result, target: int) -> CopiedFile:
    """Copy the bytes that the file had then, or what there is of them. Raise UnreadableFile."""
    os.lseek(target, 0, os.SEEK_SET)
    os.ftruncate(target, 0)
    found = hashlib.sha256()
    offset = 0
    while offset < status.st_size:
        try:
            data = os.pread(source, min(CHUNK, status.st_size - offset), offset)
        except OSError as error:
            raise UnreadableFile(error.strerror) from error
        if not data:
            break
        found.update(data)
        offset += len(data)
        while data:
            data = data[os.write(target, data) :]
    return CopiedFile("", offset, status.st_mtime_ns, found.hexdigest())


# --- out of a backup ------------------------------------------------------------------------------


def take_out(
    source: int,
    target: Path,
    name: str,
    files: dict[str, tuple[int, str]],
    *,
    others: Collection[str],
    progress: Progress,
) -> None:
    """Copy the folder ``name`` of a run out of a backup, if it holds exactly ``files``: path → size
    and hash.

    Raises:
        Damaged: a file is missing, has changed, is a link, or is not among them.
        OSError
    """
    make_folder(target)
    copy = FolderCopy()
    _copy_tree(source, target, "", copy, progress, skip=lambda path: path in others)
    found = {file.path: (file.size, file.sha256) for file in copy.files}
    for path in sorted(found.keys() | files.keys()):
        if found.get(path) != files.get(path):
            what = (
                "is missing"
                if path not in found
                else "is not in its list of files"
                if path not in files
                else "has changed"
            )
            raise Damaged(f"{f'{name}/{path}'!r} {what}.")
