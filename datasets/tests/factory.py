"""Traces, files and datasets that the tests of this app share."""

import io
import json
import os
from typing import Any

from django.contrib.auth.models import User

from datasets.files import folders
from datasets.files.reading import Readable
from datasets.imports import importing
from datasets.imports.importers import NAMED_LINES, ImportRequest
from datasets.models import Dataset, Import, Trace
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces


def trace_body(number: int = 0, **changes: Any) -> dict[str, Any]:
    """The body of one valid trace; another number is another trace."""
    body = {
        "prompt": f"{number}+1=?",
        "steps": [{"i": 0, "type": "reasoning", "content": f"{number} and one"}],
        "final_answer": str(number + 1),
        "meta": {"number": number},
    }
    return body | changes


def make_traces(count: int, *, first: int = 0) -> list[Trace]:
    return create_traces(
        items=[trace_body(number) for number in range(first, first + count)], by=None
    )


def make_dataset(
    count: int = 3, *, name: str = "sums", version: str = "v1", held_out: int = 0, first: int = 0
) -> Dataset:
    """A dataset of ``count`` traces, the last ``held_out`` of them held out."""
    ids = [trace.id for trace in make_traces(count, first=first)]
    return create_dataset(
        name=name, version=version, trace_ids=ids, held_out_ids=ids[count - held_out :], by=None
    )


def import_upload(
    *,
    file: Readable,
    file_name: str = "",
    named_lines: int | None = NAMED_LINES,
    by: User | None = None,
    **asked: Any,
) -> Dataset:
    """Import a file as an upload in a request does; ``asked``: fields of ImportRequest."""
    return importing.import_file(
        file=file,
        request=ImportRequest(**asked),
        file_name=file_name,
        named_lines=named_lines,
        by=by,
    )


def work_on(row: Import) -> Import:
    """Do what the process of an import does."""
    lock = folders.try_lock(row.pk)
    assert lock is not None
    try:
        importing.work_on(row.pk)
    finally:
        os.close(lock)
    row.refresh_from_db()
    return row


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def jsonl_file(*lines: Any) -> io.BytesIO:
    return io.BytesIO(jsonl(*lines))


def cut_off_body(received: bytes, *, announced: int, content_type: str) -> dict[str, Any]:
    """What the server sees when the connection ends early: less than Content-Length promised. For
    ``generic(**…)``."""
    return {
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(announced),
        "wsgi.input": io.BytesIO(received),
    }


def nothing_is_stored() -> bool:
    return not Trace.objects.exists() and not Dataset.objects.exists()
