"""HTTP requests over kept connections, at a rate or as fast as they are answered, from a process of
their own.

The clients share the machine with the server, so they do as little as possible: prepared bytes out,
length and code in.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from benchmarks.chaos.figures import quantile

ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """Milliseconds that the answers took, in order of arrival, and how long all took (s)."""

    milliseconds: list[float]
    seconds: float

    @property
    def a_second(self) -> float:
        return len(self.milliseconds) / self.seconds

    def spread(self) -> str:
        """Return p50 / p95 / p99 in milliseconds."""
        return " / ".join(
            f"{quantile(self.milliseconds, share):.1f}" for share in (0.5, 0.95, 0.99)
        )


class NotAsExpected(Exception):
    """An answer other than 200."""


class Connection:
    """One kept connection with at most one request under way."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._wanted: int | None = None
        self.due = 0.0

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read the answer; return whether it is complete. Raise NotAsExpected."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise NotAsExpected("The server closed the connection.")
        self._received += data
        if self._wanted is None and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                raise NotAsExpected(bytes(self._received[:2000]).decode(errors="replace"))
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self._wanted = end + 4 + int(length)
        if self._wanted is None or len(self._received) < self._wanted:
            return False
        self._received.clear()
        self._wanted = None
        return True


def get(path: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def put_load(
    port: int, request: bytes, *, seconds: float, connections: int = 8, rate: float | None = None
) -> Load:
    """Send requests for a time. ``rate``: requests a second, each timed from when it was due, so
    that waiting for a free connection counts; None: a connection sends its next request as soon as
    it has an answer."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, port, request, seconds, connections, rate))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        raise NotAsExpected("The clients died; see above.") from None
    finally:
        process.join()
    if isinstance(found, str):
        raise NotAsExpected(found)
    return Load(*found)


def _run(
    pipe: Pipe, port: int, request: bytes, seconds: float, count: int, rate: float | None
) -> None:
    try:
        pipe.send(_clients(port, request, seconds, count, rate))
    except (NotAsExpected, OSError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _clients(
    port: int, request: bytes, seconds: float, count: int, rate: float | None
) -> tuple[list[float], float]:
    selector = selectors.DefaultSelector()
    free: deque[Connection] = deque(Connection(port) for _ in range(count))
    for connection in free:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    took: list[float] = []
    began = now = time.perf_counter()
    sent, busy = 0, 0
    while now < began + seconds or busy:
        while free and now < began + seconds:
            due = now if rate is None else began + sent / rate
            if due > now:
                break
            connection = free.popleft()
            connection.send(request, due)
            sent += 1
            busy += 1
        pause = (
            ANSWER_SECONDS
            if rate is None or not free or now >= began + seconds
            else max(0.0, began + sent / rate - now)
        )
        for key, _ in selector.select(pause):
            if key.data.receive():
                took.append(1000 * (time.perf_counter() - key.data.due))
                free.append(key.data)
                busy -= 1
        now = time.perf_counter()
    return took, now - began
