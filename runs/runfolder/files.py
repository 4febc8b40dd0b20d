"""Atomic JSON files, the lock, and the tail of an output file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import stat
import time

from runs.runfolder import names

TYPE_CHECKING = False  # importing typing would cost a keeper 1 MB
if TYPE_CHECKING:
    from typing import Any

OUTPUT_MAX_BYTES = 10_240
JSON_MAX_BYTES = 16 * 1024 * 1024
RESERVED_BYTES = 8192
FILE_MODE = 0o644

if TYPE_CHECKING:
    Path = str | os.PathLike[str]


class BrokenFile(ValueError):
    """A file of the run folder that is there and cannot be used: not a regular file, too large, or
    not a strict JSON object."""


# --- text and time


def timestamp(seconds: float | None = None) -> str:
    """Return ``seconds`` since the epoch (default now) as ISO-8601 UTC with microseconds:
    ``2025-01-31T12:00:00.000000Z``."""
    microseconds = time.time_ns() // 1000 if seconds is None else int(seconds * 1_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(microseconds // 1_000_000))
    return f"{whole}.{microseconds % 1_000_000:06d}Z"


def clean_text(text: str) -> str:
    """Return ``text`` in a form that every database stores: NUL and lone surrogates become
    U+FFFD."""
    # without a codec, which would be imported at the end of a run, when the Python that started it
    # may be gone
    return "".join(
        "\ufffd" if character == "\0" or "\ud800" <= character <= "\udfff" else character
        for character in text
    )


def read_tail(path: Path, max_bytes: int = OUTPUT_MAX_BYTES) -> str:
    """Return the end of an output file as text of at most ``max_bytes`` bytes of UTF-8, cut notice
    included.

    Never half a character: a cut falls between characters; NUL and bytes that are not UTF-8 become
    U+FFFD. Read ``max_bytes`` bytes whatever the size of the file. A missing file is empty output.
    """
    if max_bytes <= 0:
        return ""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return ""
    try:
        return read_open_tail(descriptor, os.path.basename(os.fspath(path)), max_bytes)
    finally:
        os.close(descriptor)


def read_open_tail(descriptor: int, name: str, max_bytes: int = OUTPUT_MAX_BYTES) -> str:
    """Return the end of an open file, as ``read_tail`` does; the cut notice calls it ``name``."""
    size = os.fstat(descriptor).st_size
    raw = os.pread(descriptor, max_bytes, max(0, size - max_bytes))
    cut = size > max_bytes
    if cut:
        raw = _from_character(raw)
    # a byte that is replaced grows to three, so the limit is applied to what came out
    data = raw.decode("utf-8", "replace").replace("\0", "\ufffd").encode()
    if not cut and len(data) <= max_bytes:
        return data.decode()
    notice = f"[earlier output cut; all of it is in {name}]\n".encode("ascii", "replace")
    if len(notice) > max_bytes // 2:
        notice = b""
    return (notice + _from_character(data[-(max_bytes - len(notice)) :])).decode()


def _from_character(data: bytes) -> bytes:
    """Return ``data`` from its first character on: up to three continuation bytes of a character
    that was cut are left out."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]


# --- files


