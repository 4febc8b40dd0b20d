"""HEAD: every GET route answers it with the status and the headers of GET."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase


class HeadMiddleware:
    """Drop the body of an answer to HEAD. The iterator of a streamed answer is closed without being
    started, so HEAD of an event stream ends at once and HEAD of an export or a download reads
    nothing.

    Must stand outside of everything that computes headers from the body (CommonMiddleware:
    Content-Length).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.method == "HEAD":
            if isinstance(response, StreamingHttpResponse):
                # the response still closes the iterator that it replaces
                response.streaming_content = ()
            elif isinstance(response, HttpResponse):
                response.content = b""
        return response
