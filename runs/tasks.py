"""What django-q2 calls: short tasks that take keys, fetch and delegate."""

from datetime import timedelta

from django.conf import settings
from django.utils import timezone
from django_q.tasks import async_task

from runs.execution import launching
from runs.models import Host
from runs.services.disk import measure_ended
from runs.services.judgements import is_due
from runs.services.retention import prune_runs
from runs.services.telemetry import flush_measured
from tunixrt.audit import system_user

MEASURE_SECONDS = 10.0  # in one task


def launch_pending() -> str:
    """Start what this host can take now."""
    count = launching.launch_pending()
    flush_measured()
    return f"{count} runs"


def deliver_webhooks() -> str:
    """Send the messages about ended runs that are due."""
    from runs.services.webhook_delivery import deliver_due  # noqa: PLC0415 - 10 MB of libcurl that a worker without webhooks need not hold

    return f"{deliver_due()} attempts"


def judge() -> str:
    """Work for a while on a judgement that is due."""
    from runs.services.judging import judge_due  # noqa: PLC0415 - the same

    judgement = judge_due()
    if judgement is not None and is_due():
        async_task("runs.tasks.judge")
    return "nothing" if judgement is None else f"judgement {judgement.pk}"


def prune() -> str:
    """Remove what retention no longer keeps, and empty the trash."""
    days = settings.TUNIX_RETENTION_DAYS if settings.TUNIX_RETENTION else None
    pruned = prune_runs(
        by=system_user(),
        max_age=None if days is None else timedelta(days=days),
        keep_newest=settings.TUNIX_RETENTION_RUNS if settings.TUNIX_RETENTION else None,
    )
    if measure_ended(seconds=MEASURE_SECONDS):
        async_task("runs.tasks.measure")
    return f"{pruned.trashed} trashed, {pruned.purged} purged, {pruned.bytes_freed} bytes freed"


def measure() -> None:
    """Measure what ended runs take on disk, where that is not known."""
    if measure_ended(seconds=MEASURE_SECONDS):
        async_task("runs.tasks.measure")


def canary() -> None:
    """Show the attendant of the host that runs it that its task workers are alive."""
    Host.objects.filter(name=settings.TUNIX_HOST_NAME).update(canary_at=timezone.now())
