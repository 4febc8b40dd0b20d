"""What the runs of each owner take on disk, and the quota.

A run's folder is measured once, when the run ends (``Run.disk_bytes``); removed files are
subtracted. What is in the trash does not count: its owner cannot free it any earlier.
"""

import time
from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from runs.models import DiskQuota, Run, RunQuerySet
from runs.runfolder.tree import bytes_below
from runs.services.output_root import root_away
from runs.services.reservations import run_folder
from tunixrt.compiled import Finder
from tunixrt.refusals import Conflict
from tunixrt.sizes import size

GB = 10**9
WARN_AT = 0.8  # of the quota
LARGEST_NAMED = 3
_quotas = Finder(DiskQuota, "account_id", 0)
MEASURE_BATCH = 200


class QuotaExceeded(Conflict):
    """The runs of an account take all the disk that they may."""

    code, title = "quota_exceeded", "Disk quota used up"


@dataclass(frozen=True)
class DiskUse:
    """``used`` and ``quota`` in bytes."""

    used: int
    quota: float

    @property
    def is_full(self) -> bool:
        return self.used >= self.quota

    @property
    def warning(self) -> str | None:
        """A sentence from 80 % of the quota on."""
        if self.used < WARN_AT * self.quota:
            return None
        what_next = (
            "No new training is taken"
            if self.is_full
            else "When it is used up, no new training is taken"
        )
        return (
            f"Your runs take {size(self.used)} of the {size(self.quota)} of disk that they may take"
            f" ({self.used / self.quota:.0%}). {what_next}: delete runs, or remove their"
            " checkpoints and models."
        )


def disk_quota(user: User) -> float | None:
    """Return the bytes that the runs of an account may take: its own quota, or the setting's. None:
    as many as there are."""
    cached = "disk_quota" in user._state.fields_cache  # a list of accounts has read it
    own: DiskQuota | None = getattr(user, "disk_quota", None) if cached else _quotas.find(user.pk)
    gigabytes: float = settings.TUNIX_OWNER_DISK_QUOTA_GB if own is None else own.gigabytes
    return gigabytes * GB if gigabytes > 0 else None


def set_quota(*, account: User, gigabytes: float | None) -> None:
    """Set the quota of an account. 0 means no limit, None the setting's default."""
    if gigabytes is None:
        DiskQuota.objects.filter(account=account).delete()
    else:
        DiskQuota.objects.update_or_create(account=account, defaults={"gigabytes": gigabytes})


def used_by(user: User) -> int:
    """Return the bytes that the ended runs of an account take; the index has them all."""
    return _counted(Run.objects.filter(owner=user)).aggregate(total=Sum("disk_bytes"))["total"] or 0


def with_disk_use(users: QuerySet[User]) -> QuerySet[User]:
    """Add ``disk_used`` to accounts."""
    rows = _counted(Run.objects.filter(owner=OuterRef("pk"))).order_by().values("owner")
    return users.annotate(
        disk_used=Coalesce(
            Subquery(rows.annotate(total=Sum("disk_bytes")).values("total")),
            0,
            output_field=models.BigIntegerField(),
        )
    )


def _counted(runs: RunQuerySet) -> RunQuerySet:
    return runs.filter(trashed_at__isnull=True, disk_bytes__isnull=False)


def disk_use(user: User) -> DiskUse | None:
    """Return how much of its quota an account uses; None where it has none."""
    quota = disk_quota(user)
    return None if quota is None else DiskUse(used_by(user), quota)


def disk_warnings(user: User) -> list[str]:
    """Return warnings about an account's quota."""
    use = disk_use(user)
    return [use.warning] if use and use.warning else []


def require_disk(user: User) -> None:
    """Raise QuotaExceeded if the runs of an account take all that they may. It says how much, and
    which take most."""
    use = disk_use(user)
    if use is None or not use.is_full:
        return
    rows = _counted(Run.objects.filter(owner=user)).filter(disk_bytes__gt=0).order_by("-disk_bytes")
    largest = ", ".join(
        f"{name} ({str(run_id)[:8]}, {size(count or 0)})"
        for run_id, name, count in rows.values_list("pk", "name", "disk_bytes")[:LARGEST_NAMED]
    )
    raise QuotaExceeded(
        f"Your runs take {size(use.used)} of disk, and they may take {size(use.quota)}. Nothing was"
        " started. Delete runs that you no longer need, or remove their checkpoints and models;"
        f" the largest: {largest}."
    )


# --- measuring ------------------------------------------------------------------------------------


def measure(run: Run) -> int | None:
    """Return the bytes that the folder of an ended run takes; None if it cannot be read right
    now."""
    if run.dry_run and not run.supervised:
        return 0  # a manifest
    try:
        return bytes_below(run_folder(run))
    except OSError:
        return None


def measure_ended(*, seconds: float) -> bool:
    """Measure ended runs that have not been: those of before there were quotas, and those that
    could not be read. For at most so long; return whether some may be left."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if root_away():
            return False
        runs = list(
            Run.objects.filter(disk_bytes__isnull=True, completed_at__isnull=False).order_by(
                "completed_at"
            )[:MEASURE_BATCH]
        )
        measured = {run.pk: count for run in runs if (count := measure(run)) is not None}
        if not measured:
            return False
        empty = [key for key, count in measured.items() if not count]
        Run.objects.filter(pk__in=empty, disk_bytes__isnull=True).update(disk_bytes=0)
        for key in measured.keys() - set(empty):
            Run.objects.filter(pk=key, disk_bytes__isnull=True).update(disk_bytes=measured[key])
    return True
