"""Every error of the API is JSON with ``detail``; nothing ends in a stack trace."""

import logging
from typing import Any

from django.db import InterfaceError, OperationalError
from rest_framework import views
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from tunixrt.refusals import DETAIL_MAX, DatabaseAway, Refusal, bounded, join_bounded, shorten

logger = logging.getLogger("tunixrt.api")


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("database away during %s: %s", context["request"].path, error)
        error = DatabaseAway()
    if isinstance(error, Refusal):
        told = {"detail": error.detail, **error.messages, **error.extra}
        return Response(
            {**told, "detail": error.detail}, status=error.status, headers=error.headers
        )
    response = views.exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        response.data = _validation_body(bounded(response.data))
    detail = shorten(str(response.data["detail"]), DETAIL_MAX)
    response.data = {**bounded(response.data), "detail": detail}
    return response


def _validation_body(data: Any) -> dict[str, Any]:
    """Return field → messages, and one sentence of them all in ``detail``."""
    if isinstance(data, list):
        data = {"non_field_errors": data}
    body = {
        field: messages if isinstance(messages, list | dict) else [messages]
        for field, messages in data.items()
    }
    return {
        "detail": join_bounded(_flatten("", body)),
        **{field: body[field] for field in body if field != "detail"},
    }


def _flatten(prefix: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [
            line
            for key, item in value.items()
            for line in _flatten(f"{prefix}.{key}".strip("."), item)
        ]
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return [f"{prefix}: {' '.join(value)}".removeprefix("non_field_errors: ")]
        return [
            line
            for number, item in enumerate(value)
            for line in _flatten(f"{prefix}[{number}]", item)
            if item
        ]
    return [f"{prefix}: {value}"]
