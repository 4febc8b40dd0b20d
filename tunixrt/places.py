"""Places: the threads that make answers, and which request is admitted to them next.

The client that has used least time in them lately is admitted first, and the requests of one client
FIFO. Python runs one thread at a time, so quick requests are admitted one at a time; a request that
has been running for ``PATIENCE`` is assumed to be blocked on I/O, and the next one is admitted
beside it. One place is kept from requests that may take long, and from a client that has all the
others.

Under attack, the median answer of an honest client took 1,000 to 3,300 ms while all requests were
FIFO, and takes 55 ms in this order (docs/reliability.md, "The attack").
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tunixrt.shares import AllTaken, OwnTaken, Shares

PATIENCE = 0.02  # seconds after which a running request no longer keeps the next one waiting
CHARGED_MAX = (
    1.0  # seconds of a request that count; one that takes longer waits for a training, mostly
)
HEAVY = 2  # requests with a large body, at once
# Seconds after which to look whether another worker has ended one of them: nothing tells.
HEAVY_AGAIN = 0.05
KNOWN_MAX = 4096  # clients whose time is remembered


class Gone(Exception):
    """The client is no longer there."""


class Places:
    """Threads that compute, and who is admitted to them next. Used on one event loop."""

    def __init__(self, count: int, patience: float = PATIENCE):
        self._count = count
        self._patience = patience
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="place")
        self._waiting: dict[str, deque[Visit]] = {}  # by client
        # by client: seconds in places lately, and when that was counted
        self._used: dict[str, tuple[float, float]] = {}
        self._inside: dict[Visit, float] = {}
        self._slow = 0
        self._heavy = Shares("heavy")
        self._of: Counter[str | bytes] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def visit(
        self,
        work: Callable[[], Any],
        *,
        client: str,
        who: str | bytes,
        slow: bool = False,
        heavy: bool = False,
    ) -> "Visit":
        """Run ``work`` in a place when its turn comes; its ``result`` can be awaited.

        Args:
            client: whose time is used. It may be an address that several share.
            who: whose places are counted.
            slow: it may take long.
            heavy: it computes all the while, and takes memory. One of each, and HEAVY in all,
                whichever worker they came to.
        """
        visit = Visit(work, client, who, slow, heavy, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(client, deque()).append(visit)
        self._admit()
        return visit

    def give_up(self, visit: "Visit") -> None:
        """Take one that is still waiting out of the queue. Its result is then Gone."""
        if not visit.admitted and not visit.result.done():
            self._leave_queue(visit)
            visit.result.set_exception(Gone())

    def _leave_queue(self, visit: "Visit") -> None:
        waiting = self._waiting[visit.client]
        waiting.remove(visit)
        if not waiting:
            del self._waiting[visit.client]

    def _seconds_used(self, client: str, now: float) -> float:
        """Return the time that a client has spent in places; what is a second older counts half."""
        used, at = self._used.get(client, (0.0, now))
        return used * 0.5 ** (now - at)

    def _charge(self, client: str, seconds: float, now: float) -> None:
        self._used[client] = (self._seconds_used(client, now) + min(seconds, CHARGED_MAX), now)
        if len(self._used) > KNOWN_MAX:
            self._used = {one: used for one, used in self._used.items() if used[1] > now - 10.0}

    def _admit(self) -> None:
        """Admit those whose turn it is. Skip requests that only wait for others of their kind
        or client."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        refused: set[str | bytes | None] = set()
        while self._waiting and len(self._inside) < self._count:
            newest = max(self._inside.values(), default=-math.inf)
            if newest + self._patience > now:  # one that may be computing
                self._timer = loop.call_at(newest + self._patience, self._admit)
                return
            clients = sorted(self._waiting, key=lambda client: self._seconds_used(client, now))
            visit = next(
                (
                    visit
                    for client in clients
                    for visit in self._waiting[client]
                    if self._lets_in(visit, refused)
                ),
                None,
            )
            if visit is None:
                if any(visit.heavy for queue in self._waiting.values() for visit in queue):
                    self._timer = loop.call_at(now + HEAVY_AGAIN, self._admit)
                return
            self._leave_queue(visit)
            visit.admitted = True
            self._inside[visit] = now
            self._slow += visit.slow
            self._of[visit.who] += 1
            inside = loop.run_in_executor(self._threads, visit.work)
            inside.add_done_callback(lambda done, visit=visit: self._leave(visit, done))  # type: ignore[misc]

    def _lets_in(self, visit: "Visit", refused: set[str | bytes | None]) -> bool:
        """Return whether a request may be admitted now; a heavy one has its share then. ``refused``
        notes whose heavy requests have no share, None for those of all, so that a thousand that
        wait are not a thousand tries."""
        most = max(1, self._count - 1)
        if self._of[visit.who] >= most or (visit.slow and self._slow >= most):
            return False
        if visit.heavy:
            if refused & {visit.who, None}:
                return False
            try:
                visit.release = self._heavy.take(visit.who, total=HEAVY, each=1)
            except AllTaken as taken:
                refused.add(visit.who if isinstance(taken, OwnTaken) else None)
                return False
        return True

    def _leave(self, visit: "Visit", done: asyncio.Future[Any]) -> None:
        now = asyncio.get_running_loop().time()
        self._charge(visit.client, now - self._inside.pop(visit), now)
        self._slow -= visit.slow
        visit.release()
        self._of[visit.who] -= 1
        if not self._of[visit.who]:
            del self._of[visit.who]
        if not visit.result.done():  # else the client has gone
            if error := done.exception():
                visit.result.set_exception(error)
            else:
                visit.result.set_result(done.result())
        self._admit()


@dataclass(eq=False)
class Visit:
    work: Callable[[], Any]
    client: str
    who: str | bytes
    slow: bool
    heavy: bool
    result: asyncio.Future[Any]
    admitted: bool = False
    release: Callable[[], None] = lambda: None
