"""Who may do what. The policy stands in docs/operations.md ("Roles"), and a test walks every route
with every role.

A role is a group of accounts; an account in none of them is a researcher. Pages, API and admin ask
``require`` in their first line, mostly through ``runs.services.access.get_run_for`` and
``datasets.services.access.get_dataset_for``.
"""

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from functools import cache
from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.db.models import Model

from tunixrt.audit import SYSTEM_USERNAME
from tunixrt.refusals import NotAllowed


class Role(IntEnum):
    """Each may do what those before it may."""

    VIEWER = 1
    RESEARCHER = 2
    OPERATOR = 3
    SUPERUSER = 4

    @property
    def label(self) -> str:
        return self.name.lower()


GROUPS = (Role.VIEWER, Role.RESEARCHER, Role.OPERATOR)
DEFAULT = Role.RESEARCHER
_ROLES = {role.label: role for role in GROUPS}


class May(StrEnum):
    """An action that needs permission."""

    READ = "read"
    MAKE = "make"  # traces, datasets, runs
    ACT = "act"  # on what one owns; on what others own that takes an operator
    OPERATE = "operate"  # what concerns everybody


def user_role(user: User | AnonymousUser) -> Role:
    """Return the highest role of an account. Costs one query for each account object that is not a
    superuser's."""
    # who runs commands has the database
    if user.is_superuser or (user.username == SYSTEM_USERNAME and not user.is_active):
        return Role.SUPERUSER
    known: Role | None = getattr(user, "_role", None)
    if known is None:
        held = [_ROLES[group.name] for group in user.groups.all() if group.name in _ROLES]
        known = user._role = max(held, default=DEFAULT)  # type: ignore[union-attr]
    return known


def set_role(*, user: User, role: Role) -> None:
    """Make ``role`` the role of an account."""
    user.groups.remove(*user.groups.filter(name__in=list(_ROLES)))
    if role != Role.SUPERUSER:
        user.groups.add(Group.objects.get_or_create(name=role.label)[0])
    user.is_superuser = role == Role.SUPERUSER
    user.is_staff = role >= Role.OPERATOR
    user.save(update_fields=["is_superuser", "is_staff"])
    forget_role(user)


def forget_role(user: User) -> None:
    """Read the role from the database the next time."""
    for name in ("_role", "_perm_cache", "_user_perm_cache", "_group_perm_cache"):
        user.__dict__.pop(name, None)


def needed(user: User | AnonymousUser, may: May, owner_id: int | None = None) -> Role:
    """Return the role that it takes. ``owner_id``: of what is acted on."""
    match may:
        case May.READ:
            return Role.VIEWER
        case May.MAKE:
            return Role.RESEARCHER
        case May.ACT:
            return (
                Role.RESEARCHER if owner_id is not None and owner_id == user.pk else Role.OPERATOR
            )
        case May.OPERATE:
            return Role.OPERATOR


def require(user: User | AnonymousUser, may: May, *, owner_id: int | None = None) -> None:
    """Raise NotAllowed, which names the role it takes, unless ``user`` may do that. Reading costs
    no query: all accounts may."""
    if may is not May.READ and (reason := why_not(user, may, owner_id=owner_id)):
        raise NotAllowed(reason)


def why_not(user: User | AnonymousUser, may: May, *, owner_id: int | None = None) -> str:
    """Return why ``user`` may not do that, in a sentence; empty if they may."""
    role, least = user_role(user), needed(user, may, owner_id)
    if role >= least:
        return ""
    match may:
        case May.MAKE:
            what = "Making datasets and runs"
        case May.ACT if least == Role.OPERATOR:
            what = "Acting on what is not yours"
        case _:
            what = "This"
    return f"{what} takes the role {least.label}; your account has the role {role.label}."


def may_see_secrets(user: User | AnonymousUser, owner_id: int | None) -> bool:
    """Return whether ``user`` sees what only the owner should: webhook addresses, which often hold
    a key."""
    return owner_id == user.pk or user_role(user) >= Role.OPERATOR


def outranks(user: User, other: User) -> bool:
    """Return whether ``other`` has a right that ``user`` lacks: a higher role, or a permission
    given to the account itself."""
    if user_role(user) == Role.SUPERUSER:
        return False
    return (
        user_role(other) > user_role(user)
        or not other.get_all_permissions() <= user.get_all_permissions()
    )


# --- what operators may in the admin --------------------------------------------------------------

_OPERATED_APPS = ("runs", "datasets", "django_q")
_OPERATED = frozenset(
    (
        "auth.view_user", "auth.add_user", "auth.change_user", "admin.view_logentry",
        "django_q.delete_failure", "runs.change_run", "tunixrt.view_apitoken",
        "tunixrt.add_apitoken", "tunixrt.delete_apitoken",
    )
)  # fmt: skip


class RoleBackend(BaseBackend):
    """Gives operators what they need in the admin, without permissions for each model."""

    def get_all_permissions(self, user_obj: Any, obj: Model | None = None) -> set[str]:
        if (
            obj is not None
            or not user_obj.is_active
            or user_obj.is_anonymous
            or user_role(user_obj) < Role.OPERATOR
        ):
            return set()
        return set(_OPERATED | _views())

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        return any(name.startswith(f"{app_label}.") for name in self.get_all_permissions(user_obj))


@cache
def _views() -> frozenset[str]:
    from django.apps import apps  # noqa: PLC0415 - models are loaded by the time of the first request

    return frozenset(
        f"{app}.view_{model._meta.model_name}"
        for app in _OPERATED_APPS
        for model in apps.get_app_config(app).get_models()
    )


def group_permissions(groups: Iterable[Group]) -> set[str]:
    """Return the permissions that groups give, as ``app.codename``."""
    rows = Permission.objects.filter(group__in=list(groups)).values_list(
        "content_type__app_label", "codename"
    )
    return {f"{app}.{codename}" for app, codename in rows}
