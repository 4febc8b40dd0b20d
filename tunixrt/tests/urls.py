"""Routes of the tests of this folder: the smallest views that show what the conventions of pages
and API do."""

from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tunixrt.refusals import Conflict, InvalidQuery, NotHere
from tunixrt.urls import handler400, handler403, handler404, handler500
from tunixrt.urls import urlpatterns as project

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]

ERRORS: dict[str, Exception] = {
    "400": SuspiciousOperation("bad"),
    "403": PermissionDenied("Not yours."),
    "404": Http404("No such thing."),
    "500": RuntimeError("the secret inside"),
    "operational": OperationalError("server closed the connection"),
    "interface": InterfaceError("connection already closed"),
    "conflict": Conflict("Somebody was first."),
    "query": InvalidQuery({"limit": ["Too large.", "Too many."], "offset": ["Negative."]}),
    "501": NotHere("No runtime."),
    "fields": ValidationError(
        {"name": ["Too short.", "Too plain."], "items": [{}, {"text": ["Missing."]}]}
    ),
    "list": ValidationError(["Send one or the other."]),
    "detail": ValidationError({"detail": "A field of that name."}),
}


class Echo(APIView):
    """Answers with who asks and what was sent."""

    def get(self, request: Request) -> Response:
        return Response({"user": request.user.get_username()})

    def post(self, request: Request) -> Response:
        return Response({"user": request.user.get_username(), "data": request.data})


class Raise(APIView):
    def get(self, request: Request, name: str) -> Response:
        raise ERRORS[name]


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username())


def raising_page(request: HttpRequest, name: str) -> HttpResponse:
    raise ERRORS[name]


urlpatterns: list[Any] = [
    path("api/echo", Echo.as_view()),
    path("api/raise/<str:name>", Raise.as_view()),
    path("api/page/<str:name>", raising_page),
    path("page", page),
    path("page/<str:name>", raising_page),
    *project,
]
