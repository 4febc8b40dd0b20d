"""What django-q2 calls: short tasks that take keys, fetch and delegate."""

from django.utils import timezone

from runs.execution import launching
from runs.models import Host


def launch_pending() -> str:
    """Start what this host can take now."""
    return f"{launching.launch_pending()} runs"


def canary(host_name: str) -> None:
    """Shows the attendant of a host that the task queue is alive."""
    Host.objects.filter(name=host_name).update(canary_at=timezone.now())
