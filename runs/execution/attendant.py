"""The attendant: one process per host that looks after what the host executes (``manage.py
attend``).

It updates the host's heartbeat, records progress and results, launches pending runs, and keeps this
host's task workers alive (runs/execution/workers.py). It can be killed and started again at any
moment: while it is absent, only updates are delayed."""

import logging
import os
import time
from collections.abc import Callable

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.utils import timezone
from django_q.tasks import async_task

from datasets.imports.supervision import Supervisor, WordIndexing, remove_leftovers
from datasets.models import UNDER_WAY, Import
from runs.execution import attending, hosts, launching, stopping
from runs.execution.workers import Workers
from runs.models import Host
from runs.runfolder import files
from runs.runfolder.processes import boot_id
from runs.services import gates, judgements
from runs.services.output_root import interrupted_restore, root_away, root_problem
from runs.services.runtime import local_runtime
from runs.services.telemetry import flush_measured
from runs.services.wakeup import WakeUp, hosts_folder
from runs.services.webhooks import due_deliveries

logger = logging.getLogger("tunixrt.attendant")

TICK_SECONDS = 0.25  # between two rounds while something executes
BEAT_SECONDS = 2.0  # and while nothing does; a new run wakes the attendant at once
LAUNCH_SECONDS = (
    1.0  # dry runs are answered for at most so long in one round; the task workers do the rest
)
IMPORTS_SECONDS = 0.5  # between two looks at imports while something executes
PRUNE_SECONDS = 3600.0

Stop = Callable[[], bool]


class Attendant:
    """``run`` until ``stop()`` is true. ``with_workers`` also keeps the task workers of this
    host."""

    def __init__(self, *, stop: Stop, with_workers: bool = True):
        self.stop = stop
        self.workers = Workers() if with_workers else None
        self.database_away_since: float | None = None
        self.observer = hosts.Observer()
        self.imports = Supervisor()
        self.word_indexing = WordIndexing()
        # told now: a process whose parents have ended is a child of the first one
        self.stops_trainings = stopping.ends_with_attendant()
        self._beat_due = 0.0
        self._imports_due = 0.0
        self._prune_due = time.monotonic() + PRUNE_SECONDS
        self._root_said = False
        self._executing = 0

    def run(self) -> None:
        lock = self._wait_for_turn()
        if lock is None:
            return
        try:
            logger.info(
                "attending %s: %s slots, output root %s",
                settings.TUNIX_HOST_NAME,
                settings.TUNIX_SLOTS,
                settings.TUNIX_OUTPUT_ROOT,
            )
            wake_up = WakeUp()
            while not self.stop():
                wake_up.wait(TICK_SECONDS if self.tick() else BEAT_SECONDS)
            wake_up.close()
        finally:
            self._stop()
            os.close(lock)

    def _stop(self) -> None:
        """Stop the task workers and, where they may be killed with this process, the trainings."""
        asked = stopping.ask_keepers_to_end() if self.stops_trainings else []
        if asked:
            logger.info("this container ends: %s trainings save and stop", len(asked))
        if self.workers:
            self.workers.stop()  # before the wait for keepers: workers start trainings
        if self.stops_trainings:
            stopping.wait_for_keepers(asked)
            try:
                self._record_ends()
            except (OperationalError, InterfaceError) as error:
                logger.warning(
                    "the database is away; the ends of the trainings are on disk: %s", error
                )

    @staticmethod
    def _record_ends() -> None:
        """Record the results of the trainings now, not in the next attendant.

        A keeper that ends is no process of its name any more a moment before the kernel gives its
        lock back, and counts as alive until then.
        """
        give_up = time.monotonic() + stopping.MARGIN_SECONDS
        while attending.attend() and time.monotonic() < give_up:
            time.sleep(stopping.POLL_SECONDS)

    def _wait_for_turn(self) -> int | None:
        """Wait until this is the one attendant of the host. Return None if it is told to stop
        meanwhile."""
        path = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.attend"
        said = ""
        self._look_at_root()  # makes the folders of a new one
        while not self.stop():
            try:
                lock = files.try_lock(path)
                waits_for = f"another attendant looks after {settings.TUNIX_HOST_NAME}; waiting"
            except OSError as error:
                lock = None
                waits_for = self._look_at_root() or f"{path} cannot be opened: {error}"
            if lock is not None:
                return lock
            if waits_for != said:
                logger.info(waits_for)
                said = waits_for
            time.sleep(TICK_SECONDS)
        return None

    @staticmethod
    def _look_at_root() -> str | None:
        """Make the output root of a new database; else say why it cannot be used."""
        try:
            close_old_connections()
            return root_problem()
        except (OperationalError, InterfaceError) as error:
            connection.close()
            return f"waiting for the database: {error}"

    def tick(self) -> bool:
        """Do one round; return whether the next one is due soon, since something executes here or
        the database is away. An absent database only delays updates. After an interrupted restore,
        do nothing, since the database may be incomplete."""
        if problem := interrupted_restore():
            if not self._root_said:
                logger.error("doing nothing: %s", problem)
            self._root_said = True
            return False
        for part in (self._launch, self._attend, self._attend_imports, self._beat_if_due):
            try:
                close_old_connections()
                part()
            except (OperationalError, InterfaceError) as error:
                connection.close()
                self.observer.broken()
                if self.database_away_since is None:
                    self.database_away_since = time.monotonic()
                    logger.warning("the database is away, trainings continue: %s", error)
                return True
            except (
                Exception
            ):  # what is wrong with one part must not keep the others from their work
                logger.exception("a round failed; the next one tries again")
        if self.database_away_since is not None:
            logger.warning(
                "the database is back after %.0f s", time.monotonic() - self.database_away_since
            )
            self.database_away_since = None
        return self._executing > 0

    @staticmethod
    def _launch() -> None:
        launching.launch_pending(LAUNCH_SECONDS)

    def _attend(self) -> None:
        self._executing = attending.attend()

    def _attend_imports(self) -> None:
        if time.monotonic() < self._imports_due:
            return
        self._imports_due = time.monotonic() + IMPORTS_SECONDS
        if Import.objects.filter(state__in=UNDER_WAY).exists() and not root_away():
            self.imports.attend()

    def _beat_if_due(self) -> None:
        if time.monotonic() >= self._beat_due:
            self._beat_due = time.monotonic() + BEAT_SECONDS
            self._beat()

    def _beat(self) -> None:
        """Do the work that is not needed in every round."""
        beat()
        if self.workers:
            self.workers.keep()
        problem = root_problem()
        if problem and not self._root_said:
            logger.error("starting nothing: %s", problem)
        self._root_said = bool(problem)
        hosts.stop_taken_away()
        self.observer.observe()
        self.word_indexing.keep()
        gates.decide_waiting()
        if judgements.is_due():
            async_task("runs.tasks.judge")
        if due_deliveries().exists():
            async_task("runs.tasks.deliver_webhooks")
        if time.monotonic() >= self._prune_due:
            self._prune_due = time.monotonic() + PRUNE_SECONDS
            async_task("runs.tasks.prune")
            remove_leftovers()
        flush_measured()


def beat() -> None:
    """Record this host's heartbeat and capabilities."""
    Host.objects.filter(pk=hosts.this_host().pk).update(
        heartbeat_at=timezone.now(),
        boot_id=boot_id(),
        slots=settings.TUNIX_SLOTS,
        runtime_version=local_runtime().version or "",
        silent_since=None,
    )
