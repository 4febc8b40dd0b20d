"""Judgements: what is asked of a judge, what is stored, and what others read of it.

runs/services/judging.py asks. A judgement is one row for one evaluation, judge and prompt: asked
for again, it is the same row, so that no second one can be made until the judge likes the outputs.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_q.tasks import async_task

from runs.models import Evaluation, Judgement, JudgementState, Run, RunEvent
from runs.services.access import require_items
from runs.services.refusals import StateConflict
from runs.services.run_requests import InvalidRequest
from runs.spec import judging as spec
from runs.spec.evaluation import GENERATE
from tunixrt.judges import Judge
from tunixrt.refusals import Missing

LIVING = (JudgementState.JUDGING, JudgementState.DONE)
JUDGE = "judge"  # the name of the scorer
LEASE = timedelta(seconds=90)  # of a task that works on a judgement: longer than it may take
WORKED_ON = timedelta(seconds=30)  # what is left of a lease while its task can still work


class JudgementNotFound(Missing):
    def __init__(self, judgement_id: Any):
        super().__init__(f"Judgement not found: {judgement_id}")


def due_judgements() -> Any:
    """Return the query of judgements that a task can work on now."""
    return Judgement.objects.filter(state=JudgementState.JUDGING, due_at__lte=timezone.now())


def prompt_versions() -> list[int]:
    """Return the versions of the instructions, the newest first."""
    return sorted(spec.PROMPTS, reverse=True)


def is_due() -> bool:
    """Say whether a task can work on a judgement now: one is due, and no task works on another."""
    worked_on = timezone.now() + WORKED_ON
    active = Judgement.objects.filter(state=JudgementState.JUDGING)
    return due_judgements().exists() and not active.filter(due_at__gt=worked_on).exists()


def known_judges() -> Mapping[str, Judge]:
    judges: Mapping[str, Judge] = settings.TUNIX_JUDGES
    return judges


def start_judgement(
    *,
    run: Run,
    judge: str,
    by: User,
    against: Run | None = None,
    prompt_version: int | None = None,
) -> tuple[Judgement, bool]:
    """Store a judgement of an evaluation, which a task works on: ``(judgement, created)``. One that
    is under way or done already is returned as it is.

    Args:
        run: of the evaluation.
        against: another evaluation of the same questions; then outputs are judged in pairs.

    Raises:
        InvalidRequest: there is no such judge or prompt.
        StateConflict: an evaluation has no outputs that can be judged.
        SealedItems: of a sealed dataset, unless an operator asks: a judge gets the examples.
    """
    require_items(by, run)
    wanted = known_judges().get(judge)
    if wanted is None:
        raise InvalidRequest({"judge": [_no_judge()]})
    version = spec.LATEST if prompt_version is None else prompt_version
    if version not in spec.PROMPTS:
        known = ", ".join(map(str, spec.PROMPTS))
        raise InvalidRequest({"prompt_version": [f"This field must be one of {known}."]})
    evaluation = _judged(run)
    other = None
    if against is not None:
        if against.pk == run.pk:
            raise InvalidRequest({"against": ["This must be another evaluation."]})
        other = _judged(against)
        if other.questions_id != evaluation.questions_id:
            raise InvalidRequest(
                {"against": [f"That evaluation is of other questions: {other.questions}."]}
            )
    scorer_hash = hash_of(wanted, version, pairs=other is not None)
    key = {"evaluation": evaluation, "against": other, "scorer_hash": scorer_hash}
    if found := _living(key):
        return found, False
    now = timezone.now()
    try:
        with transaction.atomic():
            made = Judgement.objects.create(
                **key,
                judge=wanted.name,
                model=wanted.model,
                prompt_version=version,
                prompt_hash=spec.prompt_hash(version, pairs=other is not None),
                options=dict(wanted.options),
                total=evaluation.answered * (1 if other else run.config["samples"]),
                requests_max=wanted.requests_max,
                created_at=now,
                due_at=now,
                created_by=by,
            )
            about = f"against {other.pk} " if other else ""
            RunEvent.objects.create(
                run=run,
                reason=f"to be judged {about}by {wanted.name} ({wanted.model})",
                by=by.get_username(),
                at=now,
            )
            async_task("runs.tasks.judge")
    except IntegrityError:
        if found := _living(key):  # the same request came a moment earlier
            return found, False
        raise
    return made, True


def _no_judge() -> str:
    names = ", ".join(known_judges())
    return f"This field must be one of {names}." if names else "No judge is set up (TUNIX_JUDGES)."


def _judged(run: Run) -> Evaluation:
    """Return the evaluation of a run. Raise StateConflict if its outputs cannot be judged."""
    evaluation = Evaluation.objects.select_related("questions").filter(pk=run.pk).first()
    if evaluation is None:
        raise StateConflict(f"Run {run.pk} is no evaluation.")
    if run.config.get("method") != GENERATE:
        raise StateConflict(f"Evaluation {run.pk} has no outputs to judge: nothing was generated.")
    if not evaluation.complete:
        raise StateConflict(
            f"Evaluation {run.pk} is not complete: only all outputs together are judged."
        )
    return evaluation


def _living(key: dict[str, Any]) -> Judgement | None:
    return Judgement.objects.filter(**key, state__in=LIVING).first()


def hash_of(judge: Judge, version: int, *, pairs: bool) -> str:
    """Identify what gives a verdict: other words, another model, address or option is another
    scorer."""
    what = [
        *(JUDGE, judge.name, judge.model, judge.url, dict(judge.options)),
        *(version, spec.prompt_hash(version, pairs=pairs)),
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def scorer_of(judgement: Judgement) -> dict[str, Any]:
    """Return the scorer that a score by this judge names."""
    return {
        "name": JUDGE,
        "version": judgement.prompt_version,
        "parameters": {
            "judge": judgement.judge,
            "model": judgement.model,
            "prompt_sha256": judgement.prompt_hash,
            "options": judgement.options,
        },
    }


def find_judgement(judgement_id: UUID) -> Judgement:
    """Return a judgement whose evaluations are not in the trash. Raises JudgementNotFound."""
    found = (
        Judgement.objects.select_related("evaluation__run", "against__run")
        .filter(pk=judgement_id, evaluation__run__trashed_at=None, against__run__trashed_at=None)
        .first()
    )
    if found is None:
        raise JudgementNotFound(judgement_id)
    return found


def cancel_judgement(*, judgement: Judgement, by: User) -> Judgement:
    """Cancel a judgement; its verdicts stay, and give no score. Idempotent. Raises StateConflict:
    it has ended otherwise."""
    with transaction.atomic():
        cancelled = Judgement.objects.filter(pk=judgement.pk, state=JudgementState.JUDGING).update(
            state=JudgementState.CANCELLED,
            problem=f"Cancelled by {by.get_username()}.",
            completed_at=timezone.now(),
        )
        if cancelled:
            RunEvent.objects.create(
                run_id=judgement.evaluation_id,
                reason=f"judgement by {judgement.judge} cancelled",
                by=by.get_username(),
                at=timezone.now(),
            )
    judgement.refresh_from_db()
    if judgement.state != JudgementState.CANCELLED:
        raise StateConflict(f"This judgement is {judgement.state} already.")
    return judgement


def verdicts_by_question(judgement: Judgement, *, first: UUID | None = None) -> dict[str, str]:
    """Return what the judge says of each question, by its hash; those without a verdict are left
    out.

    Of pairs ``first``, ``second`` or ``tie``; ``first``: the evaluation that is to be called so,
    by default the judged one. Else ``correct`` or ``incorrect``, of the first sample.
    """
    rows = judgement.verdicts.exclude(verdict="").values_list("question", "place", "verdict")
    found: dict[str, dict[int, str]] = {}
    for question, place, verdict in rows:
        found.setdefault(question, {})[place] = verdict
    if judgement.against_id is None:
        return {question: said[0] for question, said in found.items() if 0 in said}
    decided = {
        question: spec.in_both_orders(said[0], said[1])[0]
        for question, said in found.items()
        if len(said) == 2
    }
    if first is None or first == judgement.evaluation_id:
        return decided
    turned = {spec.FIRST: spec.SECOND, spec.SECOND: spec.FIRST, spec.TIE: spec.TIE}
    return {question: turned[verdict] for question, verdict in decided.items()}
