"""Measure and remove the folders of trainings, whatever their depth and the sizes that their files
report."""

import errno
import os
import shutil
import stat
import uuid
from contextlib import suppress
from pathlib import Path

DEPTH_MAX = 64  # folders inside each other that are looked at
FILES_MAX = 100_000  # files and folders that are measured: a second


def bytes_below(folder: Path | str, *, dir_fd: int | None = None) -> int:
    """Return the bytes that the files below ``folder`` take on disk, links not followed; with very
    many files and folders, those of the first. Relative to ``dir_fd``, if given. Raise OSError if
    it is there and cannot be read."""
    total = count = 0
    try:
        for path, folders, files, descriptor in os.fwalk(folder, dir_fd=dir_fd):
            if path.count("/") - str(folder).count("/") >= DEPTH_MAX:
                folders.clear()
            count += 1 + len(files)
            if count > FILES_MAX:
                break
            for name in files:
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        # a file may claim any size and take none
                        total += min(status.st_size, status.st_blocks * 512)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return total


def remove_tree(folder: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove a folder and all in it, however deep: ``shutil.rmtree`` holds a frame and a descriptor
    for each folder on the way. Relative to ``dir_fd``, if given. Raise OSError."""
    while True:
        try:
            return shutil.rmtree(folder, dir_fd=dir_fd)
        except RecursionError:
            pass
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        _lift(folder, dir_fd)


def _lift(folder: Path | str, dir_fd: int | None) -> None:
    """Move what lies deeper than ``DEPTH_MAX`` folders up into ``folder``."""
    for path, folders, _, descriptor in os.fwalk(folder, dir_fd=dir_fd):
        if path.count("/") - str(folder).count("/") >= DEPTH_MAX:
            for name in folders:
                os.rename(
                    name,
                    f"{folder}/.lifted.{uuid.uuid4()}",
                    src_dir_fd=descriptor,
                    dst_dir_fd=dir_fd,
                )
            folders.clear()
