"""Evaluations: the list, the form that starts one, and one of them with its scores and items."""

import json
import uuid
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe
from django.views.decorators.vary import vary_on_headers

from datasets.services.refusals import DatasetNotFound
from runs.execution import launching
from runs.forms.evaluation import EvaluationForm
from runs.models import Run, RunStatus
from runs.queries import evaluations as reading
from runs.queries.evaluation_comparison import others_of
from runs.queries.judgements import judgements_of, others_to_judge
from runs.queries.logs import OffsetPastEnd
from runs.queries.selection import Selection
from runs.queries.summaries import read_plan
from runs.queries.votes import others_to_vote_on
from runs.runfolder import files
from runs.services import submission
from runs.services.access import SealedItems, get_run_for
from runs.services.evaluations import find_evaluation
from runs.services.judgements import known_judges
from runs.services.preflight import warnings_in
from runs.services.run_requests import InvalidRequest, RunRequest
from runs.services.runtime import local_runtime
from runs.spec.evaluation import GENERATE
from runs.spec.kinds import EVALUATE
from runs.spec.scorers import SCORERS
from runs.views.start import dataset_choices, model_choices
from tunixrt.accounts import person
from tunixrt.cursors import Cursor, decode_uuid_cursor
from tunixrt.refusals import InvalidQuery, Refusal
from tunixrt.roles import May, require, why_not

PAGE_SIZE = 20
ITEMS_SHOWN = 10


@require_safe
@login_required
def evaluations(request: HttpRequest) -> HttpResponse:
    """Show the list, newest first."""
    cursor = _cursor(request)
    subject = _uuid(request.GET.get("run", ""))
    chosen = Selection(
        kind=EVALUATE.name,
        dataset_key=_given(request, "dataset"),
        model_id=_given(request, "model"),
        status=status if (status := request.GET.get("status")) in RunStatus.values else None,
    )
    runs, behind = reading.read_page(chosen, subject=subject, limit=PAGE_SIZE, cursor=cursor)
    context = {
        "rows": [
            (run, [reading.stored_row(score) for score in run.evaluation.scores.all()])
            for run in runs
        ],
        "next_cursor": behind.encode() if behind else None,
        "active": any(run.is_active for run in runs),
        "filtered": any(request.GET.get(name) for name in ("dataset", "model", "run", "status")),
        "statuses": RunStatus.values,
    }
    template = "runs/_evaluations.html" if request.htmx else "runs/evaluations.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def evaluate(request: HttpRequest) -> HttpResponse:
    """Show the form that starts an evaluation."""
    by = person(request)
    require(by, May.MAKE)
    if request.method == "POST":
        wanted = request.POST.get("dataset_key", "")
        form = EvaluationForm(request.POST, datasets=dataset_choices(wanted))
        status = 400
        if form.is_valid() and form.request is not None:
            try:
                if request.POST.get("action") == "check":
                    checked = _check(form.request, by)
                    return render(request, "runs/evaluate.html", _form_context(form, checked))
                run, _ = submission.submit_run(request=form.request, by=by, queued=True)
                return redirect("runs:evaluation", run.pk)
            except InvalidRequest as refusal:
                form.take_errors(refusal)
            except DatasetNotFound as refusal:
                form.add_error("dataset_key", f"Not found: {refusal.key}")
            except Refusal as refusal:
                form.add_error(None, refusal.detail)
                status = refusal.status
        return render(request, "runs/evaluate.html", _form_context(form), status=status)
    initial = {
        "model_id": request.GET.get("model", ""),
        "dataset_key": request.GET.get("dataset", ""),
        "client_request_id": uuid.uuid4(),
        **_again(request),
    }
    form = EvaluationForm(initial=initial, datasets=dataset_choices(str(initial["dataset_key"])))
    return render(request, "runs/evaluate.html", _form_context(form))


def _check(asked: RunRequest, by: User) -> Run:
    """Return a dry run of the request, which tries the model where a slot is free: it says how long
    the evaluation takes at most."""
    depth = "full" if local_runtime().available else "quick"
    asked = replace(
        asked,
        dry_run=True,
        preflight=depth,
        smoke=depth == "full",
        name=None,
        client_request_id=None,
    )
    try:
        run, _ = launching.run_in_request(request=asked, by=by)
    except launching.CannotStart:
        asked = replace(asked, preflight="quick", smoke=False)
        run, _ = launching.run_in_request(request=asked, by=by)
    return run


