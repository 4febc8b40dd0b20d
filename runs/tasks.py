"""What django-q2 calls: short tasks that take keys, fetch and delegate."""

from runs.execution import launching


def launch_pending() -> str:
    """Start what this host can take now."""
    return f"{launching.launch_pending()} runs"
