"""The audit log: what people did that leaves no trace of its own, or whose trace goes with what
they deleted."""

from django.contrib.admin.models import LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.auth.models import User
from django.db.models import Model
from django.utils import timezone

SYSTEM_USERNAME = "system"


def write_log_entry(*, by: User, target: Model, name: str, flag: int, message: str) -> LogEntry:
    """Write one line of the audit log."""
    return LogEntry.objects.create(
        user_id=by.pk,
        content_type_id=get_content_type_for_model(target).pk,
        object_id=str(target.pk),
        object_repr=name[:200],
        action_flag=flag,
        change_message=message,
        action_time=timezone.now(),
    )


def system_user() -> User:
    """Return the account for actions of the system (commands, retention); it cannot log
    in."""
    user, _ = User.objects.get_or_create(
        username=SYSTEM_USERNAME, defaults={"is_active": False, "password": "!"}
    )
    return user
