"""Judging from the page of an evaluation."""

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from runs.models import Run
from runs.services import judgements
from runs.services.access import get_run_for
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May, require


@require_POST
@login_required
def judge(request: HttpRequest, evaluation_id: UUID) -> HttpResponse:
    """Let a judge score the outputs of an evaluation, or judge them beside those of another."""
    by = person(request)
    evaluations = Run.objects.visible().filter(evaluation__isnull=False)
    run = get_run_for(by, evaluation_id, may=May.ACT, runs=evaluations)
    try:
        given = request.POST.get("against", "")
        against = get_run_for(by, given, may=May.READ, runs=evaluations) if given else None
        name = request.POST.get("judge", "")
        _, created = judgements.start_judgement(run=run, judge=name, against=against, by=by)
        if created:
            messages.success(request, "The judge is being asked.")
        else:
            messages.info(request, "This judge is asked already, or has been: see below.")
    except Refusal as refusal:
        messages.error(request, str(refusal))
    return redirect("runs:evaluation", run.pk)


@require_POST
@login_required
def judgement_cancel(request: HttpRequest, judgement_id: UUID) -> HttpResponse:
    """Cancel a judgement."""
    by = person(request)
    judgement = judgements.find_judgement(judgement_id)
    require(by, May.ACT, owner_id=judgement.evaluation.run.owner_id)
    try:
        judgements.cancel_judgement(judgement=judgement, by=by)
        messages.success(request, "The judgement is cancelled.")
    except Refusal as refusal:
        messages.error(request, str(refusal))
    return redirect("runs:evaluation", judgement.evaluation_id)
