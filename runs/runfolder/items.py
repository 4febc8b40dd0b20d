"""The items of an evaluation: a file with one JSON object a line, which is only added to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.runfolder import files

LINE_MAX_BYTES = 64 * 2**20
_PIECE = 2**20


def complete_lines(path: Path) -> int:
    """Return how many lines have their end; 0 where there is no such file. Raise OSError."""
    count = 0
    for piece in _pieces(path):
        count += piece.count(b"\n")
    return count


def item_lines(path: Path, digest: Any = None) -> Iterator[bytes]:
    """Yield the complete lines; nothing where there is no such file.

    Args:
        digest: a hash, to which all bytes of the file are added.

    Raises:
        OSError: the file is there and cannot be read.
    """
    descriptor = _open(path)
    if descriptor is None:
        return
    with open(descriptor, "rb") as file:
        while line := file.readline(LINE_MAX_BYTES):
            if digest is not None:
                digest.update(line)
            if line.endswith(b"\n"):
                yield line


def copy_lines(source: Path, target: Path) -> str:
    """Copy the complete lines of a file, and return the SHA-256 of the whole file.

    ``target`` appears whole or not at all. Raise OSError.
    """
    digest = hashlib.sha256()
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open(partial, "wb") as file:
            for line in item_lines(source, digest):
                file.write(line)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    descriptor = _open(path)
    if descriptor is None:
        return
    with open(descriptor, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _open(path: Path) -> int | None:
    try:
        return files.open_regular(path)
    except FileNotFoundError:
        return None
    except files.BrokenFile as error:
        raise OSError(str(error)) from error
