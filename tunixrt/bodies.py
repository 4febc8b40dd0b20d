"""Request bodies that nobody could read."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from tunixrt.errors import length_required

_WITH_BODY = ("POST", "PUT", "PATCH")


class WholeBodyMiddleware:
    """411 for a body that is sent in chunks without saying how long it is. WSGI gives no more of a body than CONTENT_LENGTH
    says, so it would look empty, and the client would be told of fields that it did send."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method in _WITH_BODY and _names_no_length(request):
            return length_required(request)
        return self.get_response(request)


def _names_no_length(request: HttpRequest) -> bool:
    in_chunks = "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower()
    return in_chunks and not request.META.get("CONTENT_LENGTH")
