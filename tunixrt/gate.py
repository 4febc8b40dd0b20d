"""The gate between the web server's threads and Django: many threads may send, few compute.

The server has a thread for every live stream (docs/adr/0006-live-streams.md). Python runs one thread at a time, so many that
compute at once only get in each other's way, and each would keep a database connection of its own. So an answer is made in one of
a few places, and the database connections belong to the places, not to the threads. What is sent piece by piece (live streams,
downloads, exports) leaves its place, and the connection, before the first piece.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http.response import HttpResponseBase

# Answers that are sent piece by piece at once, beside the live streams: downloads, exports, static files.
DOWNLOADS = 32
TOO_MANY = b'{"detail": "The server is sending as much as it can; try again in a moment."}'

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Places:
    """A semaphore that lets in first who came first. Python's own lets a thread that is awake pass those that it has just woken,
    and with every request some wait several times as long as the others."""

    def __init__(self, count: int):
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Gate:
    """A WSGI application: ``django``, Django's own, for ``places`` requests at once; the others wait. ``sending`` answers may be
    under way piece by piece; the next one is 503, so that slow readers never take the last thread."""

    def __init__(self, django: Callable[[Environ, StartResponse], HttpResponseBase], places: int, sending: int):
        self._django = django
        self._places = Places(places)
        self._sending = threading.BoundedSemaphore(sending)
        self._connections: list[BaseDatabaseWrapper] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with self._places:
            if self._connections:
                connections[DEFAULT_DB_ALIAS] = self._connections.pop()
            try:
                response = self._django(environ, start_response)
                if not getattr(response, "streaming", True):  # a development server wraps files
                    body = [b"".join(response)]  # the server sends a list at once
                    response.close()
                    return body
            finally:
                self._keep_connection()
        if self._sending.acquire(blocking=False):
            return Sending(response, self._sending.release)
        response.close()
        headers = [("Content-Type", "application/json"), ("Retry-After", "5"), ("Content-Length", str(len(TOO_MANY)))]
        start_response("503 Service Unavailable", headers)
        return [TOO_MANY]

    def _keep_connection(self) -> None:
        for connection in connections.all(initialized_only=True):
            if not connection.allow_thread_sharing:
                connection.inc_thread_sharing()  # one thread at a time has it: the one in the place
            self._connections.append(connection)
            del connections[DEFAULT_DB_ALIAS]


class Sending:
    """An answer that is sent piece by piece. A database connection that its pieces needed ends with it."""

    def __init__(self, response: HttpResponseBase, done: Callable[[], None]):
        self._response = response
        self._pieces: Iterator[bytes] = iter(response)
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()
            self._response.close()
            connections.close_all()
