"""The queue: a page of its own, hosts, and the tasks of django-q2."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_q import admin as django_q_admin  # registers what is registered again below
from django_q.models import Failure, OrmQ, Schedule, Success

from runs.admin.links import run_link
from runs.models import Host, Run
from runs.queries.queue import read_queue
from tunixrt.admin.lists import ReadOnlyAdmin
from tunixrt.templatetags.display import when

# Successes are not kept and nothing is scheduled: lists that are always empty.
for model in (Schedule, Success, Failure, OrmQ):
    django_q_admin.admin.site.unregister(model)


@admin.register(Host)
class HostAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "heard",
        "slots",
        "executing",
        "runtime_version",
        "started_at",
        "canary_at",
    )
    readonly_fields = ("heard", "executing")

    class Media:
        css = {"all": ("css/status.css", "css/admin.css")}

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(never_cache(require_safe(self.queue)))
        return [path("queue/", view, name="runs_queue"), *super().get_urls()]

    def queue(self, request: HttpRequest) -> HttpResponse:
        """Show hosts, slots, active, pending and failed runs; the page refreshes itself."""
        if not (request.user.has_perm("runs.view_run") and self.has_view_permission(request)):
            raise PermissionDenied
        context = self.admin_site.each_context(request) | {
            "title": "Queue",
            "opts": self.opts,
            "queue": read_queue(),
        }
        return TemplateResponse(request, "admin/queue.html", context)

    @admin.display(description="heard of")
    def heard(self, host: Host) -> Any:
        return when(host.heartbeat_at, "never")

    @admin.display(description="executing")
    def executing(self, host: Host) -> SafeString | str:
        links = (
            (run_link(pk, name),)
            for pk, name in Run.objects.executing_on(host).values_list("pk", "name")[:50]
        )
        return format_html_join(" ", "{}", links) or "–"


@admin.register(OrmQ)
class QueuedTaskAdmin(ReadOnlyAdmin):
    """Messages of the task queue. They say only that there is work: a lost one does no harm."""

    list_display = ("id", "func", "lock", "task_id")
    fields = readonly_fields = ("key", "lock", "task_id", "name", "func", "args", "kwargs")
    ordering = ("id",)


@admin.register(Failure)
class FailedTaskAdmin(ReadOnlyAdmin):
    """Tasks that raised an error."""

    list_display = ("stopped", "func", "name", "error")
    fields = readonly_fields = (
        "name",
        "func",
        "args",
        "kwargs",
        "started",
        "stopped",
        "attempt_count",
        "result",
    )
    ordering = ("-stopped",)
    actions = ("delete_selected",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("django_q.delete_failure")

    @admin.display(description="error")
    def error(self, task: Failure) -> str:
        return str(task.result)[:120]
