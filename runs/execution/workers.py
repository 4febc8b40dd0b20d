"""This host's task workers: processes forked from the attendant, each of which runs django-q2's
pusher, worker and monitor.

django-q2's own cluster is six processes for two workers, of 15 MB each even where they share what
they can; the same functions in threads of one process are 15 MB for a worker. What its sentinel
watches over is seen to here: a worker that is gone is replaced, one whose task overruns its time
limit ends itself, and a canary task has to come back.
"""

import contextlib
import faulthandler
import gc
import hashlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.db import connections
from django.utils import timezone
from django_q.conf import Conf
from django_q.monitor import monitor
from django_q.pusher import pusher
from django_q.tasks import async_task
from django_q.worker import worker

from runs.execution import hosts
from runs.models import Host
from runs.runfolder.processes import Process, processes_holding, send_signal
from runs.services.wakeup import hosts_folder

logger = logging.getLogger("tunixrt.attendant")

CANARY_SECONDS = 10.0
CANARY_OVERDUE = timedelta(seconds=30)
GRACE_SECONDS = 5.0
OVERRUN_SECONDS = 10.0  # after its time limit, for a task that takes no notice of it
NAME = "task worker"  # as ps -o comm shows it; the command line is the attendant's


class Workers:
    """The task workers of this host, each in a session of its own.

    They outlive the attendant. An open memory file whose name stands for this host and its output
    root marks them: a fork inherits it, the programs that they start do not, and it needs no file
    system.
    """

    def __init__(self) -> None:
        place = f"{hosts_folder()}/{settings.TUNIX_HOST_NAME}"
        self.mark = f"tunixrt-workers-{hashlib.sha256(place.encode()).hexdigest()}"
        self.canary_sent: datetime | None = None
        self._pids: set[int] = set()
        self._canary_is_back = False
        self._is_first = True

    def keep(self) -> None:
        """Start workers in place of those that are gone, or of all if none has done a task for too
        long."""
        if self._is_first:
            self._kill()  # what a predecessor has left
            self._is_first = False
        if gone := self._collect():
            logger.warning("%s task workers are gone; replacing them", gone)
        if self._pids and self._silent():
            logger.warning("the task workers are silent; replacing them")
            self._kill()
        while len(self._pids) < Conf.WORKERS:
            self._start()

    def stop(self) -> None:
        """Let the workers finish what they have begun, for some seconds, then kill those that are
        left."""
        for process in self.processes():
            send_signal(process, signal.SIGTERM)
        give_up = time.monotonic() + GRACE_SECONDS
        while self.processes() and time.monotonic() < give_up:
            self._collect()
            time.sleep(0.02)
        if self.processes():
            logger.info("the task workers did not stop in time; ending them")
            self._kill()
        self._collect()

    def processes(self) -> list[Process]:
        """Return every live task worker of this host, including those of an earlier attendant."""
        return processes_holding(f"/memfd:{self.mark} (deleted)")

    def _start(self) -> None:
        connections.close_all()  # a connection must not be shared with a fork
        gc.collect()
        # a collection in the fork would write to, and so copy, every page that is shared
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        mark = os.memfd_create(self.mark)
        try:
            pid = os.fork()
            if pid == 0:
                _be_worker(keep_open=mark)
            self._pids.add(pid)
        finally:
            os.close(mark)
        self.canary_sent = None

    def _collect(self) -> int:
        """Take note of workers that have ended, and return how many were not expected to."""
        ended = {
            pid: os.waitstatus_to_exitcode(status)
            for pid in self._pids
            if (status := _status(pid)) is not None
        }
        self._pids -= ended.keys()
        return sum(code != 0 for code in ended.values())

    def _silent(self) -> bool:
        """Return whether the workers have done no task for too long, although one was there; ask
        for one when it is time."""
        now = timezone.now()
        is_due = (
            self.canary_sent is None or (now - self.canary_sent).total_seconds() >= CANARY_SECONDS
        )
        if self._canary_is_back and not is_due:
            return False
        done = Host.objects.values_list("canary_at", flat=True).get(pk=hosts.this_host().pk)
        waiting = self.canary_sent is not None and (done is None or done < self.canary_sent)
        if waiting and self.canary_sent is not None and now - self.canary_sent > CANARY_OVERDUE:
            return True
        self._canary_is_back = not waiting
        if not waiting and not is_due:
            return False
        if not waiting:
            self.canary_sent, self._canary_is_back = now, False
        # again while none came back: the workers of another host may have taken it
        async_task("runs.tasks.canary")
        return False

    def _kill(self) -> None:
        """Send SIGKILL to every worker until none is left, or the kernel holds one.

        A process closes its files, by which it is found here, some time before its parent can
        collect it.
        """
        give_up = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < give_up:
            found = self.processes()
            for process in found:
                send_signal(process, signal.SIGKILL)
            self._collect()
            if not found and not self._pids:
                break
            time.sleep(0.01)


