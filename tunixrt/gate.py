"""The gate between the web server's threads and Django: many threads may send, few compute.

The server has a thread for every live stream (docs/adr/0006-live-streams.md). Python runs one thread at a time, so many that
compute at once only get in each other's way, and each would keep a database connection of its own. So an answer is made in one of
a few places, and the database connections belong to the places, not to the threads. What is sent piece by piece (live streams,
downloads, exports) leaves its place, and the connection, before the first piece.
"""

import threading
import time
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
    """Lets in first who came first, and one at a time as long as that goes quickly: Python runs one thread at a time, and two
    that both could run hand the interpreter to and fro and lose a third of their time. Whoever is inside for longer than
    ``patience`` seconds waits for something (the database, a training in the request) and no longer counts; ``count`` may be
    inside at once."""

    def __init__(self, count: int, patience: float = 0.02):
        self._count = count
        self._patience = patience
        self._inside: dict[object, float] = {}  # thread, or turn of one that is waking up: when it was let in
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._waiting and self._is_room():
                self._inside[threading.get_ident()] = time.monotonic()
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        while not turn.acquire(timeout=self._patience):
            with self._lock:  # nobody has left meanwhile: those inside may be the slow ones
                self._let_in()
        with self._lock:
            self._inside[threading.get_ident()] = self._inside.pop(turn)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            del self._inside[threading.get_ident()]
            self._let_in()

    def _is_room(self) -> bool:
        quick_since = time.monotonic() - self._patience
        return len(self._inside) < self._count and all(came < quick_since for came in self._inside.values())

    def _let_in(self) -> None:
        """The first who waits, if there is room."""
        if self._waiting and self._is_room():
            turn = self._waiting.popleft()
            self._inside[turn] = time.monotonic()
            turn.release()


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
