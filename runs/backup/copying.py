"""Copying the folders of runs, while trainings write to them, and back.

Folders are opened one inside the other without following links (``openat``), and only regular files are copied: whatever a
training has put into its folder, nothing outside the output root is read. Every byte is read for its hash, so neither hard links
(which would share later damage with the original) nor reflinks are used.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runs import folder as run_folders
from runs.backup.archive import CHUNK, Damaged, create, make_folder
from runs.checkpoint_folder import complete_steps

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ATTEMPTS = 3
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
    """What was copied of one folder, and what was not as it should be, in sentences."""

    files: list[CopiedFile] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@contextmanager
def opened(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the folder that ``parts`` lead to, no link followed below ``root``. Raises OSError."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts:
            inner = os.open(name, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


# --- into a backup ----------------------------------------------------------------------------------------------------


def copy_folder(source: int, target: Path, *, others: Collection[str] = (), progress: Progress) -> FolderCopy:
    """Copy the folder of a run, which may be executing, into the new folder ``target``.

    ``exit.json`` goes first: if it is there, all else is complete already; if it is written later, the copy is that of a run that
    was still executing. A checkpoint is copied whole or not at all, the newest first. A file that grows (a log) is copied as far
    as it reached. ``others``: folders inside, relative to the run's, that belong to other runs.

    Raises:
        OSError: what is there cannot be read, or the copy cannot be written.
    """
    make_folder(target)
    copy = FolderCopy()
    _copy_file(source, run_folders.EXIT, target, "", copy, progress)
    done = {run_folders.EXIT, run_folders.LOCK, run_folders.CHECKPOINTS, *others}
    _copy_tree(source, target, "", copy, progress, skip=lambda path: path in done or _is_temporary(path))
    try:
        checkpoints = os.open(run_folders.CHECKPOINTS, FOLDER, dir_fd=source)
    except OSError:
        return copy
    try:
        _copy_checkpoints(checkpoints, target, copy, progress)
    finally:
        os.close(checkpoints)
    return copy


def _is_temporary(path: str) -> bool:
    """Whether a killed writer leaves such a file, the keeper puts space aside with it, or a removal is under way."""
    name, _, suffix = path[1:].rpartition(".")
    return (path.startswith(".") and name in run_folders.NAMES and len(suffix) == 8) or "/.removed." in f"/{path}"


def _copy_checkpoints(source: int, target: Path, copy: FolderCopy, progress: Progress) -> None:
    inside = f"{run_folders.CHECKPOINTS}/"
    (target / run_folders.CHECKPOINTS).mkdir(mode=0o700)
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
    for _ in range(ATTEMPTS):  # while a checkpoint is copied, the training may save a newer one and remove this one
        for step in reversed(complete_steps(there)):
            had_any = True
            if step not in copied and _copy_checkpoint(source, step, target, copy, progress):
                copied.add(step)
        if copied or not had_any:
            return
    copy.warnings.append("its checkpoints were replaced faster than they could be copied, so none is in this backup")


def _copy_checkpoint(source: int, step: int, target: Path, copy: FolderCopy, progress: Progress) -> bool:
    """Copy one complete checkpoint; return False, and leave nothing of it, if it was removed meanwhile."""
    part = FolderCopy()
    inside = f"{run_folders.CHECKPOINTS}/{step}/"
    try:
        descriptor = os.open(str(step), FOLDER, dir_fd=source)
    except OSError:
        return False
    try:
        before = _names_below(descriptor)
        (target / inside).mkdir(mode=0o700)
        _copy_tree(descriptor, target, inside, part, progress)
        whole = {file.path.removeprefix(inside) for file in part.files} == before == _names_below(descriptor)
    finally:
        os.close(descriptor)
    if whole and step in complete_steps(Path(f"/proc/self/fd/{source}")):
        copy.files += part.files
        copy.warnings += part.warnings
        return True
    shutil.rmtree(target / inside)
    return False


def _names_below(folder: int) -> set[str]:
    """The regular files below a folder, by path."""
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
    """Copy what is below ``source``, which is the folder ``inside`` of the run's, but for the paths that are to be skipped."""
    for path, folders, files, descriptor in os.fwalk(".", dir_fd=source):
        here = inside + (path[2:] + "/" if path != "." else "")
        folders[:] = sorted(name for name in folders if not skip(here + name) and _is_folder(name, descriptor))
        for name in folders:
            (target / here / name).mkdir(mode=0o700)
        for name in sorted(files):
            if not skip(here + name):
                _copy_file(descriptor, name, target, here, copy, progress)


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copy_file(parent: int, name: str, target: Path, inside: str, copy: FolderCopy, progress: Progress) -> None:
    """Copy a regular file if it is there."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        if _is_regular(name, parent):
            raise
        return  # removed meanwhile, or a link or a socket, which is not copied
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return
        with create(target / inside / name) as file:
            attempts = ATTEMPTS
            while True:
                size, sha256 = _copy_bytes(descriptor, status.st_size, file.fileno())
                before, status = status, os.fstat(descriptor)
                steady = status.st_mtime_ns == before.st_mtime_ns or status.st_size > before.st_size
                attempts -= 1
                if steady or not attempts:
                    break
            if not steady:
                copy.warnings.append(f"{inside}{name} changed all the while it was copied")
            os.utime(file.fileno(), ns=(before.st_mtime_ns, before.st_mtime_ns))
    finally:
        os.close(descriptor)
    copy.files.append(CopiedFile(inside + name, size, before.st_mtime_ns, sha256))
    progress(size)


def _is_regular(name: str, parent: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copy_bytes(source: int, size: int, target: int) -> tuple[int, str]:
    """Copy the first ``size`` bytes, or what there is of them: how many, and their hash."""
    os.lseek(target, 0, os.SEEK_SET)
    os.ftruncate(target, 0)
    found = hashlib.sha256()
    offset = 0
    while offset < size and (data := os.pread(source, min(CHUNK, size - offset), offset)):
        found.update(data)
        offset += len(data)
        while data:
            data = data[os.write(target, data) :]
    return offset, found.hexdigest()


# --- out of a backup --------------------------------------------------------------------------------------------------


def take_out(
    source: int, target: Path, files: dict[str, tuple[int, str]], *, others: Collection[str], progress: Progress
) -> None:
    """Copy the folder of a run out of a backup, if it holds exactly ``files``: path → size and hash.

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
            what = "is missing" if path not in found else "is not in its list of files" if path not in files else "has changed"
            raise Damaged(f"{path!r} of the run {what}.")
