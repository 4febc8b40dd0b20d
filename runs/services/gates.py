"""Gates: decide whether a candidate is not worse than a baseline by more than a margin.

The verdict is that of a test of non-inferiority on the questions that both answered: pass where the
lower bound of the paired difference is at least −δ, fail where the upper bound is below −δ,
otherwise undecided, with the number of questions that would decide it.
"""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from runs.models import (
    TERMINAL,
    Baseline,
    Evaluation,
    GateCheck,
    GatePart,
    GateState,
    Run,
    Score,
    Verdict,
    WebhookDelivery,
)
from runs.models.evaluation import unpack_scores
from runs.services.refusals import StateConflict
from runs.services.run_requests import InvalidRequest, RunRequest, clean_request
from runs.services.submission import submit_run
from runs.spec import statistics
from runs.spec.kinds import EVALUATE
from tunixrt.addresses import problem_with
from tunixrt.refusals import Missing

BASELINES_MAX = 20  # of one check
WAITING_MAX = 100  # checks that are looked at in one round
NO_EVALUATION = "That run has no complete evaluation. Evaluate it first, or name an evaluation."


class BaselineNotFound(Missing):
    def __init__(self, name: str):
        super().__init__(f"Baseline not found: {name[:128]}")


class CheckNotFound(Missing):
    def __init__(self, check_id: Any):
        super().__init__(f"Check not found: {check_id}")


def make_baseline(
    *, name: str, run: Run, label: str | None, lower_is_better: bool | None, by: User
) -> Baseline:
    """Store an evaluation under a name: ``run``, or the newest complete one of its model.

    Args:
        label: of the score to compare; None: the only one.

    Raises:
        InvalidRequest: there is no such score.
        StateConflict: there is no complete evaluation, or the name is taken.
    """
    evaluation = complete_evaluation(run)
    if evaluation is None:
        raise StateConflict(NO_EVALUATION)
    scores = {score.label: score for score in evaluation.scores.defer("values")}
    if label is None and len(scores) == 1:
        label = next(iter(scores))
    if label is None or label not in scores:
        raise InvalidRequest({"metric": [f"This field must be one of {', '.join(scores)}."]})
    direction = scores[label].lower_is_better
    if lower_is_better is not None and lower_is_better != direction:
        better = "lower" if direction else "higher"
        raise InvalidRequest({"lower_is_better": [f"Of {label}, {better} scores are better."]})
    try:
        with transaction.atomic():
            return Baseline.objects.create(
                name=name,
                evaluation=evaluation,
                label=label,
                lower_is_better=direction,
                created_by=by,
            )
    except IntegrityError as error:
        raise StateConflict(f"There is a baseline named {name} already.") from error


def complete_evaluation(run: Run) -> Evaluation | None:
    """Return the evaluation that ``run`` is, or the newest complete one of its model."""
    known = Evaluation.objects.filter(complete=True, run__trashed_at=None)
    if run.trains:
        return known.filter(subject=run).order_by("-created_at", "-run").first()
    return known.filter(pk=run.pk).first()


def find_baselines(names: Sequence[str]) -> list[Baseline]:
    """Return baselines in the order of ``names``. Raise BaselineNotFound."""
    known = {
        one.name: one
        for one in Baseline.objects.filter(name__in=names).select_related(
            "evaluation__run", "evaluation__questions"
        )
    }
    for name in names:
        if name not in known:
            raise BaselineNotFound(name)
    return [known[name] for name in dict.fromkeys(names)]


def start_check(
    *,
    candidate: Run,
    baselines: Sequence[Baseline],
    margin: float,
    by: User,
    webhook_url: str = "",
) -> GateCheck:
    """Store a check, and start the evaluations of the candidate that it needs: those of the same
    questions under the same settings as each baseline.

    Raises:
        StateConflict: the candidate is an evaluation of other questions. And what submit_run
            raises.
    """
    allowed = settings.TUNIX_WEBHOOK_ALLOW_PRIVATE
    if webhook_url and (problem := problem_with(webhook_url, allow_private=allowed)):
        raise InvalidRequest({"webhook_url": [problem]})
    evaluations = [_candidate_evaluation(candidate, one) for one in baselines]
    requests = [
        _request(candidate, baseline) if found is None else None
        for baseline, found in zip(baselines, evaluations, strict=True)
    ]
    with transaction.atomic():
        check = GateCheck.objects.create(
            candidate=candidate, margin=margin, webhook_url=webhook_url, created_by=by
        )
        for baseline, found, request in zip(baselines, evaluations, requests, strict=True):
            if request is not None:
                run, _ = submit_run(request=request, by=by, queued=True)
                found = Evaluation.objects.get(pk=run.pk)
            GatePart.objects.create(check_of=check, baseline=baseline, evaluation=found)
    decide(check)
    return check


def _candidate_evaluation(candidate: Run, baseline: Baseline) -> Evaluation | None:
    """Return the evaluation of the candidate that is compared; None: it has to be made."""
    wanted = baseline.evaluation
    if not candidate.trains:
        evaluation = Evaluation.objects.select_related("questions").get(pk=candidate.pk)
        if evaluation.questions_id != wanted.questions_id:
            raise StateConflict(
                f"Evaluation {candidate.pk} is of {evaluation.questions}, the baseline"
                f" {baseline.name} of {wanted.questions}."
            )
        return evaluation
    return (
        Evaluation.objects.filter(
            subject=candidate,
            step=None,
            questions=wanted.questions_id,
            settings_hash=wanted.settings_hash,
            complete=True,
            scores__label=baseline.label,
            run__trashed_at=None,
        )
        .order_by("-created_at")
        .first()
    )


