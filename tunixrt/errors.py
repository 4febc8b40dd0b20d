"""Pages for errors outside a view; JSON below /api/, where clients cannot read pages."""

import sys
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from tunixrt.api.errors import DATABASE_AWAY
from tunixrt.api.renderers import to_json


def _answer(request: HttpRequest, status: int, title: str, detail: str) -> HttpResponse:
    if request.path.startswith("/api/"):
        return HttpResponse(to_json({"detail": detail}), status=status, content_type="application/json")
    return render(request, "error.html", {"title": title, "detail": detail, "status": status}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 400, "Bad request", "The request could not be understood.")


def length_required(request: HttpRequest) -> HttpResponse:
    detail = (
        "A body sent in chunks (Transfer-Encoding: chunked) cannot be read. Send it with a Content-Length:"
        " a client does that by itself when it is given the whole body or a file, not a stream of unknown length."
    )
    return _answer(request, 411, "Length required", detail)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _answer(request, 403, "Not allowed", str(exception) or "You may not do this.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _answer(request, 403, "Please send the form again", f"The form's security token did not match: {reason}")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = exception.args[0] if exception.args and isinstance(exception.args[0], str) else "There is nothing here."
    return _answer(request, 404, "Not found", message)


def server_error(request: HttpRequest, *args: Any) -> HttpResponse:
    if isinstance(sys.exc_info()[1], OperationalError | InterfaceError):
        response = _answer(request, 503, "The database is away", DATABASE_AWAY)
        response["Retry-After"] = "5"
        return response
    return _answer(request, 500, "Something went wrong", "The server met an unexpected error; its log says which.")
