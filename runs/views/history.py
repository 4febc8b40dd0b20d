"""The history: every run, newest first, in pages that cost the same at any depth."""

from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from runs.forms.history import HistoryFilter
from runs.models import Run, RunTag, SavedView
from runs.queries import columns
from runs.queries.columns import in_order
from runs.queries.filters import split_terms
from runs.queries.selection import Cursor
from runs.queries.sparklines import read_sparklines
from runs.services.disk import disk_warnings
from runs.services.output_root import root_notice
from runs.services.saved_views import VIEWS_MAX
from tunixrt.accounts import person
from tunixrt.searches import search

PAGE_SIZE = 20
COLUMNS_COOKIE = "history_columns"
# What a row and its essentials show; logs and results stay where they are.
ROW_FIELDS = (
    "run_id", "name", "dataset_key", "model_id", "mode", "dry_run", "status", "exit_code",
    "created_at", "started_at", "completed_at", "duration_seconds", "message", "config", "notes",
    "pinned", "attempt", "retry_of", "step", "total_steps", "last_loss", "owner__username",
    "trashed_at", "priority", "host__name",
)  # fmt: skip
RANGES = (
    ("Last 24 h", "after:24h"),
    ("Last 7 days", "after:7d"),
    ("This week", "after:week"),
    ("This month", "after:month"),
)


@dataclass(frozen=True)
class DateRange:
    """A link: ``query`` is the search text with this range instead of another, or without it where
    it is chosen."""

    label: str
    query: str
    chosen: bool


def date_ranges(query: str) -> list[DateRange]:
    words = split_terms(query)
    rest = " ".join(word for word in words if not word.lower().startswith("after:"))
    chosen = {word.lower() for word in words}
    return [
        DateRange(
            label, rest if term in chosen else f"{rest} {term}".strip(), chosen=term in chosen
        )
        for label, term in RANGES
    ]


def remember_columns(request: HttpRequest) -> HttpResponse:
    """What was ticked becomes part of the address, and what later histories show that name no
    columns."""
    chosen = in_order(request.GET.getlist("columns")) or columns.DEFAULT
    address = request.GET.copy()
    for name in ("choose", "columns", "cursor"):
        address.pop(name, None)
    if chosen != columns.DEFAULT:
        address["columns"] = ",".join(chosen)
    query = address.urlencode(safe=",:")
    response = redirect(f"{request.path}?{query}" if query else request.path)
    if chosen == columns.DEFAULT:
        response.delete_cookie(COLUMNS_COOKIE, samesite="Lax")
    else:
        year = timedelta(days=365)
        value = "|".join(chosen)
        response.set_cookie(
            COLUMNS_COOKIE, value, max_age=year, secure=settings.TLS, httponly=True, samesite="Lax"
        )
    return response


@require_safe
@login_required
@vary_on_headers("HX-Request")
def history(request: HttpRequest) -> HttpResponse:
    """The page, or for htmx only the part that changes."""
    if "choose" in request.GET:
        return remember_columns(request)
    form = HistoryFilter(request.GET)
    valid = form.is_valid()
    remembered = in_order(request.COOKIES.get(COLUMNS_COOKIE, "").split("|"))
    shown = (form.cleaned_data.get("columns") if valid else None) or remembered or columns.DEFAULT
    context = {
        "form": form,
        "runs": [],
        "next_cursor": None,
        "ranges": date_ranges(request.GET.get("q", "")),
        "columns": [columns.COLUMNS[name] for name in shown],
        "shown": frozenset(shown),
        # then each row asks for one after the other
        "rare_shown": (not set(shown) <= set(columns.DEFAULT)),
    }
    if valid:
        selection = form.selection(by=person(request))
        selected = selection.in_order(Run.objects.visible(), behind=form.cleaned_data["cursor"])
        tags = Prefetch("tags", RunTag.objects.all())
        with search(person(request), "q", reads_all=selection.reads_all):
            rows = list(
                selected.select_related("owner", "host")
                .only(*ROW_FIELDS)
                .prefetch_related(tags)[: PAGE_SIZE + 1]
            )
        runs = rows[:PAGE_SIZE]
        more = len(rows) > PAGE_SIZE
        context |= {
            "runs": runs,
            "sparklines": read_sparklines(run.run_id for run in runs) if "loss" in shown else {},
            "active": any(run.is_active for run in runs),
            "next_cursor": Cursor(runs[-1].created_at, runs[-1].run_id).encode() if more else None,
        }
    status = 200 if valid else 422
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "runs/_runs.html", context, status=status)
    address = query = form.query
    if shown != columns.DEFAULT and "columns" not in request.GET:
        query = f"{query}&{urlencode({'columns': ','.join(shown)})}".lstrip("&")
    context |= {
        "saved_views": SavedView.objects.filter(owner=person(request))[:VIEWS_MAX],
        "all_columns": columns.COLUMNS.values(),
        "address": address,  # names a kept view that is open
        "query": query,  # what would be kept
        "disk_warnings": disk_warnings(person(request)),
        "root_notice": root_notice(person(request)),
        "kept": [
            (name, value) for name in HistoryFilter.FILTERS if (value := request.GET.get(name))
        ],
    }
    return render(request, "runs/history.html", context, status=status)