def _request(candidate: Run, baseline: Baseline) -> RunRequest:
    """Return the request of an evaluation as that of the baseline, of the candidate's model."""
    config = baseline.evaluation.run.config
    asked = {name: config[name] for name in EVALUATE.parameters if name in config}
    return clean_request(
        asked
        | {
            "kind": EVALUATE.name,
            "dry_run": False,
            "dataset_key": config["dataset_key"],
            "model_id": f"run:{candidate.pk}",
            "baseline": str(baseline.evaluation_id),
        }
    )


def decide_waiting() -> None:
    """Decide the checks whose evaluations have ended. The attendant calls it every few seconds."""
    for check in GateCheck.objects.filter(state="waiting").order_by("created_at")[:WAITING_MAX]:
        decide(check)


def decide(check: GateCheck) -> GateCheck:
    """Decide a check if all of its evaluations have ended; idempotent."""
    if check.state != GateState.WAITING:
        return check
    parts = list(check.parts.select_related("baseline__evaluation__questions", "evaluation__run"))
    if not parts:
        return _end(check, GateState.FAILED, problem="Its baselines were deleted.")
    for part in parts:
        if part.evaluation is None:
            return _end(check, GateState.FAILED, problem="An evaluation of it was deleted.")
        if part.evaluation.run.status not in TERMINAL:
            return check
    for part in parts:
        assert part.evaluation is not None
        if not part.evaluation.complete:
            why = part.evaluation.problem or part.evaluation.run.message
            return _end(
                check,
                GateState.FAILED,
                problem=f"Evaluation {part.evaluation_id} is not complete: {why}",
            )
        if problem := _judge(part, check.margin):
            return _end(check, GateState.FAILED, problem=problem)
    verdicts = {part.verdict for part in parts}
    verdict = next(
        one for one in (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS) if one in verdicts
    )
    return _end(check, GateState.DECIDED, verdict=verdict, parts=parts)


def _judge(part: GatePart, margin: float) -> str:
    """Set verdict and result of a part; say why there is none."""
    assert part.evaluation is not None
    label = part.baseline.label
    scores = {
        score.evaluation_id: score
        for score in Score.objects.filter(
            label=label, evaluation__in=[part.evaluation_id, part.baseline.evaluation_id]
        )
    }
    if len(scores) < 2 and part.evaluation_id != part.baseline.evaluation_id:
        return f"Evaluation {part.evaluation_id} has no score {label}."
    own, other = scores[part.evaluation.pk], scores[part.baseline.evaluation_id]
    if own.scorer_hash != other.scorer_hash:
        return f"{label} is another scorer in evaluation {part.evaluation_id}."
    pairs = [
        (one, two)
        for one, two in zip(unpack_scores(own.values), unpack_scores(other.values), strict=False)
        if one is not None and two is not None
    ]
    if len(pairs) < 2:
        return f"Evaluation {part.evaluation_id} shares fewer than two questions with the baseline."
    part.verdict, part.result = judge(
        pairs, margin=margin, lower_is_better=part.baseline.lower_is_better
    )
    return ""


def judge(
    pairs: Sequence[tuple[float, float]], *, margin: float, lower_is_better: bool
) -> tuple[str, dict[str, Any]]:
    """Return the verdict of a test of non-inferiority, and its numbers.

    Args:
        pairs: scores of the candidate and of the baseline, by question; at least two.
        margin: δ, in the unit of the scores.
    """
    sign = -1.0 if lower_is_better else 1.0
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    compared = statistics.compare(first, second)
    low, high = compared.interval
    gain_low, gain_high = (low, high) if sign > 0 else (-high, -low)
    if gain_low >= -margin:
        verdict = Verdict.PASS
    elif gain_high < -margin:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.UNDECIDED
    gains = [sign * (one - other) for one, other in pairs]
    current, baseline = sum(first) / len(first), sum(second) / len(second)
    return str(verdict), {
        "baseline_value": baseline,
        "current_value": current,
        "delta": compared.difference,
        "delta_percent": 100 * compared.difference / baseline if baseline else None,
        "low": low,
        "high": high,
        "n": compared.n,
        "method": compared.method,
        "needed": statistics.pairs_needed(gains, margin) if verdict == Verdict.UNDECIDED else None,
    }


def _end(
    check: GateCheck,
    state: str,
    *,
    verdict: str = "",
    problem: str = "",
    parts: Sequence[GatePart] = (),
) -> GateCheck:
    now = timezone.now()
    with transaction.atomic():
        taken = GateCheck.objects.filter(pk=check.pk, state=GateState.WAITING).update(
            state=state, verdict=verdict, problem=problem, decided_at=now
        )
        if taken:
            for part in parts:
                part.save(update_fields=["verdict", "result"])
            if check.webhook_url and check.candidate_id is not None:
                check.state, check.verdict, check.problem = state, verdict, problem
                WebhookDelivery.objects.create(
                    run_id=check.candidate_id,
                    url=check.webhook_url,
                    payload={
                        "event": "gate.decided",
                        "check_id": str(check.pk),
                        "run_id": str(check.candidate_id),
                        "state": state,
                        "verdict": verdict or None,
                        "problem": problem,
                    },
                    next_attempt_at=now,
                )
    check.refresh_from_db()
    return check
