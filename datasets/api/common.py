"""What views of this package share: parameters of paths, the caller, and the form of a page."""

from functools import partial
from typing import Any, cast

from django.contrib.auth.models import User
from rest_framework.request import Request
from rest_framework.response import Response

from datasets.queries.listing import Page
from tunixrt.api.schema import Path, operation

DATASET = {"key": Path("Key of a dataset: name-version.", {"type": "string"}, "sums-v1")}
TRACE = {
    "trace_id": Path(
        "Id of a trace.",
        {"type": "string", "format": "uuid"},
        "5b0c2c3e-8b1d-4c39-9a55-5d0c7a1f2e10",
    )
}
IMPORT = {
    "import_id": Path(
        "Id of an import.",
        {"type": "string", "format": "uuid"},
        "0198c2d3-8b1d-7c39-9a55-5d0c7a1f2e10",
    )
}
GIVES_DATASET = {"key": "/dataset_key"}
described = partial(operation, tag="Datasets")


def caller(request: Request) -> User:
    return cast(User, request.user)  # every view asks for a login (DEFAULT_PERMISSION_CLASSES)


def paged(data: list[Any], limit: int, offset: int, page: Page) -> Response:
    more = page.next_cursor is not None
    pagination = {
        "limit": limit,
        "offset": offset,
        "next_offset": offset + limit if more else None,
        "next_cursor": page.next_cursor,
    }
    return Response({"data": data, "pagination": pagination})
