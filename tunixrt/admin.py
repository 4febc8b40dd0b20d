"""What the admin pages of every application share: lists that cost the same with a million rows, and rows nobody edits.
And the pages of accounts, tokens and the audit log.
"""

from datetime import date, datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import actions
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from knox import admin as knox_admin  # registers what is registered anew below
from knox.models import AuthToken, get_digest_token
from knox.settings import CONSTANTS

from tunixrt.audit import write_log_entry
from tunixrt.templatetags.display import when

admin.site.site_header = "tunixrt"
admin.site.site_title = "tunixrt"
admin.site.index_title = "Operations"
admin.site.enable_nav_sidebar = False


class LookAheadPaginator(Paginator):
    """Never counts the rows: looks a few pages ahead of the page that is shown. ``count`` is true up to there; a page behind
    the end is none of its pages.
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

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], per_page: int, *args: Any, **kwargs: Any) -> Paginator:
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


def calendar(changelist: ChangeList) -> dict[str, Any]:
    """The choices of a date hierarchy, computed from the first and the last row: Django's own would read every row.

    The same query parameters and template (admin/date_hierarchy.html) as Django's.
    """
    field = changelist.date_hierarchy
    rows = changelist.root_queryset.filter(**{f"{field}__isnull": False})
    first = rows.order_by(field).values_list(field, flat=True).first()
    last = rows.order_by(f"-{field}").values_list(field, flat=True).first()
    if not first or not last:
        return {"show": False}
    year, month, day = (_given(changelist, f"{field}__{part}") for part in ("year", "month", "day"))

    def link(**parts: int) -> str:
        return changelist.get_query_string({f"{field}__{part}": value for part, value in parts.items()}, [f"{field}__"])

    if year is None:
        years = range(first.year, last.year + 1)
        return {"show": True, "back": None, "choices": [{"link": link(year=number), "title": str(number)} for number in years]}
    if month is None:
        months = [date(year, number, 1) for number in range(1, 13)]
        months = [start for start in months if start <= last.date() and _next_month(start) > first.date()]
        choices = [{"link": link(year=year, month=start.month), "title": f"{start:%B}"} for start in months]
        return {"show": True, "back": {"link": link(), "title": "All dates"}, "choices": choices}
    start = date(year, month, 1)
    if day is None:
        days = [start + timedelta(days=number) for number in range((_next_month(start) - start).days)]
        days = [one for one in days if first.date() <= one <= last.date()]
        choices = [{"link": link(year=year, month=month, day=one.day), "title": f"{one:%b} {one.day}"} for one in days]
        return {"show": True, "back": {"link": link(year=year), "title": str(year)}, "choices": choices}
    one = datetime(year, month, day)  # noqa: DTZ001 - a name on a page, not a moment
    back = {"link": link(year=year, month=month), "title": f"{one:%B %Y}"}
    return {"show": True, "back": back, "choices": [{"title": f"{one:%B} {one.day}"}]}


def _given(changelist: ChangeList, name: str) -> int | None:
    value = changelist.params.get(name)
    return int(value) if value else None


def _next_month(start: date) -> date:
    return date(start.year + start.month // 12, start.month % 12 + 1, 1)


# --- accounts, tokens, the audit log ----------------------------------------------------------------------------------

admin.site.unregister(User)
knox_admin.admin.site.unregister(AuthToken)


@admin.register(User)
class AccountAdmin(FastListAdmin, UserAdmin):
    """Django's own, in a list that is never counted."""

    list_filter = ("is_staff", "is_superuser", "is_active")


@admin.register(LogEntry)
class AuditAdmin(ReadOnlyAdmin):
    """What people did in the admin, and what they deleted anywhere. What happened to a run is among its events."""

    list_display = ("action_time", "user", "what", "content_type", "object_repr", "change")
    list_display_links = None
    list_select_related = ("user", "content_type")
    ordering = ("-id",)
    search_fields = ("object_id__exact", "user__username__exact")
    search_help_text = "An account or the id of what it was done to, exactly"

    @admin.display(description="what")
    def what(self, entry: LogEntry) -> str:
        return {ADDITION: "added", DELETION: "deleted"}.get(entry.action_flag, "did")

    @admin.display(description="how")
    def change(self, entry: LogEntry) -> str:
        return entry.get_change_message() or "–"


class TokenForm(forms.ModelForm):
    """For whom, and for how long. Who is not a superuser makes tokens of their own account only: a token can do what its account
    can."""

    username = forms.CharField(max_length=150, label="Account", help_text="The token can do what this account can.")
    days = forms.IntegerField(
        min_value=1, max_value=3650, required=False, label="Valid for days", help_text="Empty: until it is revoked."
    )
    by: User  # who asks

    class Meta:
        model = AuthToken
        fields = ()

    def clean_username(self) -> User:
        name = self.cleaned_data["username"]
        if name != self.by.get_username() and not self.by.is_superuser:
            raise forms.ValidationError("Only a superuser makes tokens of other accounts.")
        account = User.objects.filter(username=name, is_active=True).first()
        if account is None:
            raise forms.ValidationError("There is no active account of this name.")
        return account


@admin.register(AuthToken)
class TokenAdmin(FastListAdmin):
    """API tokens. Only hashes are stored: a key is shown once, by the page that made it."""

    list_display = ("beginning", "user", "made", "expires")
    list_select_related = ("user",)
    ordering = ("-created",)
    search_fields = ("user__username__exact", "token_key__startswith")
    search_help_text = "An account exactly, or the beginning of a key"
    fields = readonly_fields = ("beginning", "user", "made", "expires")
    actions = ("delete_selected",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        return type("TokenFormOfPerson", (TokenForm,), {"by": request.user})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj is not None else ("username", "days")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj is not None else ()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @admin.display(description="key begins with")
    def beginning(self, token: Any) -> str:
        return f"{token.token_key[:8]}…"

    @admin.display(description="made")
    def made(self, token: Any) -> Any:
        return when(token.created)

    @admin.display(description="expires")
    def expires(self, token: Any) -> Any:
        return when(token.expiry, "never")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.user, days = form.cleaned_data["username"], form.cleaned_data["days"]
        obj.digest, form.key = get_digest_token()
        obj.token_key = form.key[: CONSTANTS.TOKEN_KEY_LENGTH]
        obj.expiry = timezone.now() + timedelta(days=days) if days else None
        obj.save(force_insert=True)
        request.made_token_key = form.key  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Shows the key, this once: not through a message, which would lie in a cookie or a session."""
        context = self.admin_site.each_context(request) | {
            "title": f"A token of {obj.user}",
            "opts": self.opts,
            "token": obj,
            "key": request.made_token_key,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "admin/token.html", context, headers={"Cache-Control": "no-store"})

    @admin.action(description="Revoke", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, tokens: QuerySet[Any]) -> Any:
        return actions.delete_selected(self, request, tokens)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        allowed = self.has_delete_permission(request)
        names = [self._name(token) for token in objs]
        return names, {"tokens": len(names)}, set() if allowed else {"token"}, []

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return self._log(request, obj, ADDITION, "made")

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return [self._log(request, token, DELETION, "revoked") for token in queryset]

    @staticmethod
    def _name(token: Any) -> str:
        return f"token {token.token_key[:8]}… of {token.user}"

    def _log(self, request: HttpRequest, token: Any, flag: int, message: str) -> LogEntry:
        assert isinstance(request.user, User)
        return write_log_entry(by=request.user, target=token, name=self._name(token), flag=flag, message=message)
