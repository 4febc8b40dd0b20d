"""The one family of exceptions for what is refused, and how a refusal becomes an answer.

Services raise a ``Refusal``; API (tunixrt/api/errors.py), pages (``RefusalMiddleware``), admin and commands translate it in one
place each.
"""

from collections.abc import Callable, Mapping, Sequence

from django.http import HttpRequest, HttpResponse

from tunixrt.errors import answer_error

Messages = Mapping[str, Sequence[str]]


class Refusal(Exception):
    """What was asked is not done, and nothing has changed.

    Args:
        detail: a sentence that says why and what to do; may be left out where ``messages`` says it.
        messages: field → sentences.
        retry_after: seconds after which asking again makes sense.
    """

    status = 400  # of an HTTP answer
    code = "invalid"  # for programs
    title = "Not possible"  # of a page

    def __init__(self, detail: str = "", *, messages: Messages | None = None, retry_after: int | None = None):
        self.messages: Messages = messages or {}
        self.detail = detail or "; ".join(f"{field}: {' '.join(said)}" for field, said in self.messages.items())
        self.retry_after = retry_after
        super().__init__(self.detail)


class BadRequest(Refusal):
    status, code, title = 400, "bad_request", "Bad request"


class NotAllowed(Refusal):
    status, code, title = 403, "not_allowed", "Not allowed"


class TooLarge(Refusal):
    status, code, title = 413, "too_large", "Too large"

    def __init__(self, limit: int):
        """``limit``: bytes."""
        super().__init__(f"The request body is larger than the limit of {limit:,} bytes.")


class TooSlow(Refusal):
    status, code, title = 408, "too_slow", "Too slow"

    def __init__(self) -> None:
        super().__init__("The request body came too slowly. Nothing was stored; send it again.", retry_after=5)


class Busy(Refusal):
    status, code, title = 503, "busy", "The server is busy"


class NoRoom(Refusal):
    status, code, title = 507, "no_room", "No room"


REFUSED = "tunixrt.refused"  # the key of a request's environment under which the front hands a Refusal over


class RefusalMiddleware:
    """Answer requests that the front refused, and refusals that a page's view raised."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        refusal = request.META.get(REFUSED)
        return self.get_response(request) if refusal is None else answer_refusal(request, refusal)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return answer_refusal(request, error) if isinstance(error, Refusal) else None


def answer_refusal(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    response = answer_error(request, refusal.status, refusal.title, refusal.detail)
    if refusal.retry_after is not None:
        response["Retry-After"] = str(refusal.retry_after)
    return response
