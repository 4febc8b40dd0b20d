"""Looking at traces and datasets. Nothing is changed here: both are immutable."""

import re
import uuid
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from datasets.models import Dataset, Import, Trace
from tunixrt.admin.lists import ReadOnlyAdmin

FIRST_ITEMS = 20
SEARCHED_MAX = 100_000  # traces whose text is read; all of them are found by id or content hash


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    list_display = ("short_prompt", "short_answer", "kind", "created_at", "archived_at")
    list_filter = ("created_at", "kind", ("archived_at", admin.EmptyFieldListFilter))
    search_fields = ("prompt", "final_answer")
    search_help_text = (
        f"An id or content hash; or text in prompt or final answer of the newest {SEARCHED_MAX:,}"
    )
    fields = (
        "id", "kind", "prompt", "steps", "final_answer", "content", "meta", "trace_version",
        "content_hash", "created_at", "created_by", "erased_at", "archived_at", "datasets",
    )  # fmt: skip
    readonly_fields = ("datasets",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Trace]:
        """Without sealed examples: a look at one is written into the audit log where it is
        shown."""
        return super().get_queryset(request).filter(sealed_at__isnull=True)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Trace], search_term: str
    ) -> tuple[QuerySet[Trace], bool]:
        text = search_term.strip().replace("\x00", "")
        if not text:
            return queryset, False
        try:
            return queryset.filter(pk=uuid.UUID(text)), False
        except ValueError:
            pass
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return queryset.filter(content_hash=text), False
        newest = (
            Trace.objects.filter(sealed_at__isnull=True)
            .order_by("-created_at", "-id")
            .values("pk")[:SEARCHED_MAX]
        )
        return (
            queryset.filter(
                Q(prompt__icontains=text) | Q(final_answer__icontains=text), pk__in=newest
            ),
            False,
        )

    @admin.display(description="prompt")
    def short_prompt(self, trace: Trace) -> str:
        return trace.prompt[:100]

    @admin.display(description="final answer")
    def short_answer(self, trace: Trace) -> str:
        return trace.final_answer[:60]

    @admin.display(description="datasets")
    def datasets(self, trace: Trace) -> SafeString | str:
        found = Dataset.objects.filter(pk__in=trace.items.order_by().values("dataset"))[
            :FIRST_ITEMS
        ]
        links = (
            (reverse("admin:datasets_dataset_change", args=[dataset.pk]), dataset.dataset_key)
            for dataset in found
        )
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "none"


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = (
        "dataset_key",
        "kind",
        "size",
        "held_out_size",
        "format",
        "created_at",
        "created_by",
        "archived_at",
        "sealed_at",
    )
    list_filter = (
        "created_at",
        ("archived_at", admin.EmptyFieldListFilter),
        ("sealed_at", admin.EmptyFieldListFilter),
    )
    list_select_related = ("created_by",)
    search_fields = ("dataset_key", "description", "fingerprint")
    fields = (
        "dataset_key", "name", "version", "description", "kind", "format", "size", "held_out_size",
        "fingerprint", "stats", "provenance", "created_at", "created_by", "archived_at",
        "sealed_at", "first_items",
    )  # fmt: skip
    readonly_fields = ("first_items",)

    @admin.display(description=f"first {FIRST_ITEMS} examples")
    def first_items(self, dataset: Dataset) -> SafeString | str:
        if dataset.sealed_at is not None:
            return (
                "sealed: operators read them on the dataset's own page, and the audit log says so"
            )
        rows: list[tuple[Any, ...]] = [
            (
                item.position + 1,
                item.split,
                reverse("admin:datasets_trace_change", args=[item.trace_id]),
                item.trace.prompt[:80],
                item.trace.final_answer[:40],
            )
            for item in dataset.items.select_related("trace").order_by("position")[:FIRST_ITEMS]
        ]
        if not rows:
            return "none"
        body = format_html_join(
            "", '<tr><td>{}</td><td>{}</td><td><a href="{}">{}</a></td><td>{}</td></tr>', rows
        )
        head = "<tr><th>No.</th><th>Part</th><th>Prompt</th><th>Final answer</th></tr>"
        return format_html(
            "<table><thead>{}</thead><tbody>{}</tbody></table>", SafeString(head), body
        )


@admin.register(Import)
class ImportAdmin(ReadOnlyAdmin):
    list_display = ("dataset_key", "state", "phase", "examples_stored", "created_at", "created_by")
    list_filter = ("state", "created_at")
    list_select_related = ("created_by",)
