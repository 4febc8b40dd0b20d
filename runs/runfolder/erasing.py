"""Remove examples from the files of a run that has ended.

Lines of ``*.jsonl`` files that name the id of an example go, whatever the rest of them is: the
data, rollouts and evaluated items. Files that show examples without their ids go as a whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from runs.runfolder import files, names
from runs.runfolder.tree import remove_tree

TYPE_CHECKING = False  # importing typing would cost a keeper 1 MB
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

DEPTH_MAX = 16
LINE_MAX_BYTES = 64 * 1024 * 1024
TEMPORARY = ".erasing."
CACHE = "cache"  # tokenised data, of trainings without a shared cache
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SHOWING = (names.SEEN, f"{names.DATASET}.idx")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class InUse(Exception):
    """A process holds the lock of the folder."""


def erase_examples(folder: files.Path, ids: Collection[str]) -> int:
    """Remove the examples with these ids (UUIDs in lower case) from the files in ``folder``; return
    how many files changed. May be repeated. Nothing outside the folder is touched, whatever links a
    training has left there. A missing folder has no files.

    Raises:
        InUse: a process of the run still has the folder.
        OSError: some files may be done.
    """
    wanted = frozenset(each.encode() for each in ids)
    try:
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return 0
    lock: int | None = None
    try:
        if _exists(names.LOCK, top):
            lock = files.try_lock(os.path.join(os.fspath(folder), names.LOCK))
            if lock is None:
                raise InUse
        changed = _remove_showing(folder, top)
        # fwalk goes by descriptors: a folder that is replaced by a link on the way is not entered
        for path, subfolders, entries, descriptor in os.fwalk(".", dir_fd=top):
            if path.count("/") >= DEPTH_MAX:
                subfolders.clear()
            for name in entries:
                if name.startswith((TEMPORARY, f".{names.DATASET}.")):  # of a killed writer
                    os.unlink(name, dir_fd=descriptor)
                    changed += 1
                elif name.endswith(".jsonl") and not (path == "." and name == names.METRICS):
                    changed += _rewrite(name, descriptor, wanted)
        return changed
    finally:
        os.close(top)
        if lock is not None:
            os.close(lock)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _remove_showing(folder: files.Path, top: int) -> int:
    """Remove what shows examples without ids: their tokens, and samples in the result."""
    changed = 0
    for name in _SHOWING:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=top)
            changed += 1
    if _is_folder(CACHE, top):
        remove_tree(CACHE, dir_fd=top)
        changed += 1
    result = os.path.join(os.fspath(folder), names.RESULT)
    try:
        value = files.read_json(result)
    except files.BrokenFile:
        os.unlink(names.RESULT, dir_fd=top)
        return changed + 1
    if value and value.get("samples"):
        files.write_json(result, value | {"samples": []})
        changed += 1
    return changed


def _rewrite(name: str, folder: int, wanted: frozenset[bytes]) -> int:
    """Write a file again without the lines that name an id; 1 if there were some."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
    except OSError:
        if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        return 0  # a link or a socket has no content of its own
    with open(descriptor, "rb") as source:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or not any(_names(line, wanted) for line in _lines(source, name)):
            return 0
        source.seek(0)
        staged = f"{TEMPORARY}{os.urandom(8).hex()}"
        copy = os.open(
            staged,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            stat.S_IMODE(mode),
            dir_fd=folder,
        )
        try:
            with open(copy, "wb") as file:
                for line in _lines(source, name):
                    if not _names(line, wanted):
                        file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged, dir_fd=folder)
            raise
    os.fsync(folder)
    return 1


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    while line := file.readline(LINE_MAX_BYTES + 1):
        if len(line) > LINE_MAX_BYTES:
            raise OSError(f"{name} has a line of more than {LINE_MAX_BYTES:,} bytes")
        yield line


def _names(line: bytes, wanted: frozenset[bytes]) -> bool:
    return any(found.lower() in wanted for found in _UUID.findall(line))
