"""Runs, their names, tags and events."""

import uuid
from collections.abc import Iterable
from typing import Any, Self

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from runs.models.host import Host
from runs.spec.kinds import DEFAULT_KIND, KINDS
from runs.spec.naming import NAME_MAX_LENGTH, make_name, search_keys


class RunStatus(models.TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


TERMINAL = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.CANCELLED)
EXECUTING = (RunStatus.RUNNING, RunStatus.CANCELLING)
ACTIVE = (RunStatus.PENDING, *EXECUTING)


class RunEngine(models.TextChoices):
    """What executes a run."""

    LOCAL = "local"


class RunMode(models.TextChoices):
    """What API and pages call ``mode``: ``dry-run``, or the name of the engine."""

    DRY_RUN = "dry-run"
    LOCAL = RunEngine.LOCAL


class ModeField(models.CharField):
    """The mode of a run, set from ``dry_run`` and ``engine`` whenever the run is saved, also in
    bulk; ``ck_run_mode`` refuses an update after which it would not fit them.

    A column, because history and lists filter by it with an index. Not a generated one: Django
    would ask for its value with a query of its own after each insert.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> str:
        assert isinstance(model_instance, Run)
        mode = RunMode.DRY_RUN if model_instance.dry_run else model_instance.engine
        setattr(model_instance, self.attname, str(mode))
        return str(mode)

    def deconstruct(self) -> Any:
        """Return a plain text column, for migrations."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.CharField", args, kwargs


class ListedField(models.BooleanField):
    """Whether a run is in the history and in lists that ask for no kind, set from ``kind`` whenever
    the run is saved.

    A column, because each of these lists is a walk over an index, which must not pass over
    thousands of evaluations.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> bool:
        assert isinstance(model_instance, Run)
        listed = model_instance.kind in KINDS
        setattr(model_instance, self.attname, listed)
        return listed

    def deconstruct(self) -> Any:
        """Return a plain boolean column, for migrations."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BooleanField", args, kwargs


# The condition of an index, and of the reads that it serves. Equalities, because SQLite compares
# the value of an equality with that in an index's condition, but not the values of an IN: with IN
# it reads the whole table for what a host executes (docs/performance.md).
_IS_EXECUTING = Q(status=RunStatus.RUNNING.value) | Q(status=RunStatus.CANCELLING.value)


class RunQuerySet(models.QuerySet["Run"]):
    """Every read that more than one caller needs."""

    def visible(self) -> Self:
        """Return runs that are not in the trash."""
        return self.filter(trashed_at__isnull=True)

    def listed(self, listed: bool = True) -> Self:
        """Return trainings and their dry runs; with False the runs of other kinds."""
        # IN, because SQLite takes a bare boolean for no equality and would sort
        return self.filter(listed__in=[listed])

    def newest_first(self) -> Self:
        return self.order_by("-created_at", "-run_id")

    def pending_in_order(self, *, supervised: bool | None = None) -> Self:
        """Return pending runs in the order of their claim: by priority, then FIFO. ``supervised``
        selects those that need a process, or those that do not; None selects both."""
        pending = self.filter(status=RunStatus.PENDING).order_by(
            "-priority", "created_at", "run_id"
        )
        # IN, because SQLite takes a bare boolean for no equality and would sort
        return pending if supervised is None else pending.filter(supervised__in=[supervised])

    def pending_of(self, owner: AbstractBaseUser) -> Self:
        """Return the pending runs of an owner. A dedicated index serves it."""
        return self.filter(status=RunStatus.PENDING, owner=owner).order_by()

    def executing_on(self, host: Host) -> Self:
        return self.executing().filter(host=host)

    def executing(self) -> Self:
        return self.filter(_IS_EXECUTING)

    def needed(self) -> Self:
        """Return runs whose files an active run resumes from, or evaluates. They and their files
        must be kept."""
        return self.filter(
            Exists(Run.objects.filter(resume_from=OuterRef("pk"), status__in=ACTIVE))
            | Exists(Run.objects.filter(evaluation__subject=OuterRef("pk"), status__in=ACTIVE))
        )

    def failed(self, status: str) -> Self:
        """Return failed or timed-out runs, as ``status`` names, the latest end first."""
        return self.filter(status=status).order_by("-completed_at")


