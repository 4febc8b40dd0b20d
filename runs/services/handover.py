"""Transfer the runs and datasets of a user who leaves to another owner."""

import time
from dataclasses import dataclass

from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from datasets.models import Dataset
from runs.models import Run, RunEvent
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict
from tunixrt.roles import May, Role, require, user_role

BATCH = 100  # rows in one transaction, for which other writers wait on SQLite
# between two, so that they get their turn: waiting for SQLite's lock is trying again now and then
PAUSE_SECONDS = 0.05


class CannotOwn(Conflict):
    """The account that was to become the owner cannot be."""


@dataclass(frozen=True)
class Belongings:
    """How much an account owns; counted up to a limit where that is asked for."""

    runs: int
    datasets: int

    def __bool__(self) -> bool:
        return bool(self.runs or self.datasets)

    def __str__(self) -> str:
        return f"{_counted(self.runs, 'run')} and {_counted(self.datasets, 'dataset')}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def belongings(user: User, *, limit: int) -> Belongings:
    """Return what an account owns, each counted up to ``limit``."""
    runs = Run.objects.filter(owner=user).order_by()[:limit].count()
    return Belongings(runs, Dataset.objects.filter(created_by=user).order_by()[:limit].count())


def hand_over(*, owner: User, to: User, by: User) -> Belongings:
    """Make ``to`` the owner of all runs and datasets of ``owner``, those in the trash and those
    that are executing included.

    Done in batches, each a transaction of its own. Interrupted, or while ``owner`` keeps making
    runs, call it again: what has been handed over is not found any more. Idempotency keys
    (``client_request_id``) are given up, since they are of the programs of ``owner``. Traces, saved
    views and tokens stay.

    Raises:
        NotAllowed: ``by`` is no operator.
        CannotOwn: ``to`` is ``owner``, is not active, or may not make runs.
    """
    require(by, May.OPERATE)
    if to.pk == owner.pk:
        raise CannotOwn("These are one and the same account.")
    if not to.is_active:
        raise CannotOwn(f"The account {to.get_username()} is not active, so it cannot own runs.")
    if (role := user_role(to)) < Role.RESEARCHER:
        raise CannotOwn(
            f"The account {to.get_username()} has the role {role.label}; owning runs takes the role"
            f" {Role.RESEARCHER.label}."
        )
    what = f"handed over from {owner.get_username()} to {to.get_username()}"
    runs = datasets = 0
    while moved := _hand_over_runs(owner, to, by, what):
        runs += moved
        _let_others_write()
    while moved := _hand_over_datasets(owner, to, by, what):
        datasets += moved
        _let_others_write()
    handed = Belongings(runs, datasets)
    if handed:
        write_log_entry(
            by=by, target=owner, name=owner.get_username(), flag=CHANGE, message=f"{handed} {what}"
        )
    return handed


def _let_others_write() -> None:
    if connection.vendor == "sqlite":
        time.sleep(PAUSE_SECONDS)


def _hand_over_runs(owner: User, to: User, by: User, what: str) -> int:
    keys = list(Run.objects.filter(owner=owner).order_by().values_list("pk", flat=True)[:BATCH])
    if not keys:
        return 0
    with transaction.atomic():
        found = Run.objects.select_for_update().filter(pk__in=keys, owner=owner).order_by("pk")
        keys = list(found.values_list("pk", flat=True))
        Run.objects.filter(pk__in=keys).update(owner=to, client_request_id=None)
        now = timezone.now()
        RunEvent.objects.bulk_create(
            RunEvent(run_id=key, reason=what, by=by.get_username(), at=now) for key in keys
        )
    return len(keys)


def _hand_over_datasets(owner: User, to: User, by: User, what: str) -> int:
    datasets = list(Dataset.objects.filter(created_by=owner).order_by("pk")[:BATCH])
    if not datasets:
        return 0
    with transaction.atomic():
        moved = 0
        for dataset in datasets:
            if Dataset.objects.filter(pk=dataset.pk, created_by=owner).update(created_by=to):
                write_log_entry(
                    by=by, target=dataset, name=dataset.dataset_key, flag=CHANGE, message=what
                )
                moved += 1
    return moved
