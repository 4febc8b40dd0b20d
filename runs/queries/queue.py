"""The queue at a glance, as the admin shows it: hosts and their slots, active and pending runs,
what failed lately.

Every query reads a bounded number of rows through an index, whatever the tables hold.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django_q.models import Failure, OrmQ

from runs.models import DeliveryState, Host, Run, RunStatus, WebhookDelivery
from runs.services.output_root import start_problem

HOSTS_MAX = 100
EXECUTING_MAX = 200
NEXT_MAX = 15
FAILED_MAX = 10
COUNTED_MAX = 10_000
# An attendant sends a canary task every ten seconds and replaces workers that leave it undone for
# thirty.
TASKS_SILENT = timedelta(seconds=60)
ROW = (
    "run_id",
    "name",
    "status",
    "mode",
    "dataset_key",
    "model_id",
    "priority",
    "created_at",
    "owner__username",
)


@dataclass(frozen=True)
class Bounded:
    """A number of rows, counted up to ``COUNTED_MAX``."""

    number: int
    more: bool

    def __str__(self) -> str:
        return f"more than {COUNTED_MAX:,}" if self.more else f"{self.number:,}"

    def __bool__(self) -> bool:
        return self.number > 0


@dataclass(frozen=True)
class HostState:
    """A host and what it executes. ``heard``: within TUNIX_HOST_SILENT_SECONDS."""

    host: Host
    heard: bool
    tasks_alive: bool
    executing: list[Run]

    @property
    def used(self) -> int:
        return sum(run.supervised for run in self.executing)

    @property
    def free(self) -> int:
        return max(0, self.host.slots - self.used) if self.heard else 0


@dataclass(frozen=True)
class QueueState:
    now: datetime
    hosts: list[HostState]
    executing: list[Run]
    homeless: list[Run]  # executing on no host that is known
    waiting: Bounded
    waiting_trainings: Bounded
    oldest: Run | None
    next: list[Run]
    failed: list[Run]
    tasks: Bounded
    oldest_task: OrmQ | None
    failed_tasks: list[Failure]
    webhooks_waiting: Bounded
    root_problem: str | None  # why the output root keeps runs waiting

    @property
    def slots(self) -> int:
        return sum(state.host.slots for state in self.hosts if state.heard)

    @property
    def used(self) -> int:
        return sum(state.used for state in self.hosts if state.heard)

    @property
    def free(self) -> int:
        return sum(state.free for state in self.hosts)

    @property
    def waits_long(self) -> bool:
        return self.oldest is not None and self.now - self.oldest.created_at > timedelta(minutes=5)

    @property
    def problems(self) -> list[str]:
        """What an operator should look after, in sentences."""
        found = []
        alive = [state for state in self.hosts if state.heard]
        if self.root_problem:
            found.append(self.root_problem)
        if self.waiting and not alive:
            found.append("Runs wait and no host is alive: start “manage.py attend” on one.")
        elif self.waiting_trainings and not self.slots:
            found.append("Trainings wait and no live host has a slot: TUNIX_SLOTS is 0 everywhere.")
        elif self.waiting_trainings and self.free and self.waits_long and not self.root_problem:
            found.append(
                "A run has waited longer than five minutes although slots are free: look at the"
                " attendants' logs."
            )
        silence = f"{settings.TUNIX_HOST_SILENT_SECONDS:,.15g} s"
        found += [
            f"{state.host.name} has not been heard of for longer than {silence} while it executes"
            f" {len(state.executing)} run{'' if len(state.executing) == 1 else 's'}."
            for state in self.hosts
            if not state.heard and state.executing
        ]
        found += [
            f"The task workers of {state.host.name} have done nothing for a minute; its attendant"
            " replaces them."
            for state in alive
            if not state.tasks_alive
        ]
        return found


def read_queue() -> QueueState:
    """Return the state of the queue, with fourteen queries of bounded cost."""
    now = timezone.now()
    fields = (
        *ROW,
        "started_at",
        "step",
        "total_steps",
        "supervised",
        "host_id",
        "message",
        "completed_at",
    )
    rows = Run.objects.select_related("owner").only(*fields)
    executing = list(rows.executing()[:EXECUTING_MAX])
    by_host: dict[Any, list[Run]] = defaultdict(list)
    for run in executing:
        by_host[run.host_id].append(run)
    silent_before = now - timedelta(seconds=settings.TUNIX_HOST_SILENT_SECONDS)
    hosts = [
        HostState(
            host=host,
            heard=host.heartbeat_at is not None and host.heartbeat_at >= silent_before,
            tasks_alive=host.canary_at is not None and host.canary_at >= now - TASKS_SILENT,
            executing=by_host.pop(host.pk, []),
        )
        for host in Host.objects.all()[:HOSTS_MAX]
    ]
    pending = Run.objects.filter(status=RunStatus.PENDING)
    return QueueState(
        now=now,
        hosts=hosts,
        executing=executing,
        homeless=[run for group in by_host.values() for run in group],
        waiting=_count(pending),
        waiting_trainings=_count(pending.filter(supervised__in=[True])),
        oldest=rows.filter(status=RunStatus.PENDING).order_by("created_at", "run_id").first(),
        next=_next(rows),
        failed=_failed(rows),
        tasks=_count(OrmQ.objects.all()),
        oldest_task=OrmQ.objects.order_by("pk").first(),
        failed_tasks=list(Failure.objects.order_by("-stopped")[:5]),
        webhooks_waiting=_count(WebhookDelivery.objects.filter(state=DeliveryState.WAITING)),
        root_problem=start_problem(),
    )


def _next(rows: Any) -> list[Run]:
    """Return the runs that are claimed next. Query each kind by itself: only then does the claim's
    index give them in order."""
    found = [
        run
        for supervised in (True, False)
        for run in rows.pending_in_order(supervised=supervised)[:NEXT_MAX]
    ]
    found.sort(key=lambda run: (-run.priority, run.created_at, run.run_id))
    return found[:NEXT_MAX]


def _failed(rows: Any) -> list[Run]:
    found = [
        run
        for status in (RunStatus.FAILED, RunStatus.TIMEOUT)
        for run in rows.visible().failed(status)[:FAILED_MAX]
    ]
    found.sort(key=lambda run: run.completed_at, reverse=True)
    return found[:FAILED_MAX]


def _count(rows: QuerySet[Any]) -> Bounded:
    number = rows.order_by()[: COUNTED_MAX + 1].count()
    return Bounded(min(number, COUNTED_MAX), number > COUNTED_MAX)
