"""What the admin pages of every application share: lists that cost the same with a million rows,
and read-only rows."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import PAGE_VAR
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from tunixrt.refusals import Refusal

ACTION_MAX = 500  # rows one action takes at once
SENTENCES_MAX = 10


class LookAheadPaginator(Paginator):
    """Never counts the rows: looks a few pages ahead of the page that is shown. ``count`` is true
    up to there; a page behind the end is none of its pages.
    """

    PAGES_AHEAD = 5

    def __init__(self, rows: QuerySet[Any], per_page: int, page: int):
        super().__init__(rows, per_page, allow_empty_first_page=True)
        start = max(page - 1, 0) * per_page
        limit = per_page * self.PAGES_AHEAD
        ahead = len(rows.values_list("pk")[start : start + limit + 1])
        self.count = start + min(ahead, limit)
        self.has_more = ahead > limit


class FastListAdmin(admin.ModelAdmin):
    """A list that is fast at any size."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    sortable_by = ()

    def get_paginator(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        per_page: int,
        *args: Any,
        **kwargs: Any,
    ) -> Paginator:
        try:
            page = min(max(int(request.GET.get(PAGE_VAR, 1)), 1), 1_000_000)
        except ValueError:
            page = 1
        return LookAheadPaginator(queryset, per_page, page)


class ReadOnlyAdmin(FastListAdmin):
    """Rows that are looked at and acted upon, never edited."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnlyInline(admin.TabularInline):
    extra = 0
    max_num = 0
    can_delete = False
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def each(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    act: Callable[[Any, User], object],
    noun: str,
    done: str,
) -> None:
    """Do something to each chosen row; say how many it was done to, and for the others why not."""
    assert isinstance(request.user, User)
    chosen = list(rows[: ACTION_MAX + 1])
    if len(chosen) > ACTION_MAX:
        model_admin.message_user(
            request, f"At most {ACTION_MAX} {noun}s at once; nothing was done.", messages.ERROR
        )
        return
    count, refusals = 0, []
    for row in chosen:
        name = str(row.pk)[:8] if noun == "run" else str(row)
        try:
            act(row, request.user)
        except (Refusal, OSError) as refusal:
            refusals.append(f"{name}: {refusal}")
            continue
        count += 1
    if count:
        model_admin.message_user(
            request, f"{count} {noun}{'' if count == 1 else 's'} {done}.", messages.SUCCESS
        )
    for sentence in refusals[:SENTENCES_MAX]:
        model_admin.message_user(request, sentence, messages.WARNING)
    if len(refusals) > SENTENCES_MAX:
        model_admin.message_user(
            request, f"… and {len(refusals) - SENTENCES_MAX} more.", messages.WARNING
        )
