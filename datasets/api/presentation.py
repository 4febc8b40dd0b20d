"""Traces and datasets as the API shows them."""

from typing import Any

from datasets.examples.kinds import content_of
from datasets.models import Dataset, Import, Kind, Trace

MANIFEST_FIELDS = (
    "dataset_key", "name", "version", "description", "kind", "size", "held_out_size", "erased_size",
    "format", "created_at", "stats", "fingerprint", "provenance", "licence", "source",
    "archived_at", "sealed_at",
)  # fmt: skip
ROW_FIELDS = (
    "dataset_key",
    "name",
    "version",
    "description",
    "kind",
    "size",
    "held_out_size",
    "erased_size",
    "format",
    "created_at",
    "fingerprint",
    "archived_at",
    "sealed_at",
)
TRACE_FIELDS = (
    "id",
    "kind",
    "prompt",
    "steps",
    "final_answer",
    "meta",
    "trace_version",
    "created_at",
    "erased_at",
    "archived_at",
    "sealed_at",
)
IMPORT_FIELDS = (
    "id", "dataset_key", "state", "phase", "source", "request", "bytes_total", "bytes_read",
    "examples_read", "examples_stored", "lines_skipped", "problem", "detail",
    "cancel_requested_at", "created_at", "started_at", "ended_at",
)  # fmt: skip
RECEIPT_FIELDS = ("id", "created_at", "trace_version")


def manifest(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in MANIFEST_FIELDS}


def dataset_row(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in ROW_FIELDS}


def full_trace(trace: Trace) -> dict[str, Any]:
    """Return an example with all its fields. ``content`` is null for a trace, whose other fields
    hold it, and after an erasure."""
    gone = trace.kind == Kind.TRACE or trace.erased_at is not None
    content = None if gone else content_of(trace)
    return {name: getattr(trace, name) for name in TRACE_FIELDS} | {"content": content}


def import_answer(row: Import) -> dict[str, Any]:
    """Return an import, without the files of a Hub dataset, which may be many: the provenance lists
    them."""
    source = {name: value for name, value in row.source.items() if name != "data_files"}
    return {name: getattr(row, name) for name in IMPORT_FIELDS} | {"source": source}


def receipt(trace: Trace) -> dict[str, Any]:
    """Return what the sender of a trace needs to keep."""
    return {name: getattr(trace, name) for name in RECEIPT_FIELDS}
