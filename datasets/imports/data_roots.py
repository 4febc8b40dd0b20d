"""Files on the server that an operator lets people import: those in TUNIX_DATA_ROOTS.

A path may go through links as long as it stays inside a root. What is opened is the file that was
checked: the resolved path is walked from its root, and no link is followed then.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings

from tunixrt.refusals import Refusal

LISTED = 1_000  # entries of a folder on a page
PATH_MAX = 4_096
_OUTSIDE = "Must be a file inside one of the folders that TUNIX_DATA_ROOTS names."


class InvalidPath(Refusal):
    def __init__(self, sentence: str):
        super().__init__(messages={"path": [sentence]})


@dataclass(frozen=True)
class Entry:
    """A file or folder in a listing. ``size``: of a file, in bytes."""

    name: str
    path: str
    is_folder: bool
    size: int | None = None


def describe(path: str) -> dict[str, Any]:
    """Return the source of an import: the path, its size, and when it was changed. Raise
    InvalidPath."""
    with open_file(path) as file:
        return {"type": "path", "path": path, "file": Path(path).name} | _state(file)


def _state(file: BinaryIO) -> dict[str, int]:
    found = os.fstat(file.fileno())
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}


@contextlib.contextmanager
def unchanged(source: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open the file that ``describe`` described. Raise InvalidPath also where it has changed since
    then, or while it was read."""
    with open_file(str(source["path"])) as file:
        _check_unchanged(source, file, "since the import was requested")
        yield file
        _check_unchanged(source, file, "while it was read")


def _check_unchanged(source: Mapping[str, Any], file: BinaryIO, when: str) -> None:
    if any(source[name] != value for name, value in _state(file).items()):
        raise InvalidPath(
            f"{source['path']} has changed {when}. Nothing was stored; import it again."
        )


def open_file(path: str) -> BinaryIO:
    """Open a regular file inside a root for reading. Raise InvalidPath."""
    root, inner = _resolve(path)
    if inner == Path("."):
        raise InvalidPath(f"{path} is a folder. Give one file in it.")
    try:
        with _walk(root, inner.parent) as folder:
            # a FIFO would wait for its writer, a device may do anything when it is opened
            if not stat.S_ISREG(os.stat(inner.name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _not_a_file(path, inner.name, folder)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            descriptor = os.open(inner.name, flags, dir_fd=folder)
    except OSError as error:
        raise InvalidPath(f"{path} cannot be read: {error.strerror or error}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidPath(f"{path} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def _not_a_file(path: str, name: str, folder: int) -> InvalidPath:
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return InvalidPath(f"{path} is a folder. Give one file in it.")
    return InvalidPath(f"{path} is not a regular file.")


def list_folder(path: str) -> tuple[str | None, list[Entry], bool]:
    """Return the folder above, the files and folders in one, and whether there are more than
    LISTED. An empty ``path`` lists the roots. Hidden files are left out. Raise InvalidPath."""
    if not path:
        return (
            None,
            [Entry(str(root), str(root), True) for root in settings.TUNIX_DATA_ROOTS],
            False,
        )
    root, inner = _resolve(path)
    found: list[Entry] = []
    try:
        with _walk(root, inner) as folder, os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.isprintable():
                    continue
                if known := _entry(root / inner, entry):
                    found.append(known)
    except OSError as error:
        raise InvalidPath(f"{path} cannot be listed: {error.strerror or error}.") from error
    found.sort(key=lambda entry: (not entry.is_folder, entry.name))
    above = "" if inner == Path(".") else str((root / inner).parent)
    return above, found[:LISTED], len(found) > LISTED


def _entry(folder: Path, entry: "os.DirEntry[str]") -> Entry | None:
    """Return what a listing shows of an entry; None if it could not be opened."""
    path = folder / entry.name
    with contextlib.suppress(OSError):
        if entry.is_symlink() and not any(
            Path(os.path.realpath(path)).is_relative_to(root) for root in settings.TUNIX_DATA_ROOTS
        ):
            return None
        if entry.is_dir():
            return Entry(entry.name, str(path), True)
        if entry.is_file():
            return Entry(entry.name, str(path), False, entry.stat().st_size)
    return None


def _resolve(path: str) -> tuple[Path, Path]:
    """Return the root of a path, and the path inside it, without links. Raise InvalidPath, with the
    same sentence for all that lies outside, whether it is there or not."""
    if not settings.TUNIX_DATA_ROOTS:
        raise InvalidPath("No folder of this server may be imported from (TUNIX_DATA_ROOTS).")
    if not path.startswith("/") or len(path) > PATH_MAX or not path.isprintable():
        raise InvalidPath(f"{_OUTSIDE} Give its absolute path.")
    try:
        resolved = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise InvalidPath(_OUTSIDE) from error
    for root in settings.TUNIX_DATA_ROOTS:
        if resolved.is_relative_to(root):
            return root, resolved.relative_to(root)
    raise InvalidPath(_OUTSIDE)


@contextlib.contextmanager
def _walk(root: Path, inner: Path) -> Iterator[int]:
    """Yield a descriptor of the folder ``inner`` below ``root``, reached without following a link.
    Raise OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(root, flags)
    try:
        for name in inner.parts:
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)
