"""The operators' cockpit. Nothing is edited here; actions call the services that pages and API
call."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from runs.admin.links import run_link, status_badge
from runs.execution import attending
from runs.models import Run, RunEvent, RunTag, WebhookDelivery
from runs.queries.filters import runs_named
from runs.queries.selection import runs_whose_id_begins
from runs.services import annotations, deletion, reservations, retrying
from runs.services.run_requests import PRIORITY_RANGE
from tunixrt.admin.lists import ACTION_MAX, ReadOnlyAdmin, ReadOnlyInline, each
from tunixrt.audit import write_log_entry
from tunixrt.roles import May, require, why_not
from tunixrt.sizes import size
from tunixrt.templatetags.display import duration, when

HEAVY = ("stdout", "stderr", "config", "summary", "process", "notes", "message")


class TrashFilter(admin.SimpleListFilter):
    title = "trash"
    parameter_name = "trash"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("in", "In the trash"), ("any", "Both")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": "Not in the trash"}, *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        match self.value():
            case "in":
                return queryset.filter(trashed_at__isnull=False)
            case "any":
                return queryset
            case _:
                return queryset.filter(trashed_at__isnull=True)


class KindFilter(admin.SimpleListFilter):
    """Trainings, or what else runs: each along an index of its own."""

    title = "kind"
    parameter_name = "runs"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("other", "Evaluations")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": "Trainings and dry runs"}, *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        return queryset.filter(listed__in=[self.value() != "other"])


class EventInline(ReadOnlyInline):
    model = RunEvent
    fields = readonly_fields = ("at", "old", "new", "reason", "by")
    verbose_name_plural = "What happened"


class DeliveryInline(ReadOnlyInline):
    model = WebhookDelivery
    fields = readonly_fields = ("created_at", "url", "state", "attempts", "next_attempt_at")
    show_change_link = True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) and not why_not(request.user, May.OPERATE)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    change_list_template = "admin/runs/run/change_list.html"
    list_display = (
        "short_id", "called", "status_badge", "mode", "dataset_key", "model_id",
        "owner", "host", "created", "duration", "priority", "pinned",
    )  # fmt: skip
    list_filter = (KindFilter, "status", "mode", TrashFilter, "created_at", "owner", "host")
    list_select_related = ("owner", "host")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-run_id")
    search_fields = ("dataset_key", "model_id")
    search_help_text = (
        "Words of a name, the beginning of a run id, or a dataset, model, tag or owner exactly"
    )
    inlines = (EventInline, DeliveryInline)
    actions = (
        "cancel",
        "retry",
        "retry_from_scratch",
        "pin",
        "unpin",
        "prioritise",
        "trash",
        "purge",
    )
    readonly_fields = ("status_badge", "tags", "folder", "retries", "series")
    fieldsets = (
        (None, {"fields": (
            "run_id", "name", "status_badge", "message", "kind", "mode", "dataset_key", "model_id",
            "owner", "tags", "notes", "pinned",
        )}),
        ("Course", {"fields": (
            "created_at", "queued_at", "started_at", "completed_at", "duration_seconds",
            "exit_code", "trashed_at",
        )}),
        ("Queue and supervision", {"fields": (
            "priority", "host", "process", "attempt", "retry_of", "retries", "resume_from",
            "extend_from_step", "timeout_seconds",
            "cancel_requested_at", "client_request_id",
        )}),
        ("Training", {"fields": ("step", "total_steps", "last_loss", "summary", "series")}),
        ("Request and files", {"fields": ("config", "folder"), "classes": ("collapse",)}),
        ("Output", {"fields": ("stdout", "stderr"), "classes": ("collapse",)}),
    )  # fmt: skip

    class Media:
        css = {"all": ("css/status.css", "css/admin.css")}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        rows = super().get_queryset(request)
        match = request.resolver_match
        return rows.defer(*HEAVY) if match and match.url_name == "runs_run_changelist" else rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Search by what an index finds at once; Django's own search would read every row."""
        text = search_term.strip().replace("\x00", "")
        if not text:
            return queryset, False
        found = Q(dataset_key=text) | Q(model_id=text) | Q(owner__username=text)
        found |= Q(pk__in=RunTag.objects.filter(name=text).order_by().values("run")) | runs_named(
            text
        )
        if (by_id := runs_whose_id_begins(text)) is not None:
            found |= by_id
        return queryset.filter(found), False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may act on all runs."""
        return not why_not(request.user, May.OPERATE)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields, for staff without the role of operator without the request, which
        holds the webhook address."""
        if self.has_operate_permission(request):
            return self.fieldsets
        return tuple(
            (
                title,
                options | {"fields": tuple(name for name in options["fields"] if name != "config")},
            )
            for title, options in self.fieldsets
        )

    # --- columns and fields

    @admin.display(description="run")
    def short_id(self, run: Run) -> SafeString:
        return format_html('<code title="{}">{}</code>', run.pk, str(run.pk)[:8])

    @admin.display(description="name")
    def called(self, run: Run) -> SafeString:
        return format_html("<bdi>{}</bdi>", run.name)

    @admin.display(description="status")
    def status_badge(self, run: Run) -> SafeString:
        return status_badge(run.status)

    @admin.display(description="created")
    def created(self, run: Run) -> Any:
        return when(run.created_at)

    @admin.display(description="duration")
    def duration(self, run: Run) -> str:
        return duration(run.duration_seconds)

    @admin.display(description="tags")
    def tags(self, run: Run) -> str:
        return ", ".join(tag.name for tag in run.tags.all()) or "–"

    @admin.display(description="folder")
    def folder(self, run: Run) -> str:
        return str(reservations.run_folder(run))

    @admin.display(description="retries")
    def retries(self, run: Run) -> SafeString | str:
        links = (
            (run_link(pk, name),)
            for pk, name in run.retries.newest_first().values_list("pk", "name")[:20]
        )
        return format_html_join(", ", "{}", links) or "–"

    @admin.display(description="metrics")
    def series(self, run: Run) -> SafeString | str:
        rows = [
            (series.name, series.count, series.first, series.last)
            for series in run.metric_series.all()
        ]
        return format_html_join("", "<div><bdi>{}</bdi>: {} points, {} → {}</div>", rows) or "–"

    # --- actions

    def _each(
        self,
        request: HttpRequest,
        runs: QuerySet[Run],
        act: Callable[[Run, User], object],
        done: str,
        *,
        log: bool = True,
    ) -> None:
        """Do something to each run on which the person may act. ``log``: the service writes no line
        of the audit log itself."""

        def act_on(run: Run, by: User) -> None:
            require(by, May.ACT, owner_id=run.owner_id)
            act(run, by)
            if log:
                write_log_entry(by=by, target=run, name=str(run), flag=CHANGE, message=done)

        each(self, request, runs.select_related("owner", "host"), act_on, "run", done)

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(
            request, runs, lambda run, by: attending.cancel_run(run=run, by=by), "asked to stop"
        )

    @admin.action(description="Retry", permissions=["operate"])
    def retry(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(request, runs, lambda run, by: retrying.retry_run(run=run, by=by), "tried again")

    @admin.action(description="Retry from scratch", permissions=["operate"])
    def retry_from_scratch(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(
            request,
            runs,
            lambda run, by: retrying.retry_run(run=run, by=by, resume=False),
            "tried again from scratch",
        )

    @admin.action(description="Pin", permissions=["operate"])
    def pin(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(
            request,
            runs,
            lambda run, by: annotations.annotate_run(run=run, by=by, pinned=True),
            "pinned",
        )

    @admin.action(description="Unpin", permissions=["operate"])
    def unpin(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(
            request,
            runs,
            lambda run, by: annotations.annotate_run(run=run, by=by, pinned=False),
            "unpinned",
        )

    @admin.action(description="Move to the front of the queue", permissions=["operate"])
    def prioritise(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        front = (
            Run.objects.pending_in_order()
            .exclude(pk__in=runs.values("pk"))
            .values_list("priority", flat=True)
            .first()
        )
        priority = min((front or 0) + 1, PRIORITY_RANGE[1])
        done = f"moved to the front of the queue (priority {priority})"
        if front == PRIORITY_RANGE[1]:
            done = (
                f"set to priority {priority}, the highest; older runs of that priority start first"
            )
        self._each(
            request,
            runs,
            lambda run, by: annotations.set_priority(run=run, by=by, priority=priority),
            done,
        )

    @admin.action(description="Move to the trash", permissions=["operate"])
    def trash(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        self._each(
            request,
            runs,
            lambda run, by: deletion.trash_run(run=run, by=by),
            "moved to the trash",
            log=False,
        )

    @admin.action(description="Delete from the trash, with files", permissions=["operate"])
    def purge(self, request: HttpRequest, runs: QuerySet[Run]) -> HttpResponse | None:
        """Purge runs, after a confirmation: this cannot be undone."""
        if request.POST.get("confirmed"):
            self._each(
                request,
                runs,
                lambda run, by: deletion.purge_run(run=run, by=by),
                "deleted with files",
                log=False,
            )
            return None
        chosen = [
            (run, size(deletion.folder_bytes(run)))
            for run in runs.order_by(*self.ordering)[:ACTION_MAX]
        ]
        context = self.admin_site.each_context(request) | {
            "title": "Delete runs and their files?",
            "opts": self.opts,
            "chosen": chosen,
            "total": size(sum(deletion.folder_bytes(run) for run, _ in chosen)),
            "media": self.media,
        }
        return TemplateResponse(request, "admin/runs/run/purge.html", context)