def open_regular(path: Path) -> int:
    """Open a regular file for reading; return the descriptor. Raise FileNotFoundError, or
    BrokenFile for a link, pipe, folder or device."""
    try:
        # O_NONBLOCK: a pipe in place of the file must not hang its reader
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BrokenFile(f"{os.fspath(path)} is not a regular file.") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BrokenFile(f"{os.fspath(path)} is not a regular file.")
    return descriptor


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in ``path``, or None if there is no such file. Raise BrokenFile with
    the reason."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        # of its size now: a buffer of the limit would be 16 MB for every file
        size = os.fstat(descriptor).st_size
        data = file.read(min(size, JSON_MAX_BYTES) + 1)
    if len(data) > JSON_MAX_BYTES:
        raise BrokenFile(f"{os.fspath(path)} is larger than {JSON_MAX_BYTES} bytes.")
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{os.fspath(path)} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenFile(f"{os.fspath(path)} holds no JSON object.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def write_json(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Put ``value`` into ``path`` atomically: readers see the old content or the new. ``durable``:
    the content survives a power cut as soon as this returns; without it, the call does not wait for
    the disk. Raise OSError."""
    path = os.fspath(path)
    staged = _stage(path, value, durable)
    try:
        os.rename(staged, path)
    except OSError:
        unlink(staged)
        raise
    if durable:
        _sync_folder(path)


def create_json_once(path: Path, value: dict[str, Any]) -> bool:
    """Write as ``write_json``, but only if nothing has that name yet: return True to the one caller
    who made the file. Raise OSError."""
    path = os.fspath(path)
    attempts_left = 5
    while not os.path.lexists(path):
        attempts_left -= 1
        staged = _stage(path, value, durable=True)
        try:
            os.link(staged, path, follow_symlinks=False)
        except FileExistsError:
            return False
        except FileNotFoundError:  # remove_temporary_files() of the run's end came between
            if not attempts_left:
                raise
        else:
            _sync_folder(path)
            return True
        finally:
            unlink(staged)
    return False


def reserve(path: Path) -> None:
    """Reserve disk space for the next write of ``path``, so that a full disk cannot prevent it.
    Raise OSError."""
    descriptor = os.open(
        _reserved(os.fspath(path)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE
    )
    try:
        os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
    finally:
        os.close(descriptor)


def release(path: Path) -> None:
    """Give the space back that was reserved for ``path``."""
    unlink(_reserved(os.fspath(path)))


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left behind, and reservations other than that of exit.json. For
    the owner, at the run's end."""
    for entry in os.listdir(folder):
        name, _, suffix = entry[1:].rpartition(".")
        if (
            entry.startswith(".")
            and name in names.NAMES
            and len(suffix) == 8
            and entry != f".{names.EXIT}.reserved"
        ):
            unlink(os.path.join(folder, entry))


def _reserved(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.reserved")


def _stage(path: str, value: dict[str, Any], durable: bool) -> str:
    """Write ``value`` to a new file beside ``path``, or into the space reserved for ``path`` if
    there is some."""
    data = json.dumps(value, allow_nan=False, indent=1).encode() + b"\n"
    folder, name = os.path.split(path)
    # as long as the reserved name: renaming one to the other needs no room in a full folder
    staged, fresh = (os.path.join(folder, f".{name}.{os.urandom(4).hex()}") for _ in range(2))
    try:
        os.rename(_reserved(path), staged)
        _fill(staged, 0, data, durable)
        return staged
    except OSError:
        unlink(staged)
    try:
        _fill(fresh, os.O_CREAT | os.O_EXCL, data, durable)
    except OSError:
        unlink(fresh)
        raise
    return fresh


def _fill(path: str, flags: int, data: bytes, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, FILE_MODE)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.ftruncate(descriptor, len(data))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(path: str) -> None:
    # gone already, or the folder is; a temporary file is not worth an error
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync_folder(path: str) -> None:
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say so
            raise
    finally:
        os.close(descriptor)


def find_marker(folder: Path) -> str | None:
    """Return the marker of the output root that ``folder`` is in, or None if no folder above it has
    one."""
    above = os.path.dirname(os.path.abspath(folder))
    while not os.path.exists(marker := os.path.join(above, names.HOSTS, names.ROOT_ID)):
        if above == os.path.dirname(above):
            return None
        above = os.path.dirname(above)
    return marker


def try_lock(path: Path) -> int | None:
    """Take the exclusive lock; return its descriptor (closed on exec), or None while another
    process holds it. Make the file. Raise OSError.

    The lock belongs to the open file: it lives until the last copy of the descriptor is closed, in
    whatever process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    ours = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or the folder is being removed: not ours either way
    finally:
        if not ours:
            os.close(descriptor)
    return descriptor if ours else None
