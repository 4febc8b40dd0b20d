"""Gates: whether a candidate is not worse than a baseline by more than a margin."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from runs.models.evaluation import Evaluation
from runs.models.run import Run


class Baseline(models.Model):
    """An evaluation that others are measured against, under a name that does not change."""

    name = models.CharField(max_length=128, unique=True)
    evaluation = models.ForeignKey(Evaluation, on_delete=models.PROTECT, related_name="baselines")
    label = models.CharField(max_length=128, help_text="Of the score that is compared.")
    lower_is_better = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Verdict(models.TextChoices):
    PASS = "pass", "not worse"
    FAIL = "fail", "worse"
    UNDECIDED = "undecided", "too few questions to tell"


class GateState(models.TextChoices):
    WAITING = "waiting", "waiting for evaluations"
    DECIDED = "decided"
    FAILED = "failed"


class GateCheck(models.Model):
    """One question to a gate. It is decided once all of its parts have their evaluations."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    candidate = models.ForeignKey(
        Run, on_delete=models.SET_NULL, null=True, related_name="gate_checks", db_index=False
    )
    margin = models.FloatField(help_text="δ: how much worse is still accepted.")
    state = models.CharField(max_length=16, choices=GateState.choices, default=GateState.WAITING)
    verdict = models.CharField(max_length=16, choices=Verdict.choices, blank=True)
    problem = models.TextField(blank=True, help_text="Why it has no verdict.")
    webhook_url = models.URLField(max_length=2000, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    decided_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            # those that are to be decided
            models.Index(
                fields=["created_at"], name="ix_gate_waiting", condition=Q(state="waiting")
            ),
            # what points at a run that is deleted
            models.Index(
                fields=["candidate"], name="ix_gate_run", condition=Q(candidate__isnull=False)
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(margin__gte=0), name="ck_gate_margin"),
            models.CheckConstraint(
                condition=Q(state=GateState.DECIDED, decided_at__isnull=False) & ~Q(verdict="")
                | ~Q(state=GateState.DECIDED) & Q(verdict=""),
                name="ck_gate_verdict",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verdict or self.state} {self.id}"


class GatePart(models.Model):
    """A check against one baseline. ``result``: the numbers of the verdict."""

    check_of = models.ForeignKey(GateCheck, on_delete=models.CASCADE, related_name="parts")
    baseline = models.ForeignKey(Baseline, on_delete=models.CASCADE, related_name="+")
    evaluation = models.ForeignKey(
        Evaluation,
        on_delete=models.SET_NULL,
        null=True,
        related_name="gate_parts",
        help_text="Of the candidate.",
    )
    verdict = models.CharField(max_length=16, choices=Verdict.choices, blank=True)
    result = models.JSONField(default=dict)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["check_of", "baseline"], name="uq_gate_part")
        ]

    def __str__(self) -> str:
        return f"{self.baseline_id}: {self.verdict or 'waiting'}"
