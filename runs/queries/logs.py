"""Reading a log by byte offsets: any part of a file of any size in the time of that part.

Offsets count bytes of the file, so that a reader always knows where to continue. The text is UTF-8;
what is not becomes U+FFFD. A character that lies half behind the end of a part is left for the next
one, so putting the parts together gives the same text as decoding the whole.
"""

import codecs
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from runs.runfolder import files, names

LOGS = {"stdout": names.STDOUT, "stderr": names.STDERR}
CHUNK_MAX_BYTES = 1 << 20
CHARACTER_MAX_BYTES = 4
COUNTED_MAX_BYTES = 16 << 30
_COUNT_STEP = 1 << 20
_COUNTS_KEPT = 64


class OffsetPastEnd(ValueError):
    """The offset lies behind the end of the file, ``size`` bytes long."""

    def __init__(self, size: int):
        self.size = size
        super().__init__(f"lies behind the end of the log, which has {size} bytes.")


@dataclass(frozen=True)
class LogPart:
    """Bytes ``offset`` to ``next_offset`` of a file of ``size`` bytes, as text."""

    offset: int
    next_offset: int
    size: int
    text: str


def read_part(path: Path, *, offset: int, limit: int, complete: bool) -> LogPart:
    """Return up to ``limit`` bytes from ``offset`` on (a whole character in any case).
    ``complete``: nothing will be added any more, so half a character at the very end is returned as
    U+FFFD instead of being kept back.

    A missing file has 0 bytes. Raise OffsetPastEnd, and BrokenFile for what is not a regular file.
    """
    try:
        descriptor = files.open_regular(path)
    except FileNotFoundError:
        if offset:
            raise OffsetPastEnd(0) from None
        return LogPart(0, 0, 0, "")
    try:
        size = os.fstat(descriptor).st_size
        if offset > size:
            raise OffsetPastEnd(size)
        data = os.pread(descriptor, max(limit, CHARACTER_MAX_BYTES), offset)
    finally:
        os.close(descriptor)
    size = max(size, offset + len(data))  # the file may have grown between the two calls
    text, used = decode(data, final=complete and offset + len(data) == size)
    return LogPart(offset, offset + used, size, text)


def decode(data: bytes, *, final: bool) -> tuple[str, int]:
    """Return ``(text, bytes used)``; without ``final`` the beginning of a character at the end is
    not used."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final)
    return text, len(data) - len(decoder.getstate()[0])


def read_lines_before(
    path: Path, *, end: int | None, lines: int, limit: int, complete: bool
) -> LogPart:
    """Return the last ``lines`` lines before byte ``end`` (default: the end of the file), ``limit``
    bytes of them at most.

    Read ``limit`` bytes whatever the size of the file. Where the lines are longer than that, the
    part begins within a line, at a character. Raise as ``read_part``.
    """
    try:
        descriptor = files.open_regular(path)
    except FileNotFoundError:
        if end:
            raise OffsetPastEnd(0) from None
        return LogPart(0, 0, 0, "")
    try:
        size = os.fstat(descriptor).st_size
        end = size if end is None else end
        if end > size:
            raise OffsetPastEnd(size)
        start = max(0, end - limit)
        data = os.pread(descriptor, end - start, start)
    finally:
        os.close(descriptor)
    position = _start_of_lines(data, lines, from_first=start == 0)
    text, used = decode(data[position:], final=end < size or complete)
    return LogPart(start + position, start + position + used, size, text)


def _start_of_lines(data: bytes, lines: int, *, from_first: bool) -> int:
    position = len(data)
    if data.endswith(b"\n"):
        position -= 1  # it ends the last line, it does not begin another
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            break
    else:
        return position + 1
    if from_first:
        return 0
    # the window may begin within a character
    for start in range(min(CHARACTER_MAX_BYTES, len(data))):
        if not 0x80 <= data[start] < 0xC0:
            return start
    return 0


# --- line numbers

_counts: dict[tuple[int, int], tuple[int, int]] = {}
_counts_lock = threading.Lock()


def count_lines(path: Path, offset: int) -> int | None:
    """Return how many lines end before byte ``offset``; None after the first 16 GiB or where there
    is no such file.

    Continue from the previous count in the same file, so the pages of a reader cost what they add.
    1 GB takes about a second of one core, once.
    """
    if offset > COUNTED_MAX_BYTES:
        return None
    try:
        descriptor = files.open_regular(path)
    except (FileNotFoundError, files.BrokenFile):
        return None
    try:
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        with _counts_lock:
            position, lines = _counts.get(key, (0, 0))
        if position > offset or position > status.st_size:
            position, lines = 0, 0
        while position < offset:
            data = os.pread(descriptor, min(_COUNT_STEP, offset - position), position)
            if not data:
                break
            lines += data.count(b"\n")
            position += len(data)
    finally:
        os.close(descriptor)
    with _counts_lock:
        _counts.pop(key, None)
        _counts[key] = (position, lines)
        while len(_counts) > _COUNTS_KEPT:
            del _counts[next(iter(_counts))]
    return lines
