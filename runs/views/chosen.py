"""Several runs at once: shown first with what it would do to each and what it frees, then done."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from runs.execution import attending
from runs.forms.tags import split_tags
from runs.models import Run
from runs.services import annotations, deletion
from runs.services.run_requests import clean_tags
from runs.views.actions import return_target, short
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May, require, why_not

CHOSEN_MAX = 100
REFUSALS_SHOWN = 10


@dataclass(frozen=True)
class Act:
    """Something to do to several runs. ``refuses`` says in words why not to one of them, or
    nothing."""

    title: str
    button: str
    done: str
    refuses: Callable[[Run], str]

    def why_not(self, run: Run, by: User) -> str:
        return (
            "belongs to another account"
            if why_not(by, May.ACT, owner_id=run.owner_id)
            else self.refuses(run)
        )


def _why_not_deleted(run: Run) -> str:
    if run.is_active:
        return "has not ended"
    return "has checkpoints that an active run resumes from" if run.active_heir() else ""


ACTS = {
    "cancel": Act(
        "Cancel runs",
        "Cancel them",
        "asked to stop",
        lambda run: "" if run.is_active else "has ended",
    ),
    "tag": Act("Tag runs", "Change the tags", "tagged", lambda run: ""),
    "delete": Act("Delete runs", "Delete them", "moved to the trash", _why_not_deleted),
}


@dataclass(frozen=True)
class ChosenRow:
    run: Run
    refusal: str
    size: int | None


def read_ids(query: QueryDict) -> list[UUID]:
    """Return every ``ids=`` of a query, which may hold several with commas between them, each once.
    Raise ValueError."""
    texts = [
        text.strip() for value in query.getlist("ids") for text in value.split(",") if text.strip()
    ]
    return list(dict.fromkeys(UUID(text) for text in texts))


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def chosen(request: HttpRequest) -> HttpResponse:
    """GET: what would happen. POST: do it, to those runs on which one may act; the others are
    named."""
    if request.method == "POST":
        require(person(request), May.MAKE)
    given = request.POST if request.method == "POST" else request.GET
    act = ACTS.get(given.get("do", ""))
    try:
        ids = read_ids(given)
        if act is None:
            raise ValueError
    except ValueError:
        return _back(request, "Choose runs in the list, then what to do with them.")
    if not ids:
        return _back(request, "No run is chosen: tick the boxes before the runs.")
    if len(ids) > CHOSEN_MAX:
        return _back(request, f"At most {CHOSEN_MAX} runs at once; {len(ids)} are chosen.")
    runs = sorted(
        Run.objects.visible().filter(pk__in=ids).select_related("owner", "host"),
        key=lambda run: ids.index(run.pk),
    )
    if request.method == "POST":
        return _do(request, given["do"], act, runs, missing=len(ids) - len(runs))
    deletes = given["do"] == "delete"
    rows = [
        ChosenRow(run, refusal, deletion.folder_bytes(run) if deletes and not refusal else None)
        for run in runs
        for refusal in [act.why_not(run, person(request))]
    ]
    context = {
        "act": act,
        "do": given["do"],
        "rows": rows,
        "willing": sum(not row.refusal for row in rows),
        "missing": len(ids) - len(runs),
        "freed": sum(row.size or 0 for row in rows) if deletes else None,
        "next": return_target(request.GET, "/"),
    }
    return render(request, "runs/chosen.html", context)


def _do(
    request: HttpRequest, name: str, act: Act, runs: list[Run], *, missing: int
) -> HttpResponse:
    by, count = person(request), 0
    refusals = (
        [f"{missing} of the chosen runs {'is' if missing == 1 else 'are'} no longer there."]
        if missing
        else []
    )
    for run in runs:
        try:
            require(by, May.ACT, owner_id=run.owner_id)
            _act_on(run, name, by, request.POST)
        except (Refusal, ValueError) as refusal:
            refusals.append(f"Run {short(run)}: {refusal}")
            continue
        count += 1
    if count:
        messages.success(request, f"{count} run{'' if count == 1 else 's'} {act.done}.")
    for sentence in refusals[:REFUSALS_SHOWN]:
        messages.error(request, sentence)
    if len(refusals) > REFUSALS_SHOWN:
        messages.error(request, f"… and {len(refusals) - REFUSALS_SHOWN} more.")
    return HttpResponseRedirect(return_target(request.POST, "/"))


def _act_on(run: Run, name: str, by: User, given: QueryDict) -> None:
    match name:
        case "cancel":
            attending.cancel_run(run=run, by=by)
        case "delete":
            deletion.trash_run(run=run, by=by)
        case "tag":
            tags = [tag.name for tag in run.tags.all()]
            gone = split_tags(given.get("remove", ""))
            wanted = [tag for tag in (*tags, *split_tags(given.get("add", ""))) if tag not in gone]
            annotations.annotate_run(run=run, by=by, tags=clean_tags(wanted, kept=tags))


def _back(request: HttpRequest, why: str) -> HttpResponse:
    messages.error(request, why)
    return HttpResponseRedirect(return_target(request.POST or request.GET, "/"))
