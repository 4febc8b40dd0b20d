"""Every error of the API is JSON with ``detail``; nothing ends in a stack trace."""

import logging
from itertools import islice
from typing import Any

from django.db import InterfaceError, OperationalError
from rest_framework import status, views
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from tunixrt.refusals import Refusal

logger = logging.getLogger("tunixrt.api")

DATABASE_AWAY = (
    "The database cannot be reached right now. Try again in a moment; with the same client_request_id nothing is made twice."
)


# What an error answer repeats of a request, however large that was.
_TEXT_MAX, _ENTRIES_MAX, _DETAIL_MAX = 1_000, 100, 10_000


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("database away during %s: %s", context["request"].path, error)
        return Response({"detail": DATABASE_AWAY}, status=status.HTTP_503_SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
    if isinstance(error, Refusal):
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        body = {"detail": error.detail, **{field: said for field, said in error.messages.items() if field != "detail"}}
        return Response({**_bounded_body(body), **error.extra}, status=error.status, headers=headers)
    response = views.exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        response.data = _validation_body(response.data)
    response.data = _bounded_body(response.data)
    return response


def _bounded_body(body: dict[str, Any]) -> dict[str, Any]:
    return {**_bounded(body), "detail": shorten(str(body["detail"]), _DETAIL_MAX)}


def shorten(text: str, limit: int = _TEXT_MAX) -> str:
    """Return ``text``, cut to ``limit`` characters with a mark where it was longer."""
    return text if len(text) <= limit else text[: limit - 2] + " …"


def _bounded(value: Any) -> Any:
    """Return a copy of an error body whose texts and number of entries are bounded."""
    if isinstance(value, dict):
        bounded = {shorten(str(key)): _bounded(item) for key, item in islice(value.items(), _ENTRIES_MAX)}
        if len(value) > _ENTRIES_MAX:
            bounded["non_field_errors"] = [f"{len(value) - _ENTRIES_MAX:,} more errors are not shown."]
        return bounded
    if isinstance(value, list | tuple):
        return [_bounded(item) for item in islice(value, _ENTRIES_MAX)]
    return shorten(value) if isinstance(value, str) else value


def _validation_body(data: Any) -> dict[str, Any]:
    """Field → messages, and one sentence of them all in ``detail``."""
    if isinstance(data, list):
        data = {"non_field_errors": data}
    body = {field: messages if isinstance(messages, list | dict) else [messages] for field, messages in data.items()}
    return {"detail": "; ".join(_flatten("", body)), **{field: body[field] for field in body if field != "detail"}}


def _flatten(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _flatten(f"{prefix}.{key}".strip("."), item)]
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return [f"{prefix}: {' '.join(value)}".removeprefix("non_field_errors: ")]
        return [line for number, item in enumerate(value) for line in _flatten(f"{prefix}[{number}]", item) if item]
    return [f"{prefix}: {value}"]
