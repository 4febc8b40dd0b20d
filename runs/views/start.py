"""Start a run: a dry run, or a training now or by the queue."""

import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from datasets.models import Dataset
from datasets.services.refusals import DatasetNotFound
from runs.execution import launching
from runs.forms.start import StartForm, initial_from_config
from runs.models import Host, Run
from runs.queries.summaries import histogram_bars, read_plan
from runs.services import refusals, submission
from runs.services.access import require_priority
from runs.services.disk import disk_warnings
from runs.services.output_root import root_notice
from runs.services.preflight import warnings_in
from runs.services.run_requests import InvalidRequest, RunRequest, clean_request
from runs.services.runtime import local_runtime
from runs.spec.families import preset_names
from runs.spec.kinds import DEFAULT_KIND, KINDS
from runs.spec.manifest import training_warnings
from tunixrt.accounts import person
from tunixrt.refusals import NotAllowed, Refusal
from tunixrt.roles import May, Role, may_see_secrets, require, user_role

DATASETS_MAX = 500
MODELS_MAX = 200
DEFAULT_MODEL = "preset:tiny-llama"


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def start(request: HttpRequest) -> HttpResponse:
    require(person(request), May.MAKE)
    if request.method == "POST":
        form = StartForm(
            request.POST,
            datasets=dataset_choices(request.POST.get("dataset_key", "")),
            kind=kind_or_default(request.POST.get("kind", "")),
        )
        status, run = 400, None
        if form.is_valid():
            status, run = (
                check(request, form)
                if request.POST.get("action") == "check"
                else submit(request, form)
            )
        if run is not None and request.POST.get("action") != "check":
            return redirect("runs:detail", run.pk)
        context = page_context(form, person(request))
        if run is not None:
            plan = read_plan(run.summary)
            context |= {
                "checked": run,
                "plan": plan,
                "bars": histogram_bars(plan["histogram"]) if plan else [],
            }
            context["warnings"] = [*time_warnings(form), *warnings_in(run.summary)]
        if request.htmx:  # type: ignore[attr-defined]
            return render(request, "runs/_preflight.html", context)
        return render(
            request, "runs/start.html", context, status=200 if run is not None else status
        )
    initial = {
        "model_id": DEFAULT_MODEL,
        "client_request_id": uuid.uuid4(),
        "dataset_key": request.GET.get("dataset", ""),
    }
    if "model" in request.GET:
        initial["model_id"] = request.GET["model"]
    source = None
    if "clone" in request.GET:
        source = run_to_clone(request.GET["clone"])
        if source is None:
            messages.error(request, "The run to clone is not there; the form shows the defaults.")
        else:
            initial |= cloned(source, person(request))
    kind = request.GET.get("kind", "") or (source.kind if source else "")
    form = StartForm(
        initial=initial,
        datasets=dataset_choices(str(initial["dataset_key"])),
        kind=kind_or_default(kind),
    )
    return render(
        request,
        "runs/start.html",
        page_context(form, person(request), source=source) | {"source": source},
    )


def kind_or_default(name: str) -> str:
    return name if name in KINDS else DEFAULT_KIND


def cloned(source: Run, by: User) -> dict[str, Any]:
    """Return what the form shows of another run: any account may clone one, without what is its
    owner's alone."""
    initial = initial_from_config(source.config)
    if not may_see_secrets(by, source.owner_id):
        initial["webhook_url"] = ""
    if user_role(by) < Role.OPERATOR:
        initial["priority"] = min(0, initial.get("priority", 0))
    return initial


def submit(request: HttpRequest, form: StartForm) -> tuple[int, Run | None]:
    """Hand the form's request to the services: ``(status of the page, run)``; without a run the
    form says why."""
    assert form.request is not None
    asked = form.request
    try:
        require_priority(person(request), asked.priority)
        return 202, start_run(request, asked, queued=form.cleaned_data["run_async"])
    except refusals.IdempotencyConflict:
        # The page was changed and sent again, after going back in the browser, say: that is another
        # run.
        changed = clean_request(asked.as_config() | {"client_request_id": str(uuid.uuid4())})
        try:
            return 202, start_run(request, changed, queued=form.cleaned_data["run_async"])
        except Refusal as refusal:
            return refused(form, refusal)
    except Refusal as refusal:
        return refused(form, refusal)


def time_warnings(form: StartForm) -> list[str]:
    """Return what is said of the form's time limit if it is sent as it stands."""
    assert form.request is not None
    queued = form.cleaned_data["run_async"]
    limit = submission.time_limit(form.request, queued=queued)
    warning = submission.limit_warning(
        asked=form.request.timeout_seconds,
        limit=limit,
        queued=queued,
        dry_run=form.request.dry_run,
    )
    return [warning] if warning else []


