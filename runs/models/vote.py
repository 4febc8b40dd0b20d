"""Votes of people on the outputs of two evaluations."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from runs.models.evaluation import HASH_BYTES, Evaluation, EvaluationSet

DIGEST_BYTES = 16


class Choice(models.TextChoices):
    """What a voter says of a question. ``first`` and ``second`` are the evaluations of the round,
    whichever of them was shown on the left."""

    FIRST = "first", "first is better"
    SECOND = "second", "second is better"
    TIE = "tie", "neither is better"
    SKIP = "skip", "skipped"


SIDES = (Choice.FIRST.value, Choice.SECOND.value)


class VoteRound(models.Model):
    """Two evaluations of the same questions that people vote on without knowing which is which.

    ``pairs``: of each question whose outputs differ, its hash (32 bytes) and a digest of the two
    outputs (16 bytes), by which a change of the outputs is noticed.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    questions = models.ForeignKey(
        EvaluationSet, on_delete=models.PROTECT, related_name="vote_rounds"
    )
    first = models.ForeignKey(
        Evaluation, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    second = models.ForeignKey(
        Evaluation, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    first_model = models.CharField(
        max_length=256, help_text="Stays when the evaluation is deleted."
    )
    second_model = models.CharField(max_length=256)
    seed = models.PositiveIntegerField(help_text="Of the order of questions and of the sides.")
    pairs = models.BinaryField(default=b"", editable=False)
    equal = models.PositiveIntegerField(
        default=0, help_text="Questions that are left out, as both outputs are the same."
    )
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    class Meta:
        indexes = [
            # the list of rounds
            models.Index(F("created_at").desc(), F("id").desc(), name="ix_vote_round_newest"),
            # what points at an evaluation that is deleted
            models.Index(
                fields=["first"], name="ix_vote_round_first", condition=Q(first__isnull=False)
            ),
            models.Index(
                fields=["second"], name="ix_vote_round_second", condition=Q(second__isnull=False)
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(first=None) | Q(second=None) | ~Q(first=F("second")),
                name="ck_vote_round_two",
            )
        ]

    def __str__(self) -> str:
        return f"votes {self.id}"

    @property
    def size(self) -> int:
        """Questions to vote on."""
        return len(self.pairs) // (HASH_BYTES + DIGEST_BYTES)


class Vote(models.Model):
    """What one voter says of one question; a second vote takes the place of the first."""

    round = models.ForeignKey(
        VoteRound, on_delete=models.CASCADE, related_name="votes", db_index=False
    )
    question = models.CharField(max_length=64, help_text="Hash of the question.")
    voter = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    choice = models.CharField(max_length=8, choices=Choice.choices)
    left = models.CharField(
        max_length=8, choices=[(side, side) for side in SIDES], help_text="Which was shown first."
    )
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["round", "voter", "question"], name="uq_vote"),
            models.CheckConstraint(
                condition=Q(choice__in=Choice.values, left__in=SIDES), name="ck_vote_choice"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.choice} of {self.round_id}"
