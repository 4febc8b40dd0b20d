"""What a button on a page does to a run. Each calls the service that the API calls, and goes back
with a message."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from runs.execution import attending
from runs.forms.tags import split_tags
from runs.models import Run
from runs.queries import artifacts
from runs.services import annotations, deletion, retrying
from runs.services.access import get_run_for
from runs.services.run_requests import clean_extension, clean_name, clean_notes, clean_tags
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May
from tunixrt.sizes import size
from tunixrt.templatetags.display import isolate

Action = Callable[[HttpRequest, Run], HttpResponse]


def run_action(action: Action) -> Callable[[HttpRequest, UUID], HttpResponse]:
    """Handle a POST by a user who may act on the run; a service's refusal becomes a message."""

    @require_POST
    @login_required
    @wraps(action)
    def view(request: HttpRequest, run_id: UUID) -> HttpResponse:
        run = get_run_for(person(request), run_id, may=May.ACT)
        try:
            return action(request, run)
        except Refusal as refusal:
            messages.error(request, str(refusal))
            return go_back(request, run)

    return view


def go_back(request: HttpRequest, run: Run) -> HttpResponseRedirect:
    """Redirect to the page of ours that the form named, else to the run."""
    return HttpResponseRedirect(return_target(request.POST, reverse("runs:detail", args=[run.pk])))


def return_target(given: QueryDict, otherwise: str) -> str:
    """Return the address of ours that ``next`` names."""
    target = given.get("next", "")
    ours = target.startswith("/") and url_has_allowed_host_and_scheme(target, allowed_hosts=None)
    return target if ours else otherwise


def short(run: Run) -> str:
    return str(run.pk)[:8]


@run_action
def cancel(request: HttpRequest, run: Run) -> HttpResponse:
    run = attending.cancel_run(run=run, by=person(request))
    done = run.is_terminal
    messages.success(
        request,
        f"Run {short(run)} is cancelled." if done else f"Run {short(run)} is asked to stop.",
    )
    return go_back(request, run)


@run_action
def retry(request: HttpRequest, run: Run) -> HttpResponse:
    new = retrying.retry_run(
        run=run, by=person(request), resume=request.POST.get("resume") != "false"
    )
    begins = (
        f"from the last checkpoint of run {short(new.resume_from)}"
        if new.resume_from
        else "from scratch"
    )
    messages.success(request, f"This run tries {short(run)} again, {begins}.")
    return redirect("runs:detail", new.pk)


@run_action
def extend(request: HttpRequest, run: Run) -> HttpResponse:
    """Extend a training by epochs, or, where the form says so, by steps."""
    text = request.POST.get("amount", "").strip()
    if not (text.isascii() and text.isdecimal()):
        messages.error(
            request,
            "Nothing was started. Say by how many epochs or steps to extend, as a whole number.",
        )
        return go_back(request, run)
    added = clean_extension({request.POST.get("unit", "num_epochs"): int(text[:20])})
    new = retrying.extend_run(run=run, by=person(request), **added)
    messages.success(request, f"This run extends {short(run)} from step {new.extend_from_step}.")
    return redirect("runs:detail", new.pk)


@run_action
def trash(request: HttpRequest, run: Run) -> HttpResponse:
    deletion.trash_run(run=run, by=person(request))
    messages.success(request, f"Run {short(run)} is in the trash.")
    target = request.POST.get("next", "")
    return (
        go_back(request, run) if target and str(run.pk) not in target else redirect("runs:history")
    )


@run_action
def pin(request: HttpRequest, run: Run) -> HttpResponse:
    pinned = request.POST.get("pinned") == "true"
    annotations.annotate_run(run=run, by=person(request), pinned=pinned)
    messages.success(
        request,
        f"Run {short(run)} is"
        f" {'pinned: it is never tidied away' if pinned else 'no longer pinned'}.",
    )
    return go_back(request, run)


@run_action
def remove_file(request: HttpRequest, run: Run) -> HttpResponse:
    # in the address: a form would send a line feed in a name as CR LF
    path = request.GET.get("path", "")
    freed = artifacts.remove_artifact(run=run, path=path, by=person(request))
    messages.success(request, f"{isolate(path)} is deleted: {size(freed)} are free again.")
    return go_back(request, run)


@run_action
def annotate(request: HttpRequest, run: Run) -> HttpResponse:
    changes: dict[str, Any] = {}
    try:
        if "name" in request.POST:
            changes["name"] = clean_name(request.POST["name"], kept=[run.name])
        if "tags" in request.POST:
            changes["tags"] = clean_tags(
                split_tags(request.POST["tags"]), kept=[tag.name for tag in run.tags.all()]
            )
        if "notes" in request.POST:
            changes["notes"] = clean_notes(request.POST["notes"].replace("\r\n", "\n"))
    except ValueError as error:
        messages.error(request, f"Nothing was changed. {error}")
        return go_back(request, run)
    annotations.annotate_run(run=run, by=person(request), **changes)
    messages.success(
        request,
        f"{' and '.join(changes).replace(' and ', ', ', len(changes) - 2).capitalize()} saved.",
    )
    return go_back(request, run)