class Run(models.Model):
    """A request to train, or to check whether a training is possible. Only ``runs.lifecycle``
    writes ``status``."""

    run_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(
        max_length=NAME_MAX_LENGTH, default=make_name, help_text="What people call it; not unique."
    )
    dataset_key = models.CharField(max_length=256)
    model_id = models.CharField(max_length=256)
    kind = models.CharField(
        max_length=64,
        default=DEFAULT_KIND,
        help_text="A name in runs.spec.kinds, which decides about parameters and results.",
    )
    listed = ListedField(default=True, editable=False)
    engine = models.CharField(max_length=64, choices=RunEngine.choices, default=RunEngine.LOCAL)
    dry_run = models.BooleanField(help_text="Checks everything and trains nothing.")
    mode = ModeField(max_length=64, choices=RunMode.choices, editable=False)
    status = models.CharField(max_length=64, choices=RunStatus.choices, default=RunStatus.PENDING)
    exit_code = models.IntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    queued_at = models.DateTimeField(
        null=True, help_text="When it was put into the queue; null for a run in the request."
    )
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    duration_seconds = models.FloatField(null=True)
    stdout = models.TextField(
        blank=True, help_text="The end of the output; the whole is in the run's folder."
    )
    stderr = models.TextField(blank=True)
    message = models.TextField(blank=True)
    config = models.JSONField(default=dict, help_text="The whole request.")
    output_dir = models.TextField(blank=True, help_text="Relative to the output root.")

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="runs", db_index=False
    )
    notes = models.TextField(blank=True)
    pinned = models.BooleanField(default=False, help_text="Never removed by retention.")
    trashed_at = models.DateTimeField(null=True)

    # Queue and supervision.
    # Not the opposite of dry_run: a dry run with depth has a process too, where the host that took
    # the request has the runtime. The claim and the count of a host's slots read it by an index.
    supervised = models.BooleanField(
        default=True,
        help_text="Runs as a process with a keeper: a training, or a dry run with depth.",
    )
    priority = models.SmallIntegerField(default=0, help_text="Higher starts earlier.")
    host = models.ForeignKey(
        Host, on_delete=models.SET_NULL, null=True, related_name="runs", db_index=False
    )
    process = models.JSONField(
        null=True, help_text="Keeper and trainer as recorded in keeper.json."
    )
    attempt = models.PositiveIntegerField(default=1, help_text="Place in a chain of retries.")
    automatic_retries = models.PositiveIntegerField(
        default=0, help_text="Automatic ones in its chain so far."
    )
    retry_of = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="retries", db_index=False
    )
    resume = models.BooleanField(
        default=False, help_text="Resume from the last checkpoint of resume_from."
    )
    resume_from = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="heirs",
        db_index=False,
        help_text=(
            "Whose last checkpoint it resumes from: retry_of, or the nearest run before it that has"
            " one."
        ),
    )
    extend_from_step = models.PositiveIntegerField(
        null=True, help_text="The step of the checkpoint that it extends; null: it is no extension."
    )
    timeout_seconds = models.FloatField(
        null=True, help_text="Limit from the start of the training; null: none."
    )
    cancel_requested_at = models.DateTimeField(null=True)
    client_request_id = models.CharField(max_length=255, null=True)  # noqa: DJ001 - null: none, and nulls never collide
    request_hash = models.CharField(max_length=64, blank=True)

    # News from the training
    metrics_offset = models.BigIntegerField(
        default=0, help_text="Bytes of metrics.jsonl that are in the database."
    )
    step = models.PositiveIntegerField(null=True)
    total_steps = models.PositiveIntegerField(null=True)
    last_loss = models.FloatField(null=True)
    summary = models.JSONField(default=dict, help_text="result.json of the training program.")
    disk_bytes = models.BigIntegerField(
        null=True,
        help_text=(
            "What its folder takes, measured when it ended, less what was removed since; null: not"
            " measured."
        ),
    )

    objects = RunQuerySet.as_manager()

    class Meta:
        db_table = "tunix_runs"
        indexes = [
            models.Index(fields=["dataset_key"], name="ix_tunix_runs_dataset_key"),  # contract
            models.Index(fields=["started_at"], name="ix_tunix_runs_started_at"),  # contract
            # the admin's list of all kinds
            models.Index(F("created_at").desc(), F("run_id").desc(), name="ix_tunix_runs_newest"),
            # the history
            models.Index(
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_listed_newest",
            ),
            # the history, filtered
            models.Index(
                "status",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_status_newest",
            ),
            models.Index(
                "mode",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_mode_newest",
            ),
            models.Index(
                "dataset_key",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_dataset_newest",
            ),
            models.Index(
                "model_id",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_model_newest",
            ),
            models.Index(
                "owner",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_owner_newest",
            ),
            # in the admin
            models.Index(
                "host",
                "listed",
                F("created_at").desc(),
                F("run_id").desc(),
                name="ix_tunix_runs_host_newest",
            ),
            # the claim of the queue; not partial, since SQLite would rather sort all that waits
            # than walk a partial index
            models.Index(
                "status",
                "supervised",
                F("priority").desc(),
                "created_at",
                "run_id",
                name="ix_tunix_runs_claim",
            ),
            # the purge of the trash, and the admin's look into it
            models.Index(
                fields=["trashed_at"],
                name="ix_tunix_runs_trash",
                condition=Q(trashed_at__isnull=False),
            ),
            # the attendant's look at what its host executes
            models.Index(
                "host",
                name="ix_tunix_runs_executing",
                condition=_IS_EXECUTING,
            ),
            # a run's retries; one over all runs would count those that retry nothing as one value,
            # and be left aside for it
            models.Index(
                "retry_of", name="ix_tunix_runs_retries", condition=Q(retry_of__isnull=False)
            ),
            # the runs that resume from a run's checkpoints; partial for the same reason
            models.Index(
                "resume_from", name="ix_tunix_runs_heirs", condition=Q(resume_from__isnull=False)
            ),
            # how many runs an account has waiting
            models.Index("owner", name="ix_tunix_runs_waiting", condition=Q(status="pending")),
            # what failed lately, on the queue page
            models.Index(
                "status",
                F("completed_at").desc(),
                name="ix_tunix_runs_failed",
                condition=Q(status="failed") | Q(status="timeout"),
            ),
            # what an owner's runs take; it holds all that this is computed from, so no row is read
            # for it
            models.Index(
                fields=["owner", "disk_bytes", "trashed_at"],
                name="ix_tunix_runs_disk",
                condition=Q(disk_bytes__isnull=False, trashed_at__isnull=True),
            ),
            # ended runs that are still to be measured
            models.Index(
                fields=["completed_at"],
                name="ix_tunix_runs_unmeasured",
                condition=Q(disk_bytes__isnull=True, completed_at__isnull=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=RunStatus.values), name="ck_run_status"),
            models.CheckConstraint(condition=Q(engine__in=RunEngine.values), name="ck_run_engine"),
            models.CheckConstraint(
                condition=Q(dry_run=True, mode=RunMode.DRY_RUN)
                | Q(dry_run=False, mode=F("engine")),
                name="ck_run_mode",
            ),
            models.CheckConstraint(
                condition=Q(status__in=TERMINAL, completed_at__isnull=False)
                | Q(status__in=ACTIVE, completed_at__isnull=True),
                name="ck_run_completed_at",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=EXECUTING) | Q(started_at__isnull=False),
                name="ck_run_started_at",
            ),
            models.CheckConstraint(  # a null alone would leave the condition open, and pass
                condition=~Q(status="completed") | Q(exit_code__isnull=False, exit_code=0),
                name="ck_run_completed_exit_code",
            ),
            models.CheckConstraint(
                condition=Q(status="completed") | Q(exit_code__isnull=True) | ~Q(exit_code=0),
                name="ck_run_exit_code_zero",
            ),
            models.UniqueConstraint(
                fields=["owner", "client_request_id"], name="uq_run_client_request_id"
            ),
            # One folder, one training: two in one folder would resume each other.
            models.UniqueConstraint(
                fields=["output_dir"],
                condition=Q(dry_run=False) & ~Q(output_dir=""),
                name="uq_run_output_dir",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} ({self.status})"

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def trains(self) -> bool:
        """Whether it is a training, or the dry run of one."""
        return self.kind in KINDS

    @property
    def is_extensible(self) -> bool:
        """A completed training has reached its last step: steps can be added to it."""
        return self.trains and not self.dry_run and self.status == RunStatus.COMPLETED

    @property
    def is_retriable(self) -> bool:
        """Of what is completed, only a dry run: a retry would do nothing."""
        return self.is_terminal and (self.dry_run or self.status != RunStatus.COMPLETED)

    def active_heir(self) -> "Run | None":
        """Return an active run that resumes from this run's checkpoints, or None."""
        return self.heirs.filter(status__in=ACTIVE).order_by().first()

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE


