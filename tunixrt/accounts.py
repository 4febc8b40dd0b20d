"""Accounts: deactivated, never deleted once something is known of them; staff status goes with the
role."""

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import ProtectedError
from django.db.models.signals import m2m_changed, pre_delete
from django.dispatch import receiver
from django.http import HttpRequest

from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict, NotAllowed
from tunixrt.roles import May, Role, forget_role, outranks, require


def person(request: HttpRequest) -> User:
    """Return the user of the request, who is logged in, since the view requires it."""
    assert isinstance(request.user, User)
    return request.user


def set_active(*, user: User, by: User, active: bool) -> None:
    """Activate or deactivate an account; either ends its sessions and tokens.

    Raises:
        NotAllowed: the account has more rights than ``by``.
        Conflict: it is one's own, or it is so already.
    """
    require(by, May.OPERATE)
    if outranks(by, user):
        raise NotAllowed(f"The account {user.get_username()} has more rights than yours.")
    if user.pk == by.pk:
        raise Conflict("You cannot deactivate your own account.")
    if user.is_active == active:
        raise Conflict(
            f"The account {user.get_username()} is {'active' if active else 'not active'} already."
        )
    with transaction.atomic():
        user.is_active = active
        user.save(update_fields=["is_active"])
        message = "activated" if active else "deactivated"
        write_log_entry(by=by, target=user, name=user.get_username(), flag=CHANGE, message=message)


def save_own_password(*, user: User, known: str) -> None:
    """Write the new hash that ``user.set_password`` has made; no other column, since another
    request may have changed those while the hash was made.

    ``known``: the hash of the old password that was asked for. The account must still have it and
    be active: a deactivation or a new password from an operator stands.

    Raises:
        Conflict: it does not, or is not.
    """
    same = User.objects.filter(pk=user.pk, is_active=True, password=known)
    if not same.update(password=user.password):
        raise Conflict(
            "Your password was not changed: meanwhile the account was deactivated or got another"
            " password. Log in again, or ask an operator."
        )


@receiver(m2m_changed, sender=User.groups.through)
def _staff_by_role(
    sender: Any,
    instance: User | Group,
    action: str,
    reverse: bool,
    pk_set: set[int] | None,
    **kwargs: Any,
) -> None:
    """Give staff status to a new operator; take it from an account that is no longer one."""
    if isinstance(instance, User):
        forget_role(instance)
    if action not in ("post_add", "post_remove", "pre_clear"):
        return
    operator = Role.OPERATOR.label
    if action == "pre_clear":
        users = User.objects.filter(groups__name=operator)
        users = (
            users.filter(pk=instance.pk)
            if isinstance(instance, User)
            else users.filter(groups=instance)
        )
    elif isinstance(instance, User):
        concerned = Group.objects.filter(pk__in=pk_set or (), name=operator).exists()
        users = User.objects.filter(pk=instance.pk) if concerned else User.objects.none()
    else:
        users = (
            User.objects.filter(pk__in=pk_set or ())
            if instance.name == operator
            else User.objects.none()
        )
    for user in list(users):
        target = instance if user == instance else user
        assert isinstance(target, User)
        target.is_staff = action == "post_add" or target.is_superuser
        target.save(update_fields=["is_staff"])


@receiver(pre_delete, sender=User)
def _keep_the_audit_log(sender: Any, instance: User, **kwargs: Any) -> None:
    """Keep the entries of the audit log, which Django would delete with the account."""
    if LogEntry.objects.filter(user=instance).exists():
        raise ProtectedError(
            "The audit log names this account. Deactivate it instead.",
            set(LogEntry.objects.filter(user=instance)[:1]),
        )
