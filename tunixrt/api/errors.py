"""Every error of the API is JSON with ``detail``; nothing ends in a stack trace."""

import logging
from typing import Any

from django.db import InterfaceError, OperationalError
from rest_framework import status, views
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response

logger = logging.getLogger("tunixrt.api")

DATABASE_AWAY = (
    "The database cannot be reached right now. Try again in a moment; with the same client_request_id nothing is made twice."
)


class Conflict(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"
    default_detail = "The request conflicts with the current state."


class InvalidQuery(APIException):
    """A query parameter or a path that cannot be read (422). ``errors`` maps the parameter to its messages."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = "invalid_query"

    def __init__(self, errors: dict[str, list[str]]):
        self.errors = errors
        super().__init__("; ".join(f"{name}: {' '.join(messages)}" for name, messages in errors.items()))


class NotImplementedHere(APIException):
    status_code = status.HTTP_501_NOT_IMPLEMENTED
    default_code = "not_implemented"


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("database away during %s: %s", context["request"].path, error)
        return Response({"detail": DATABASE_AWAY}, status=status.HTTP_503_SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
    response = views.exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        response.data = _validation_body(response.data)
    elif isinstance(error, InvalidQuery):
        response.data = {"detail": response.data["detail"], **error.errors}
    return response


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
