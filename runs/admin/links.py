"""What the admin pages of runs share: badges, links, and the search by a run."""

import uuid
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from runs.models import Run
from runs.queries.selection import runs_whose_id_begins


def status_badge(status: str) -> SafeString:
    return format_html('<span class="status is-{}">{}</span>', status, status)


def run_link(run_id: uuid.UUID, name: str) -> SafeString:
    address = reverse("admin:runs_run_change", args=[run_id])
    return format_html(
        '<a href="{}">{}</a> <bdi>{}</bdi>', address, run_id, Truncator(name).chars(40)
    )


def by_run(rows: QuerySet[Any], search_term: str) -> QuerySet[Any]:
    """Return rows of the runs whose id begins so."""
    if not search_term.strip():
        return rows
    by_id = runs_whose_id_begins(search_term.strip())
    return rows.none() if by_id is None else rows.filter(run__in=Run.objects.filter(by_id))
