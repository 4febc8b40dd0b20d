"""Shares: what may be under way at once, counted for all worker processes of a web server together.

A share is a lock on one byte of a file that the workers have in common. The kernel takes the lock
back from a process that ends, so a worker that is killed leaves no share taken.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

# Bytes of the file for the shares of one client. Those of all clients together are the first ones.
_OF_ONE = 1 << 20


class AllTaken(Exception):
    """As many as may be are under way."""


class OwnTaken(AllTaken):
    """As many as one client may have are under way."""


class SharedFile:
    """An empty file to lock, which the workers have in common; with one worker it is in memory."""

    def __init__(self, name: str):
        folder: Path | None = settings.TUNIXRT_WEB_SHARED
        if folder is not None:
            self._path = folder / name
        else:
            descriptor = os.memfd_create(name)
            weakref.finalize(self, os.close, descriptor)
            self._path = Path(f"/proc/self/fd/{descriptor}")

    def open(self) -> BinaryIO:
        """Open it once more: the kernel tells such locks apart by what opened the file."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        return open(descriptor, "r+b", buffering=0)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the whole file, and hold it for as long as the context lasts."""
        with self.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Shares:
    """Shares of one kind."""

    def __init__(self, name: str):
        self._file = SharedFile(name)

    def take(self, client: str | bytes, *, total: int, each: int) -> Callable[[], None]:
        """Take a share of ``total``, of which one client may have ``each``, and return what gives
        it back. Raise OwnTaken or AllTaken."""
        file = self._file.open()
        try:
            if not _lock_one_of(file, _start_of(client), min(total, each, _OF_ONE)):
                raise OwnTaken
            if not _lock_one_of(file, 0, min(total, _OF_ONE)):
                raise AllTaken
        except BaseException:
            file.close()
            raise
        return file.close


def _start_of(client: str | bytes) -> int:
    """Return where the shares of a client begin: its place among 2^40, by a hash."""
    name = client.encode(errors="replace") if isinstance(client, str) else client
    digest = hashlib.blake2b(name, digest_size=5).digest()
    return (1 + int.from_bytes(digest, "big")) * _OF_ONE


def _lock_one_of(file: BinaryIO, start: int, count: int) -> bool:
    """Lock a free byte of ``count``; False if there is none. Begins anywhere, since the first ones
    are the likeliest to be taken."""
    first = random.randrange(max(1, count))
    return any(_lock(file, start + (first + number) % count) for number in range(count))


def _lock(file: BinaryIO, place: int) -> bool:
    # struct flock of fcntl(2); such a lock belongs to the open file, not to the process
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True
