"""Request bodies that are files: bounded, and complete or refused."""

from typing import Any, Protocol

from django.http import HttpRequest

from tunixrt.api.parsers import BodyTooLarge


class _Readable(Protocol):
    def read(self, *args: Any) -> bytes: ...

    def readline(self, *args: Any) -> bytes: ...


class WholeBody:
    """A request's stream. Reading raises BodyTooLarge at once when more than ``limit`` bytes are announced, and OSError
    (Django: UnreadablePostError) when it ends before the announced length: a file that was cut off at the end of a line
    would otherwise look complete, since Django takes a missing last boundary for the end.
    """

    def __init__(self, stream: _Readable, announced: int, limit: int):
        self._stream = stream
        self._announced = announced
        self._limit = limit
        self._received = 0

    def read(self, *args: Any) -> bytes:
        return self._checked(self._stream.read, *args)

    def readline(self, *args: Any) -> bytes:
        return self._checked(self._stream.readline, *args)

    def _checked(self, read: Any, *args: Any) -> bytes:
        if self._announced > self._limit:
            raise BodyTooLarge(self._limit)
        data: bytes = read(*args)
        self._received += len(data)
        if not data and self._received < self._announced and args != (0,):
            raise OSError(f"The upload ended after {self._received:,} of {self._announced:,} bytes.")
        return data


def guard_body(request: HttpRequest, limit: int) -> None:
    """Watch over the body of a request that nobody has read yet. WSGI gives no more than CONTENT_LENGTH bytes."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    announced = int(length) if length.isascii() and length.isdigit() else 0
    request._stream = WholeBody(request._stream, announced, limit)  # type: ignore[assignment]


def names_no_length(request: HttpRequest) -> bool:
    """A body sent in chunks: WSGI cannot read it, so it would look empty."""
    return not request.META.get("CONTENT_LENGTH") and "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()
