"""Evaluations: what was asked of which model, and the scores that came of it.

A row of these tables is made by the server alone, from the files that the training program wrote,
when the run ends. Scores are kept question by question, so that a comparison and a leaderboard need
no file, and a file that is edited later changes nothing.
"""

import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from runs.models.run import Run


class EvaluationPart(models.TextChoices):
    ALL = "all", "all examples"
    HELD_OUT = "held_out", "held-out part"


class EvaluationSet(models.Model):
    """The questions that evaluations can be compared on: a part of a dataset, known by the
    dataset's fingerprint.

    ``hashes``: of the questions in their order, 32 bytes each, and ``examples``, the ids of their
    examples, 16 bytes each, once an evaluation has answered all of them.
    """

    key = models.CharField(max_length=64, unique=True, help_text="Hash of the next four columns.")
    dataset_key = models.CharField(max_length=256, db_index=True)
    fingerprint = models.CharField(max_length=80)
    part = models.CharField(max_length=16, choices=EvaluationPart.choices)
    limit = models.PositiveIntegerField(
        null=True, help_text="Only so many questions; null: all of the part."
    )
    hashes = models.BinaryField(default=b"", editable=False)
    examples = models.BinaryField(default=b"", editable=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(part__in=EvaluationPart.values), name="ck_evaluation_set_part"
            )
        ]

    def __str__(self) -> str:
        limited = f", {self.limit:,} questions" if self.limit else ""
        return f"{self.dataset_key} ({self.get_part_display()}{limited})"

    @property
    def size(self) -> int:
        """Questions; 0 until an evaluation has answered all of them."""
        return len(self.hashes) // HASH_BYTES


