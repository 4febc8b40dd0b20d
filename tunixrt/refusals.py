"""The one family of exceptions for what is refused.

Services raise a ``Refusal``. It becomes an answer in one place for each face: the API in tunixrt/api/errors.py, pages in
tunixrt/errors.py, the admin in ``tunixrt.admin.lists.each``, commands in tunixrt/commands.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
    retry_after: int | None = None

    def __init__(self, detail: str = "", *, messages: Messages | None = None, retry_after: int | None = None):
        self.messages: Messages = messages or {}
        self.detail = detail or "; ".join(
            f"{field}: {' '.join(said)}".removeprefix("non_field_errors: ") for field, said in self.messages.items()
        )
        if retry_after is not None:
            self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def extra(self) -> Mapping[str, Any]:
        """Further fields of the API's answer."""
        return {}


class BadRequest(Refusal):
    status, code, title = 400, "bad_request", "Bad request"


class NotAllowed(Refusal):
    status, code, title = 403, "not_allowed", "Not allowed"


class Missing(Refusal):
    status, code, title = 404, "not_found", "Not found"


class TooSlow(Refusal):
    status, code, title, retry_after = 408, "too_slow", "Too slow", 5

    def __init__(self) -> None:
        super().__init__("The request body came too slowly. Nothing was stored; send it again.")


class Conflict(Refusal):
    status, code, title = 409, "conflict", "Not possible now"


class TooLarge(Refusal):
    status, code, title = 413, "too_large", "Too large"

    def __init__(self, limit: int):
        """``limit``: bytes."""
        super().__init__(f"The request body is larger than the limit of {limit:,} bytes.")


class InvalidQuery(Refusal):
    """A query parameter or a path that cannot be read."""

    status, code, title = 422, "invalid_query", "Not understood"

    def __init__(self, messages: Messages):
        super().__init__(messages=messages)


class TooMany(Refusal):
    status, code, title = 429, "too_many", "Too many attempts"


class NotHere(Refusal):
    """What this installation does not have."""

    status, code, title = 501, "not_implemented", "Not installed"


class Busy(Refusal):
    status, code, title = 503, "busy", "The server is busy"


class NoRoom(Refusal):
    status, code, title = 507, "no_room", "No room"


REFUSED = "tunixrt.refused"  # the key of a request's environment under which the front hands a Refusal over