class RunNameKey(models.Model):
    """What a search finds a run's name by: the name from each of its words on
    (``runs.spec.naming.search_keys``).

    Bytes, because every database orders and compares them alike: the names that begin with a text
    are one range of the index.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="name_keys")
    key = models.BinaryField(editable=False)

    class Meta:
        indexes = [models.Index("key", "run", name="ix_run_name_key")]  # a search by name

    def __str__(self) -> str:
        return bytes(self.key).decode()

    @classmethod
    def of(cls, run: Run) -> list[Self]:
        """Return unsaved keys of a run's name."""
        return [cls(run=run, key=key) for key in search_keys(run.name)]


class RunTag(models.Model):
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=64)
    run_created_at = models.DateTimeField(
        help_text="The run's, which never changes: the history by tag is an index here."
    )

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="uq_run_tag")]
        indexes = [
            models.Index(
                "name", F("run_created_at").desc(), F("run").desc(), name="ix_run_tag_newest"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, run: Run, names: Iterable[str]) -> list[Self]:
        """Return unsaved tags of a run."""
        return [cls(run=run, name=name, run_created_at=run.created_at) for name in names]


class RunEvent(models.Model):
    """One thing that happened to a run. A change of status has ``old`` and ``new``; other events
    only a reason."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    old = models.CharField(max_length=64, blank=True)
    new = models.CharField(max_length=64, blank=True)
    reason = models.TextField(blank=True)
    by = models.CharField(
        max_length=255, help_text="A user name, or the part of the system that did it."
    )
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}" if self.new else self.reason