def check(request: HttpRequest, form: StartForm) -> tuple[int, Run | None]:
    """Run a dry run of the form as it stands, as deep as this host can check, beside the form. The
    form itself stays to be sent."""
    assert form.request is not None
    depth = "full" if local_runtime().available else "quick"
    asked = replace(
        form.request,
        dry_run=True,
        preflight=depth,
        name=None,
        timeout_seconds=None,
        auto_retry=0,
        webhook_url="",
        priority=0,
        output_dir=None,
        client_request_id=None,
    )
    try:
        try:
            run, _ = launching.run_in_request(request=asked, by=person(request))
        except launching.CannotStart as reason:
            form.not_looked_at = why_not_now(reason)
            run, _ = launching.run_in_request(
                request=replace(asked, preflight="quick", smoke=False), by=person(request)
            )
    except Refusal as refusal:
        return refused(form, refusal)
    return 200, run


def start_run(request: HttpRequest, asked: RunRequest, *, queued: bool) -> Run:
    if queued:
        run, created = submission.submit_run(request=asked, by=person(request), queued=True)
    else:
        run, created = launching.run_in_request(request=asked, by=person(request))
    if not asked.dry_run:  # a dry run's own page has them
        for warning in training_warnings(asked.training):
            messages.warning(request, warning)
    if not created:
        messages.info(request, "This form was sent before: here is the run that it started.")
    return run


def why_not_now(refusal: launching.CannotStart) -> str:
    """Return the reason in the words of the form, where a slot is all that is missing."""
    return (
        "Every slot of this host is training."
        if isinstance(refusal, launching.NoFreeSlot)
        else refusal.detail
    )


def refused(form: StartForm, refusal: Refusal) -> tuple[int, None]:
    """Show why beside its field, or above the form."""
    match refusal:
        case InvalidRequest():
            form.take_errors(refusal)
        case DatasetNotFound():
            form.add_error("dataset_key", f"Not found: {refusal.key}")  # beside the field's label
        case NotAllowed():
            form.add_error("priority", refusal.detail)
        case launching.CannotStart():
            way_out = (
                " Tick Run Async to queue the run."
                if isinstance(refusal, launching.NoFreeSlot)
                else ""
            )
            form.add_error(None, f"{why_not_now(refusal)}{way_out}")
        case _:
            form.add_error(None, refusal.detail)
    return refusal.status, None


@dataclass(frozen=True)
class KindChoice:
    """A kind of training, and the address of the form with its fields."""

    label: str
    query: str
    chosen: bool


def kind_choices(form: StartForm, source: Run | None) -> list[KindChoice]:
    """Return the kinds to choose from, with what the form was opened for; none where there is only
    one."""
    if len(KINDS) == 1:
        return []
    kept = {"dataset": form["dataset_key"].value(), "model": form["model_id"].value()}
    if source is not None:
        kept = {"clone": str(source.pk)}
    return [
        KindChoice(
            kind.label,
            urlencode({"kind": name} | {key: value for key, value in kept.items() if value}),
            chosen=kind is form.kind,
        )
        for name, kind in KINDS.items()
    ]


def page_context(form: StartForm, user: User, source: Run | None = None) -> dict[str, object]:
    runtime = local_runtime()
    return {
        "form": form,
        "kinds": kind_choices(form, source),
        "runtime": runtime,
        # Without a runtime here, another host may still take the run out of the queue.
        "runtime_elsewhere": (
            not runtime.available and Host.objects.alive().exclude(runtime_version="").exists()
        ),
        "has_datasets": len(form.fields["dataset_key"].widget.choices) > 1,
        "models": model_choices(),
        "disk_warnings": disk_warnings(user),
        "root_notice": root_notice(user),
        "sync_limit": settings.TUNIX_SYNC_TIMEOUT_SECONDS,
    }


def dataset_choices(wanted: str) -> list[tuple[str, str]]:
    """Return ``(key, label)`` of the newest datasets, and of the wanted one wherever it stands."""
    fields = ("dataset_key", "size", "held_out_size")
    found = list(
        Dataset.objects.filter(archived_at=None)
        .order_by("-created_at", "-id")
        .values_list(*fields)[:DATASETS_MAX]
    )
    if wanted and all(key != wanted for key, _, _ in found):
        found += Dataset.objects.filter(dataset_key=wanted.replace("\x00", "")).values_list(*fields)
    return [
        (
            key,
            (
                f"{key} ({size - held_out:,} to train"
                f" on{f', {held_out:,} held out' if held_out else ''})"
            ),
        )
        for key, size, held_out in found
    ]


def model_choices() -> list[str]:
    """Return models to suggest: presets, folders below the model roots, and those of recent
    runs."""
    presets = [f"preset:{name}" for name in preset_names()]
    folders = [
        str(path.parent) for root in settings.TUNIX_MODEL_ROOTS for path in _model_configs(root)
    ]
    recent = Run.objects.visible().newest_first().values_list("model_id", flat=True)[:MODELS_MAX]
    return list(dict.fromkeys([*presets, *folders, *recent]))[:MODELS_MAX]


def _model_configs(root: Path) -> list[Path]:
    try:
        return sorted([*root.glob("*/config.json"), *root.glob("*/*/config.json")])[:MODELS_MAX]
    except OSError:
        return []


def run_to_clone(text: str) -> Run | None:
    """Return the run to clone, if ``text`` names one."""
    try:
        return Run.objects.visible().filter(pk=uuid.UUID(text)).first()
    except ValueError:
        return None
