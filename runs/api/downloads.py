"""Whole files and ranges of them (RFC 9110, section 14), sent in pieces."""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

PIECE_BYTES = 1 << 18
# One range, and no number that a file could not have.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Pieces:
    """The bytes ``start`` to ``end`` of an open file; closes it, also when the answer is never
    sent."""

    def __init__(self, descriptor: int, start: int, end: int):
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._position, self._end = start, end

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._file.closed or self._position >= self._end:
            raise StopIteration
        piece = os.pread(
            self._file.fileno(), min(PIECE_BYTES, self._end - self._position), self._position
        )
        if not piece:  # the file became shorter
            raise StopIteration
        self._position += len(piece)
        return piece

    def close(self) -> None:
        self._file.close()


def send_file(
    request: HttpRequest, descriptor: int | None, *, filename: str, content_type: str
) -> HttpResponseBase:
    """Answer with an open file as it is now, or the range of it that was asked for: 200, 206 or
    416. Take over ``descriptor``; None is a file without content."""
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": content_type,
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    if descriptor is None:
        return HttpResponse(b"", headers=headers)
    status = os.fstat(descriptor)
    size = status.st_size
    headers["ETag"] = etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{size:x}"'
    asked = (
        request.headers.get("Range", "") if request.headers.get("If-Range", etag) == etag else ""
    )
    wanted = parse_range(asked, size)
    if wanted is not None and wanted[0] >= wanted[1]:
        os.close(descriptor)
        refusal = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
        return HttpResponse(
            b'{"detail": "The range lies outside the file."}',
            "application/json",
            416,
            headers=refusal,
        )
    start, end = wanted or (0, size)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    return StreamingHttpResponse(
        Pieces(descriptor, start, end), status=206 if wanted else 200, headers=headers
    )


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return ``(start, end)`` of the one range asked for, end excluded; empty if it lies outside;
    None if the whole is to be sent.

    A range that cannot be read is ignored, and several ranges get the whole: both as RFC 9110
    allows.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)) if int(last) else size, size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1 if last else size, size)
