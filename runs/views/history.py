"""The history: every run, newest first, in pages that cost the same at any depth."""

import re
from dataclasses import dataclass

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET
from django.views.decorators.vary import vary_on_headers

from runs.forms import HistoryFilter
from runs.models import Run, RunTag
from runs.selection import Cursor
from runs.sparklines import read_sparklines
from runs.views.actions import person

PAGE_SIZE = 20
# What a row and its essentials show; logs and results stay where they are.
ROW_FIELDS = (
    "run_id", "dataset_key", "model_id", "mode", "status", "exit_code", "created_at", "started_at", "completed_at",
    "duration_seconds", "message", "config", "notes", "pinned", "attempt", "retry_of", "step", "total_steps", "last_loss",
    "owner__username", "trashed_at",
)  # fmt: skip
RANGES = (("Last 24 h", "after:24h"), ("Last 7 days", "after:7d"), ("This week", "after:week"), ("This month", "after:month"))
_AFTER = re.compile(r"(?:^|\s)after:\S+", re.IGNORECASE)


@dataclass(frozen=True)
class DateRange:
    """A link: ``query`` is the search text with this range instead of another, or without it where it is chosen."""

    label: str
    query: str
    chosen: bool


def date_ranges(query: str) -> list[DateRange]:
    rest = " ".join(_AFTER.sub(" ", query).split())
    chosen = {word.lower() for word in query.split()}
    return [
        DateRange(label, rest if term in chosen else f"{rest} {term}".strip(), chosen=term in chosen) for label, term in RANGES
    ]


@require_GET
@login_required
@vary_on_headers("HX-Request")
def history(request: HttpRequest) -> HttpResponse:
    """The page, or for htmx only the part that changes."""
    form = HistoryFilter(request.GET)
    context = {"form": form, "runs": [], "next_cursor": None, "ranges": date_ranges(request.GET.get("q", ""))}
    if valid := form.is_valid():
        selected = form.selection(by=person(request)).apply(Run.objects.visible()).newest_first()
        if cursor := form.cleaned_data["cursor"]:
            selected = cursor.apply(selected)
        tags = Prefetch("tags", RunTag.objects.all())
        rows = list(selected.select_related("owner").only(*ROW_FIELDS).prefetch_related(tags)[: PAGE_SIZE + 1])
        runs = rows[:PAGE_SIZE]
        more = len(rows) > PAGE_SIZE
        context |= {
            "runs": runs,
            "sparklines": read_sparklines(run.run_id for run in runs),
            "active": any(run.is_active for run in runs),
            "next_cursor": Cursor(runs[-1].created_at, runs[-1].run_id).encode() if more else None,
        }
    template = "runs/_runs.html" if request.htmx else "runs/history.html"  # type: ignore[attr-defined]
    return render(request, template, context, status=200 if valid else 422)
