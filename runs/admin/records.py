"""What is kept about runs: events, tags, series, webhooks with their attempts."""

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from runs.admin.links import by_run, run_link
from runs.models import MetricSeries, RunEvent, RunTag, WebhookAttempt, WebhookDelivery
from tunixrt.admin.lists import ReadOnlyAdmin, ReadOnlyInline
from tunixrt.roles import May, why_not


class OfARunAdmin(ReadOnlyAdmin):
    """Rows that belong to a run, the newest first, found by the beginning of its id."""

    ordering = ("-id",)
    search_fields = ("run",)
    search_help_text = "The beginning of a run id"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.annotate(run_name=F("run__name"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return by_run(queryset, search_term), False

    @admin.display(description="run")
    def run_ref(self, row: Any) -> SafeString:
        return run_link(row.run_id, row.run_name)


@admin.register(RunEvent)
class RunEventAdmin(OfARunAdmin):
    """Who did what to which run, newest first."""

    list_display = ("at", "run_ref", "old", "new", "reason", "by")
    list_display_links = None

    class Media:
        css = {"all": ("css/status.css", "css/admin.css")}


@admin.register(RunTag)
class RunTagAdmin(OfARunAdmin):
    list_display = ("name", "run_ref")
    list_display_links = None
    search_fields = ("name",)
    search_help_text = "A tag exactly"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        return queryset.filter(name=name) if name else queryset, False


@admin.register(MetricSeries)
class MetricSeriesAdmin(OfARunAdmin):
    list_display = ("run_ref", "name", "count", "first", "last", "minimum", "maximum", "last_step")
    list_display_links = None


class AttemptInline(ReadOnlyInline):
    model = WebhookAttempt
    fields = readonly_fields = ("at", "status_code", "error", "seconds")
    verbose_name_plural = "Attempts"


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(OfARunAdmin):
    list_display = ("created_at", "run_ref", "url", "state", "attempts", "next_attempt_at")
    list_filter = ("state",)
    fields = readonly_fields = (
        "run_ref",
        "url",
        "state",
        "attempts",
        "created_at",
        "next_attempt_at",
        "payload",
    )
    inlines = (AttemptInline,)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see addresses of webhooks, which may hold keys."""
        return super().has_view_permission(request, obj) and not why_not(request.user, May.OPERATE)