class Evaluation(models.Model):
    """What belongs to a run of kind ``evaluate`` beyond the run.

    ``identity`` is a hash of everything that decides the outputs: weights, questions, template,
    settings, engine. Evaluations of one ``family``, which differ in nothing but the seed, are one
    row of a leaderboard, and the first of them has the place.
    """

    run = models.OneToOneField(
        Run, on_delete=models.CASCADE, primary_key=True, related_name="evaluation"
    )
    questions = models.ForeignKey(
        EvaluationSet, on_delete=models.PROTECT, related_name="evaluations", db_index=False
    )
    created_at = models.DateTimeField(help_text="The run's, which never changes.")
    subject = models.ForeignKey(
        Run,
        on_delete=models.SET_NULL,
        null=True,
        related_name="evaluations",
        db_index=False,
        help_text="The run whose model it is; null: no run's.",
    )
    step = models.PositiveIntegerField(null=True, help_text="Of a checkpoint of that run.")
    lineage = models.CharField(
        max_length=256, help_text="The model that the evaluated one was trained from."
    )
    settings_hash = models.CharField(
        max_length=64, help_text="Of what decides the outputs of a request, without its scorers."
    )
    model_key = models.CharField(
        max_length=64, blank=True, help_text="Of the files that the model was read from."
    )
    source = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
        help_text="The evaluation whose outputs it scores; null: its own.",
    )
    baseline = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    # What the end of the run says.
    complete = models.BooleanField(default=False, help_text="Every question has its outputs.")
    problem = models.TextField(blank=True, help_text="Why it takes no part in comparisons.")
    answered = models.PositiveIntegerField(default=0, help_text="Questions with outputs.")
    truncated = models.PositiveIntegerField(default=0, help_text="Outputs that were cut.")
    tokens = models.PositiveBigIntegerField(default=0, help_text="Of all outputs.")
    weights = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the parameters.")
    template = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the template.")
    engine = models.CharField(max_length=256, blank=True, help_text="What computed the outputs.")
    outputs = models.CharField(max_length=64, blank=True, help_text="SHA-256 of items.jsonl.")
    texts = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the texts of the outputs alone."
    )
    identity = models.CharField(max_length=64, blank=True)
    family = models.CharField(max_length=64, blank=True, help_text="The identity but for the seed.")

    class Meta:
        indexes = [
            # the list of evaluations
            models.Index(F("created_at").desc(), F("run").desc(), name="ix_evaluation_newest"),
            # the same of one set
            models.Index(
                "questions",
                F("created_at").desc(),
                F("run").desc(),
                name="ix_evaluation_set_newest",
            ),
            # those of a run
            models.Index(
                "subject",
                F("created_at").desc(),
                name="ix_evaluation_subject",
                condition=Q(subject__isnull=False),
            ),
            # an earlier one with the same outputs; not partial, since SQLite compares no parameter
            # with the condition of an index
            models.Index(fields=["family"], name="ix_evaluation_family"),
            # base models, beside what was trained from them
            models.Index(
                fields=["questions", "lineage", "settings_hash"],
                name="ix_evaluation_base",
                condition=Q(subject__isnull=True),
            ),
            # one whose outputs can be used again
            models.Index(
                fields=["model_key", "questions", "settings_hash"],
                name="ix_evaluation_reuse",
            ),
            # what points at an evaluation that is deleted
            models.Index(
                fields=["baseline"],
                name="ix_evaluation_baseline",
                condition=Q(baseline__isnull=False),
            ),
            models.Index(
                fields=["source"], name="ix_evaluation_source", condition=Q(source__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"evaluation {self.run_id}"


class Standing(models.IntegerChoices):
    """Whether a score takes part in the order of a leaderboard, or why it does not."""

    RANKED = 0, "ranked"
    TOO_FEW = 1, "fewer than 30 questions"
    REPEATED = 2, "an earlier evaluation has the same outputs"
    RESEEDED = 3, "an earlier evaluation differs in nothing but the seed"
    PARTIAL = 4, "not all questions were answered"


class Score(models.Model):
    """What one scorer says of one evaluation.

    ``mean``, ``low`` and ``high`` are over questions, not over outputs; ``scored``, ``failed``,
    ``truncated`` and ``total`` count outputs. ``values``: the score of each question, see
    ``pack_scores``.
    """

    evaluation = models.ForeignKey(
        Evaluation, on_delete=models.CASCADE, related_name="scores", db_index=False
    )
    questions = models.ForeignKey(
        EvaluationSet, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    label = models.CharField(max_length=128)
    scorer = models.JSONField(help_text="Name, version and parameters.")
    scorer_hash = models.CharField(max_length=64)
    lower_is_better = models.BooleanField(default=False)
    mean = models.FloatField(null=True)
    low = models.FloatField(null=True, help_text="Of the 95 % interval of the mean.")
    high = models.FloatField(null=True)
    n = models.PositiveIntegerField(default=0, help_text="Questions in the mean.")
    scored = models.PositiveIntegerField()
    failed = models.PositiveIntegerField()
    truncated = models.PositiveIntegerField()
    total = models.PositiveIntegerField()
    pass_at_k = models.JSONField(default=dict)
    values = models.BinaryField(default=b"", editable=False)
    standing = models.PositiveSmallIntegerField(choices=Standing.choices)
    bound = models.FloatField(
        null=True, help_text="Orders a leaderboard: the bound of the mean that is the worse one."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["evaluation", "label"], name="uq_score_label"),
            models.CheckConstraint(
                condition=Q(total=F("scored") + F("failed")), name="ck_score_total"
            ),
        ]
        indexes = [
            # a leaderboard
            models.Index(
                "questions",
                "scorer_hash",
                "standing",
                F("bound").desc(),
                F("evaluation").desc(),
                name="ix_score_leaderboard",
            )
        ]

    def __str__(self) -> str:
        return f"{self.label} of {self.evaluation_id}"


class Look(models.Model):
    """One evaluation of a model of ``lineage`` on a set. It stays when the run is deleted: every
    attempt counts."""

    questions = models.ForeignKey(
        EvaluationSet, on_delete=models.PROTECT, related_name="looks", db_index=False
    )
    lineage = models.CharField(max_length=256)
    run_id = models.UUIDField(unique=True)
    by = models.CharField(max_length=255)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["questions", "lineage"], name="ix_look_lineage")]

    def __str__(self) -> str:
        return f"{self.lineage} at {self.at:%Y-%m-%d}"


HASH_BYTES = 32
_MISSING = float("nan")


def pack_scores(scores: Iterable[float | None]) -> bytes:
    """Return the scores of the questions of a set, in its order, as 64-bit numbers, compressed.
    NaN: a question without a score."""
    return zlib.compress(array("d", (_MISSING if s is None else s for s in scores)).tobytes())


def unpack_scores(packed: bytes | memoryview) -> list[float | None]:
    numbers = array("d")
    numbers.frombytes(zlib.decompress(bytes(packed)) if packed else b"")
    return [None if number != number else number for number in numbers]


def pack_hashes(hashes: Sequence[str]) -> bytes:
    return b"".join(bytes.fromhex(one) for one in hashes)


def pack_examples(ids: Sequence[str]) -> bytes:
    """Return the ids of examples; zeros for one that is no UUID."""
    return b"".join(_uuid_bytes(one) for one in ids)


def unpack_examples(packed: Any) -> list[UUID]:
    whole = bytes(packed)
    return [UUID(bytes=whole[at : at + 16]) for at in range(0, len(whole), 16)]


def _uuid_bytes(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        return bytes(16)


def unpack_hashes(packed: Any) -> list[str]:
    whole = bytes(packed).hex()
    return [whole[at : at + 2 * HASH_BYTES] for at in range(0, len(whole), 2 * HASH_BYTES)]
