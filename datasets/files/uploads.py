"""Request bodies that are files: bounded, and complete or refused."""

import io
from typing import Protocol

from django.http import HttpRequest

from tunixrt.refusals import TooLarge

NO_ROOM = "The server has no room for the upload. Nothing was stored."


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class WholeBody(io.RawIOBase):
    """A request's stream. Reading raises TooLarge at once when more than ``limit`` bytes are
    announced, and OSError (Django: UnreadablePostError) when it ends before the announced length: a
    file that was cut off at the end of a line would otherwise look complete, since Django takes a
    missing last boundary for the end.
    """

    def __init__(self, stream: _Readable, announced: int, limit: int):
        self._stream = stream
        self._announced = announced
        self._limit = limit
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._announced > self._limit:
            raise TooLarge(self._limit)
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._received += len(data)
        if not data and self._received < self._announced:
            raise OSError(
                f"The upload ended after {self._received:,} of {self._announced:,} bytes."
            )
        return len(data)


def guard_body(request: HttpRequest, limit: int) -> None:
    """Watch over the body of a request before it is read. WSGI gives no more than
    CONTENT_LENGTH bytes.

    Behind the front (tunixrt/front.py) a body is complete and bounded already; other WSGI servers
    promise neither.
    """
    length = request.META.get("CONTENT_LENGTH") or "0"
    announced = int(length) if length.isascii() and length.isdigit() else 0
    body = WholeBody(request._stream, announced, limit)
    request._stream = io.BufferedReader(body, 64 * 1024)