def _again(request: HttpRequest) -> dict[str, Any]:
    """Return the settings of the evaluation that is to be run again: with outputs of its own, to
    be compared with it."""
    if not request.GET.get("again"):
        return {}
    try:
        source = find_evaluation(request.GET["again"], name="again")
    except InvalidRequest:
        return {}
    config = source.run.config
    known = {name: config[name] for name in EVALUATE.parameters if name in config}
    scorers = known.pop("scorers", [])
    plain = all(one["parameters"] == SCORERS[one["name"]].defaults() for one in scorers)
    return {
        **known,
        "model_id": config["model_id"],
        "dataset_key": config["dataset_key"],
        "scorers": [one["name"] for one in scorers],
        "scorers_json": "" if plain else json.dumps(scorers),
        "stop": (known.get("stop") or [""])[0],
        "reuse": False,
        "baseline": str(source.pk),
    }


def _form_context(form: EvaluationForm, checked: Run | None = None) -> dict[str, Any]:
    plan = read_plan(checked.summary) if checked else None
    return {
        "form": form,
        "checked": checked,
        "sentences": plan["sentences"] if plan else [],
        "warnings": warnings_in(checked.summary) if checked else [],
        "models": model_choices(),
        "runtime": local_runtime(),
        "scorers": SCORERS,
    }


@require_safe
@login_required
@vary_on_headers("HX-Request")
def evaluation(request: HttpRequest, evaluation_id: UUID) -> HttpResponse:
    """Show one evaluation, or for htmx only the part that changes while it executes."""
    runs = reading.with_evaluations(Run.objects.visible().filter(evaluation__isnull=False))
    run = get_run_for(person(request), evaluation_id, may=May.READ, runs=runs)
    details = run.evaluation
    try:
        items, next_offset = _items(request, run)
        sealed = ""
    except SealedItems as refusal:
        items, next_offset, sealed = [], None, refusal.detail
    context = {
        "run": run,
        "evaluation": details,
        "questions": details.questions,
        "scores": reading.score_rows(run),
        "settings": [
            (name, run.config.get(name), parameter.help)
            for name, parameter in EVALUATE.parameters.items()
            if name != "scorers"
        ],
        "looks": reading.looks_at(details),
        "baseline": details.baseline_id if reading.is_there(details.baseline_id) else None,
        "others": others_of(run),
        "opponents": others_to_vote_on(run),
        "intact": reading.is_intact(run),
        "repeats": reading.repeats(details),
        "why_not": why_not(person(request), May.ACT, owner_id=run.owner_id),
        **_judging(run),
        "items": items,
        "sealed": sealed,
        "next_offset": next_offset,
        "offset": _offset(request),
        "warnings": submission.run_warnings(
            summary=run.summary,
            config=run.config,
            timeout_seconds=run.timeout_seconds,
            queued_at=run.queued_at,
        ),
    }
    template = "runs/_evaluation.html" if request.htmx else "runs/evaluation.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _judging(run: Run) -> dict[str, Any]:
    """Return what judges have said, and which can be asked where outputs can be judged."""
    found = judgements_of(run.evaluation)
    can = run.evaluation.complete and run.config.get("method") == GENERATE
    judges = known_judges() if can else {}
    return {
        "judgements": found,
        "judging": any(one.is_active for one in found),
        "judges": judges,
        "others_to_judge": others_to_judge(run.evaluation) if judges else [],
    }


def _items(request: HttpRequest, run: Run) -> tuple[list[dict[str, Any]], int | None]:
    try:
        page = reading.read_items(
            run, reader=person(request), offset=_offset(request), limit=ITEMS_SHOWN
        )
    except (OSError, files.BrokenFile, OffsetPastEnd):
        return [], None
    return page.items, page.next_offset


def _offset(request: HttpRequest) -> int:
    given = request.GET.get("offset", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else 0


def _given(request: HttpRequest, name: str) -> str | None:
    return request.GET.get(name, "").replace("\x00", "").strip() or None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return UUID(int=0)  # of no run: nothing is found


def _cursor(request: HttpRequest) -> Cursor[UUID] | None:
    given = request.GET.get("cursor")
    if not given:
        return None
    try:
        return decode_uuid_cursor(given)
    except ValueError as error:
        raise InvalidQuery({"cursor": [str(error)]}) from error
