"""Pages for errors and refusals; JSON below /api/, where clients cannot read pages."""

import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from tunixrt.api.renderers import to_json
from tunixrt.refusals import REFUSED, RETRY_AFTER, DatabaseAway, Refusal


class RefusalMiddleware:
    """Answer requests that the front refused, and refusals that a page's view raised.

    Every answer that asks to come back later says when: also one of a page that shows a refusal
    beside its form, or of a library.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        refusal = request.META.get(REFUSED)
        response = (
            self.get_response(request) if refusal is None else answer_refusal(request, refusal)
        )
        if response.status_code in RETRY_AFTER:
            response.headers.setdefault("Retry-After", str(RETRY_AFTER[response.status_code]))
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return answer_refusal(request, error) if isinstance(error, Refusal) else None


def answer_refusal(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    response = answer_error(request, refusal.status, refusal.title, refusal.detail)
    for name, value in refusal.headers.items():
        response[name] = value
    return response


def answer_error(request: HttpRequest, status: int, title: str, detail: str) -> HttpResponse:
    """Return an error as JSON below /api/, as a page elsewhere."""
    if request.path.startswith("/api/"):
        return HttpResponse(
            to_json({"detail": detail}), status=status, content_type="application/json"
        )
    return render(
        request, "error.html", {"title": title, "detail": detail, "status": status}, status=status
    )


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = "The request could not be understood."
    match exception:
        case RequestDataTooBig():
            limit = f"{settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,}"
            detail = f"The fields of the form hold more than {limit} bytes. Send a file instead."
        case TooManyFieldsSent():
            limit = f"{settings.DATA_UPLOAD_MAX_NUMBER_FIELDS:,}"
            detail = f"The form has more than {limit} fields."
        case TooManyFilesSent():
            limit = f"{settings.DATA_UPLOAD_MAX_NUMBER_FILES:,}"
            detail = f"The form has more than {limit} files."
    return answer_error(request, 400, "Bad request", detail)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return answer_error(request, 403, "Not allowed", str(exception) or "You may not do this.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return answer_error(
        request,
        403,
        "Please send the form again",
        f"The form's security token did not match: {reason}",
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = (
        exception.args[0]
        if exception.args and isinstance(exception.args[0], str)
        else "There is nothing here."
    )
    return answer_error(request, 404, "Not found", message)


def server_error(request: HttpRequest, *args: Any) -> HttpResponse:
    if isinstance(sys.exc_info()[1], OperationalError | InterfaceError):
        return answer_refusal(request, DatabaseAway())
    return answer_error(
        request,
        500,
        "Something went wrong",
        "The server met an unexpected error; its log says which.",
    )