def _status(pid: int) -> int | None:
    """Return the wait status of a child that has ended, or None."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


# --- in the worker --------------------------------------------------------------------------------


def _be_worker(*, keep_open: int) -> NoReturn:
    """Run as a task worker, in the fork, until told to stop by SIGTERM."""
    code = 1
    try:
        _detach(keep_open)
        _work()
        code = 0
    except BaseException:
        logger.exception("a task worker ends")
    finally:
        logging.shutdown()
        os._exit(code)


def _detach(keep_open: int) -> None:
    """Share nothing with the attendant but memory. Its locks above all must end with
    it."""
    os.setsid()
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep_open:
            with contextlib.suppress(OSError):  # the one that listed them is gone
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    Path("/proc/self/comm").write_text(NAME)


def _work() -> None:
    """Run tasks in this thread, since only a main thread can be interrupted by a time limit; fetch
    and acknowledge in others."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.set())
    claimed: queue.Queue[Any] = queue.Queue(Conf.QUEUE_LIMIT)
    results: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_fetch, args=(claimed, stopping), name="pusher", daemon=True).start()
    saver = threading.Thread(target=_save, args=(results,), name="monitor", daemon=True)
    saver.start()
    timer = Timer()
    while True:
        timer.value = Timer.IDLE
        worker(claimed, results, timer, Conf.TIMEOUT)
        if timer.value == Timer.IDLE:
            break
        # a task overran its time limit, or a fresh process is due: do what is claimed already, and
        # end
        stopping.set()
    results.put("STOP")
    saver.join()


def _fetch(claimed: "queue.Queue[Any]", stopping: threading.Event) -> None:
    with _ends_the_process():
        while not stopping.is_set():
            pusher(claimed, stopping)  # returns too when the database was away
        claimed.put("STOP")


def _save(results: "queue.Queue[Any]") -> None:
    with _ends_the_process():
        monitor(results)


@contextlib.contextmanager
def _ends_the_process() -> Iterator[None]:
    """End the process after an error: no worker must be left without one of its threads. A task
    that is not acknowledged is delivered again, which does no harm."""
    try:
        yield
    except BaseException:
        logger.exception("a task worker ends")
        os._exit(1)


class Timer:
    """What django-q2's worker tells its guard: the seconds that a task may take, or why it has no
    task.

    A task gets an exception at its time limit. If that does not end it, the process ends, and says
    on stderr where it was.
    """

    IDLE = -1

    def __init__(self) -> None:
        self._value: float = self.IDLE
        self._watch: threading.Timer | None = None

    @property
    def value(self) -> float:
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._value = value
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if value > 0:
            self._watch = threading.Timer(value + OVERRUN_SECONDS, _end_overrunning)
            self._watch.daemon = True
            self._watch.start()

    def get_lock(self) -> contextlib.AbstractContextManager[None]:
        """Return what a ``multiprocessing.Value`` has; there is one process here."""
        return contextlib.nullcontext()


def _end_overrunning() -> None:
    logger.error("a task takes no notice of its time limit; its worker ends")
    faulthandler.dump_traceback()
    os._exit(1)
