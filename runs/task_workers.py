"""This host's task workers: django-q2's cluster, forked from the attendant.

A fork shares what the attendant has loaded, which saves 100 MB beside a second Python with Django. The cluster can fall silent
without dying (a worker killed while it reads the queue keeps the lock for ever), so a canary task must come back; if it does not,
the whole cluster is replaced.
"""

import gc
import hashlib
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

from django.conf import settings
from django.db import connections
from django.utils import timezone
from django_q.cluster import Cluster
from django_q.tasks import async_task

from runs import tasks  # noqa: F401 - what the workers call is loaded before they are forked
from runs.execution import hosts
from runs.models import Host
from runs.processes import Process, processes_holding, send_signal
from runs.wakeup import hosts_folder

logger = logging.getLogger("tunixrt.attendant")

CANARY_SECONDS = 10.0
CANARY_OVERDUE = timedelta(seconds=30)
GRACE_SECONDS = 5.0
NAME = "qcluster"  # as ps -o comm shows the processes; their command line is the attendant's


class Workers:
    """The cluster of this host, in a session of its own.

    Its processes outlive their main process and even the attendant. An open memory file whose name stands for this host and
    output root marks all of them: it is inherited by fork, not by exec, and needs no file system.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        place = f"{hosts_folder()}/{settings.TUNIX_HOST_NAME}"
        self.mark = f"tunixrt-workers-{hashlib.sha256(place.encode()).hexdigest()}"
        self.canary_sent: datetime | None = None

    def keep(self) -> None:
        """Start the cluster, or replace it if its main process is gone or it does no tasks."""
        if self.pid is not None:
            gone = self._ended()
            if not gone and not self._silent():
                return
            logger.warning("the task workers are %s; replacing them", "gone" if gone else "silent")
        self._kill()
        self._start()

    def stop(self) -> None:
        """Send SIGTERM to the main process alone: to the group it would hang for ever. Then kill whatever is left."""
        if self.pid is None:
            return
        os.kill(self.pid, signal.SIGTERM)
        if not self._ended(GRACE_SECONDS):
            logger.info("the task workers did not stop in time; ending them")
        self._kill()

    def processes(self) -> list[Process]:
        """Every live process of this host's cluster, those of a predecessor too."""
        return processes_holding(f"/memfd:{self.mark} (deleted)")

    def _start(self) -> None:
        connections.close_all()  # a connection must not be shared with a fork
        gc.collect()
        gc.freeze()  # a collection in the fork would write to, and so copy, every page that is shared
        sys.stdout.flush()
        sys.stderr.flush()
        mark = os.memfd_create(self.mark)
        pid = os.fork()
        if pid == 0:
            _be_cluster(keep_open=mark)
        os.close(mark)
        self.pid = pid
        self.canary_sent = None

    def _ended(self, seconds: float = 0.0) -> bool:
        """Whether the main process has ended, or ends within so many seconds."""
        give_up = time.monotonic() + seconds
        while self.pid is not None and os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.02)
        self.pid = None
        return True

    def _silent(self) -> bool:
        """Whether the workers have done no task for too long, though one was there; asks for one when it is time."""
        now = timezone.now()
        done = Host.objects.values_list("canary_at", flat=True).get(pk=hosts.this_host().pk)
        waiting = self.canary_sent is not None and (done is None or done < self.canary_sent)
        if waiting and self.canary_sent is not None and now - self.canary_sent > CANARY_OVERDUE:
            return True
        if not waiting and self.canary_sent is not None and (now - self.canary_sent).total_seconds() < CANARY_SECONDS:
            return False
        if not waiting:
            self.canary_sent = now
        async_task("runs.tasks.canary")  # again while none came back: the workers of another host may have taken it
        return False

    def _kill(self) -> None:
        """Send SIGKILL to every process of the cluster until none is left, or the kernel holds one."""
        give_up = time.monotonic() + GRACE_SECONDS
        while (found := self.processes()) and time.monotonic() < give_up:
            for process in found:
                send_signal(process, signal.SIGKILL)
            time.sleep(0.01)
        self._ended()


def _be_cluster(*, keep_open: int) -> NoReturn:
    """Be the main process of the cluster, in the fork, and end with it."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # until the cluster has its own
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != keep_open:
                with suppress(OSError):  # the one that listed them is gone
                    os.close(int(name))  # the attendant's lock above all: it must end with the attendant
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        Path("/proc/self/comm").write_text(NAME)
        cluster = Cluster()
        cluster.start()
        cluster.sentinel.join()
        code = 0
    except BaseException:
        logger.exception("the task workers ended")
    finally:
        logging.shutdown()
        os._exit(code)
