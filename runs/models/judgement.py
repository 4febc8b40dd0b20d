"""What judges say of the outputs of evaluations."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from runs.models.evaluation import Evaluation


class JudgementState(models.TextChoices):
    JUDGING = "judging"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Judgement(models.Model):
    """One judge on the outputs of an evaluation, or, with ``against``, on these beside those of
    another one.

    ``scored`` and ``failed`` count outputs; of pairs, questions. ``requests`` counts what may have
    been sent: it is raised before a request goes out. ``due_at``: when a task may work on it; a
    task that works on it puts it into the future, so that another one takes over only if it was
    killed.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    evaluation = models.ForeignKey(
        Evaluation, on_delete=models.CASCADE, related_name="judgements", db_index=False
    )
    against = models.ForeignKey(
        Evaluation,
        on_delete=models.CASCADE,
        null=True,
        related_name="+",
        db_index=False,
        help_text="The other one of pairs.",
    )
    judge = models.CharField(max_length=32)
    model = models.CharField(max_length=128)
    prompt_version = models.PositiveIntegerField()
    prompt_hash = models.CharField(max_length=64)
    options = models.JSONField(default=dict)
    scorer_hash = models.CharField(
        max_length=64, help_text="Of judge, model, address, prompt and options."
    )
    state = models.CharField(
        max_length=16, choices=JudgementState.choices, default=JudgementState.JUDGING
    )
    problem = models.TextField(blank=True, help_text="Why it failed, or the first failure.")
    total = models.PositiveIntegerField(default=0)
    scored = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    requests = models.PositiveIntegerField(default=0)
    requests_max = models.PositiveIntegerField()
    capped = models.BooleanField(default=False, help_text="The limit came before the end.")
    mean = models.FloatField(null=True)
    low = models.FloatField(null=True)
    high = models.FloatField(null=True)
    wins = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)
    ties = models.PositiveIntegerField(default=0)
    disagreements = models.PositiveIntegerField(
        default=0, help_text="Ties because the two orders contradict each other."
    )
    equal = models.PositiveIntegerField(
        default=0, help_text="Questions with equal outputs, which are not asked about."
    )
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now)
    completed_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    class Meta:
        constraints = [
            # asked twice, it is one
            models.UniqueConstraint(
                fields=["evaluation", "scorer_hash"],
                condition=Q(against=None, state__in=["judging", "done"]),
                name="uq_judgement_single",
            ),
            models.UniqueConstraint(
                fields=["evaluation", "against", "scorer_hash"],
                condition=Q(against__isnull=False, state__in=["judging", "done"]),
                name="uq_judgement_pair",
            ),
            models.CheckConstraint(
                condition=Q(state__in=JudgementState.values), name="ck_judgement_state"
            ),
        ]
        indexes = [
            # those of an evaluation
            models.Index(
                "evaluation", F("created_at").desc(), F("id").desc(), name="ix_judgement_newest"
            ),
            # what points at the other evaluation
            models.Index(
                fields=["against"], name="ix_judgement_against", condition=Q(against__isnull=False)
            ),
            # those that are to be worked on
            models.Index(fields=["due_at"], name="ix_judgement_due", condition=Q(state="judging")),
        ]

    def __str__(self) -> str:
        return f"{self.judge} on {self.evaluation_id}"

    @property
    def label(self) -> str:
        """What its score is called."""
        return f"judge:{self.judge}"

    @property
    def is_active(self) -> bool:
        return self.state == JudgementState.JUDGING


class JudgeVerdict(models.Model):
    """What a judge says of one output, or of the outputs of one question in one order. Empty: it
    has said nothing that counts, ``attempts`` times.

    What else the judge says is not kept: it may quote examples, which can be erased.
    """

    judgement = models.ForeignKey(
        Judgement, on_delete=models.CASCADE, related_name="verdicts", db_index=False
    )
    question = models.CharField(max_length=64, help_text="Hash of the question.")
    place = models.PositiveSmallIntegerField(
        help_text="Number of the sample; of pairs 1 where the two were shown in the other order."
    )
    verdict = models.CharField(max_length=16, blank=True)
    problem = models.CharField(max_length=200, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["judgement", "question", "place"], name="uq_judge_verdict"
            )
        ]

    def __str__(self) -> str:
        return self.verdict or "no verdict"
