"""The history: every run, newest first, in pages that cost the same at any depth."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from runs.forms.history import HistoryFilter
from runs.models import EXECUTING, Run, RunQuerySet, RunTag, SavedView
from runs.queries import columns
from runs.queries.columns import in_order
from runs.queries.filters import split_terms
from runs.queries.sparklines import read_sparklines
from runs.services.access import get_run_for
from runs.services.disk import disk_warnings
from runs.services.output_root import root_notice
from runs.services.saved_views import VIEWS_MAX
from tunixrt.accounts import person
from tunixrt.compiled import Compiled, CompiledForKeys
from tunixrt.cursors import Cursor
from tunixrt.roles import May, why_not
from tunixrt.searches import search

PAGE_SIZE = 20
TAGS_SHOWN = 3
NO_RUN = UUID(int=0)
COLUMNS_COOKIE = "history_columns"
# What a row shows with the columns of the start; logs and results stay where they are.
ROW_FIELDS = (
    "run_id", "name", "dataset_key", "model_id", "mode", "dry_run", "status", "created_at",
    "started_at", "completed_at", "duration_seconds", "pinned", "step", "total_steps", "last_loss",
    "owner_id",
)  # fmt: skip
# What the other columns and the essentials show.
MORE_FIELDS = (
    "exit_code", "message", "config", "notes", "attempt", "retry_of", "owner__username",
    "priority", "host__name",
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
    """Put the ticked columns into the address, and show them in later histories that name no
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
            COLUMNS_COOKIE,
            value,
            max_age=year,
            secure=settings.TUNIXRT_TLS,
            httponly=True,
            samesite="Lax",
        )
    return response


@require_safe
@login_required
@vary_on_headers("HX-Request", "X-Opened")
def history(request: HttpRequest) -> HttpResponse:
    """Show the page, or for htmx only the part that changes."""
    if "choose" in request.GET:
        return remember_columns(request)
    form = HistoryFilter(request.GET)
    valid = form.is_valid()
    remembered = in_order(request.COOKIES.get(COLUMNS_COOKIE, "").split("|"))
    shown = (form.cleaned_data.get("columns") if valid else None) or remembered or columns.DEFAULT
    rare_shown = not set(shown) <= set(columns.DEFAULT)
    # Rows that are expanded, for a part that refreshes itself.
    opened = frozenset(request.headers.get("X-Opened", "").split(",")[:PAGE_SIZE]) - {""}
    context = {
        "form": form,
        "runs": [],
        "next_cursor": None,
        "ranges": date_ranges(request.GET.get("q", "")),
        "columns": [columns.COLUMNS[name] for name in shown],
        "shown": frozenset(shown),
        "rare_shown": rare_shown,
        "opened": opened,
        "span": len(shown) + 2,
    }
    if valid:
        selection = form.selection(by=person(request))
        selected = selection.in_order(Run.objects.visible(), behind=form.cleaned_data["cursor"])
        with search(person(request), "q", reads_all=selection.reads_all):
            whole = rare_shown or bool(opened)
            found = list(
                (_with_more(selected) if whole else selected.only(*ROW_FIELDS))[: PAGE_SIZE + 1]
            )
        runs = found[:PAGE_SIZE]
        more = len(found) > PAGE_SIZE
        context |= {
            "runs": history_rows(runs, by=person(request), sparklines="loss" in shown),
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
        "saved_views": _views().read(person(request).pk),
        "column_choices": column_choices(frozenset(shown)),
        "address": address,  # names a kept view that is open
        "query": query,  # what would be kept
        "disk_warnings": disk_warnings(person(request)),
        "root_notice": root_notice(person(request)),
        "kept": [
            (name, value) for name in HistoryFilter.FILTERS if (value := request.GET.get(name))
        ],
    }
    return render(request, "runs/history.html", context, status=status)


@cache
def _views() -> Compiled:
    views = SavedView.objects.filter(owner=0)
    return Compiled(views.values_list("name", "query")[:VIEWS_MAX])


@lru_cache(maxsize=64)
def column_choices(shown: frozenset[str]) -> str:
    """Return the boxes of the columns, which depend on nothing else: 0.7 ms of the page's 10."""
    context = {"all_columns": columns.COLUMNS.values(), "shown": shown}
    return render_to_string("runs/_column_choices.html", context)


_tags = CompiledForKeys(
    lambda keys: RunTag.objects.filter(run__in=keys).order_by("name").values_list("run_id", "name")
)


def history_rows(runs: Sequence[Run], *, by: User, sparklines: bool) -> list[dict[str, Any]]:
    """Return what the template shows of each run: its columns, and what would be a query or a
    computation in the template, which costs several times as much there."""
    tags: dict[UUID, list[str]] = defaultdict(list)
    for run_id, name in _tags.read([run.pk for run in runs]):
        tags[run_id].append(name)
    lines = read_sparklines(run.pk for run in runs) if sparklines else {}
    prefix = reverse("runs:detail", args=[NO_RUN]).removesuffix(str(NO_RUN))
    rows = []
    for run in runs:
        key = str(run.pk)
        more = {
            "id": key,
            "short": key[:8],
            "url": prefix + key,
            "tags": tags[run.pk][:TAGS_SHOWN],
            "sparkline": lines.get(run.pk, ""),
            "is_active": run.is_active,
            "is_executing": run.status in EXECUTING,
            "is_retriable": run.is_retriable,
            "may_act": not why_not(by, May.ACT, owner_id=run.owner_id),
        }
        rows.append(run.__dict__ | run._state.fields_cache | more)
    return rows


@require_safe
@login_required
def essentials(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Show the part of a row that appears when the row is expanded."""
    run = get_run_for(person(request), run_id, may=May.READ, runs=_with_more(Run.objects.visible()))
    return render(request, "runs/_essentials.html", {"run": run})


def _with_more(runs: RunQuerySet) -> RunQuerySet:
    return runs.select_related("owner", "host").only(*ROW_FIELDS, *MORE_FIELDS)
