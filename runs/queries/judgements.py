"""Judgements, as API and pages read them."""

from django.db.models import Q

from runs.models import Evaluation, Judgement

LISTED_MAX = 100


def judgements_of(evaluation: Evaluation) -> list[Judgement]:
    """Return the judgements of an evaluation, also those against it, the newest first."""
    found = (
        Judgement.objects.filter(Q(evaluation=evaluation) | Q(against=evaluation))
        .filter(evaluation__run__trashed_at=None, against__run__trashed_at=None)
        .select_related("evaluation__run", "against__run", "created_by")
    )
    return list(found.order_by("-created_at", "-pk")[:LISTED_MAX])


def others_to_judge(evaluation: Evaluation) -> list[Evaluation]:
    """Return complete evaluations of the same questions, which can be judged beside this one."""
    found = (
        Evaluation.objects.filter(
            questions=evaluation.questions_id, complete=True, run__trashed_at=None
        )
        .exclude(pk=evaluation.pk)
        .select_related("run")
    )
    return list(found.order_by("-created_at", "-run")[:LISTED_MAX])
