"""Search a log of any size, a bounded part per request.

Lines are found by bytes, so every answer says where to continue. The search ignores terminal
colours and the case of ASCII letters. It takes time linear in the bytes scanned, whatever log and
needle contain: no pattern is built from the needle.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runs.queries.logs import OffsetPastEnd
from runs.runfolder import files

NEEDLE_MAX_CHARACTERS = 256
SCANNED_MAX_BYTES = 32 << 20  # one request; some 50 ms
MATCHES_MAX = 500
SHOWN_BEFORE, SHOWN_BYTES = 200, 1000  # of a line, around the match
_BLOCK = 1 << 20
_OVERLAP = 1 << 16  # longer than a match, with a colour between any two of its characters
_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")


@dataclass(frozen=True)
class Match:
    """A line with the text in it. ``offset``: the byte its shown text begins at, the line's first
    unless it is long; ``line``: lines after the one at the searched part's first byte."""

    offset: int
    line: int
    text: str


@dataclass(frozen=True)
class Found:
    """``matches`` among bytes ``offset`` to ``next_offset`` of a file of ``size`` bytes; all is
    searched when they are equal."""

    offset: int
    next_offset: int
    size: int
    matches: list[Match]


def search_log(path: Path, needle: str, *, offset: int, limit: int) -> Found:
    """Return lines with ``needle`` from byte ``offset`` on, each once: ``limit`` of them, or those
    in ``SCANNED_MAX_BYTES``.

    ``next_offset`` begins a line, unless a line is longer than a request reads. A missing file has
    0 bytes. Raise OffsetPastEnd, and BrokenFile for what is not a regular file.
    """
    try:
        descriptor = files.open_regular(path)
    except FileNotFoundError:
        if offset:
            raise OffsetPastEnd(0) from None
        return Found(0, 0, 0, [])
    try:
        size = os.fstat(descriptor).st_size
        if offset > size:
            raise OffsetPastEnd(size)
        end = _end_of_scan(descriptor, offset, size)
        matches: list[Match] = []
        for place, line_start, lines in _places(descriptor, needle.encode(), offset, end):
            if len(matches) == limit:
                end = line_start
                break
            matches.append(_match(descriptor, place, line_start, lines))
    finally:
        os.close(descriptor)
    return Found(offset, end, size, matches)


def _end_of_scan(descriptor: int, offset: int, size: int) -> int:
    """Return the offset after the last whole line that one request reads, which is within a line
    only where that is the only line."""
    end = min(size, offset + SCANNED_MAX_BYTES)
    if end == size:
        return end
    start = max(offset, end - _BLOCK)
    newline = os.pread(descriptor, end - start, start).rfind(b"\n")
    # the next request sees what lies across
    return start + newline + 1 if newline >= 0 else end - _OVERLAP


def _places(
    descriptor: int, needle: bytes, offset: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Yield ``(place of the match, start of its line, lines before it)``, once a line.

    Read in blocks that begin with a line; a line longer than a block continues with an overlap, in
    which no match is lost.
    """
    position, line_start, lines = offset, offset, 0
    done_with_line = False  # the long line that continues has matched already
    while position < end:
        data = os.pread(descriptor, min(_BLOCK, end - position), position)
        if not data:
            return
        cut = data.rfind(b"\n") + 1
        whole = cut > 0 or position + len(data) == end
        text = data if position + len(data) == end else data[:cut] if cut else data
        searched = _Searched(text, needle)
        at = 0
        if done_with_line:
            at = text.find(b"\n") + 1 or len(text)
        while (at := searched.find(at)) >= 0:
            before = text.rfind(b"\n", 0, at)
            start = position + before + 1 if before >= 0 else line_start
            yield position + at, start, lines + text.count(b"\n", 0, at)
            newline = text.find(b"\n", at)
            if newline < 0:
                done_with_line = True
                break
            done_with_line = False
            at = newline + 1
        lines += text.count(b"\n")
        last = text.rfind(b"\n")
        if last >= 0:
            line_start = position + last + 1
            if last + 1 == len(text):
                done_with_line = False
        step = len(text) if whole else len(text) - _OVERLAP
        position += step


class _Searched:
    """A block of a log, searched for a needle without regard to case and colours. Positions are
    those of the block as it is.

    A needle that consists of colours only is searched as it is.
    """

    def __init__(self, block: bytes, needle: bytes):
        plain_needle = _COLOUR.sub(b"", needle)
        self._needle = (plain_needle or needle).lower()
        # Where the text continues after each colour, in the plain text and in the block.
        self._plain_starts, self._block_starts = [0], [0]
        if not plain_needle or b"\x1b" not in block:
            self._plain = block.lower()
            return
        pieces = []
        length = 0
        for colour in _COLOUR.finditer(block):
            pieces.append(block[self._block_starts[-1] : colour.start()])
            length += len(pieces[-1])
            self._plain_starts.append(length)
            self._block_starts.append(colour.end())
        pieces.append(block[self._block_starts[-1] :])
        self._plain = b"".join(pieces).lower()

    def find(self, start: int) -> int:
        """Return where the first match at or after ``start``, which is no position within a colour,
        begins, or -1."""
        piece = bisect_right(self._block_starts, start) - 1
        found = self._plain.find(
            self._needle, self._plain_starts[piece] + start - self._block_starts[piece]
        )
        if found < 0:
            return -1
        piece = bisect_right(self._plain_starts, found) - 1
        return self._block_starts[piece] + found - self._plain_starts[piece]


def _match(descriptor: int, place: int, line_start: int, lines: int) -> Match:
    start = max(line_start, place - SHOWN_BEFORE)
    data = os.pread(descriptor, SHOWN_BYTES, start)
    if start > line_start:
        while data and 0x80 <= data[0] < 0xC0:  # within a character
            data, start = data[1:], start + 1
    line = data.split(b"\n", 1)[0]
    return Match(
        start, lines, line.decode("utf-8", "ignore" if len(line) == len(data) else "replace")
    )
