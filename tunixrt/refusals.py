"""The one family of exceptions for what is refused.

Services raise a ``Refusal``. It becomes an answer in one place for each face: the API in
tunixrt/api/errors.py, pages in tunixrt/errors.py, the admin in ``tunixrt.admin.lists.each``,
commands in tunixrt/commands.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

Messages = Mapping[str, Sequence[str]]

# What an error repeats of a request, however large that was.
TEXT_MAX, ENTRIES_MAX, MESSAGES_MAX, DETAIL_MAX = 1_000, 100, 20, 10_000
# Seconds after which asking again makes sense, by status, where a refusal does not know it better.
# A body that is too large stays so until an operator raises the limit.
RETRY_AFTER = {408: 5, 413: 3600, 429: 60, 503: 5}


def shorten(text: str, limit: int = TEXT_MAX) -> str:
    """Return ``text``, cut to ``limit`` characters with a mark where it was longer."""
    return text if len(text) <= limit else text[: limit - 2] + " …"


def bounded(value: Any) -> Any:
    """Return a copy of an error body whose texts and number of entries are bounded."""
    if isinstance(value, Mapping):
        found = {
            shorten(str(key)): bounded(item) for key, item in islice(value.items(), ENTRIES_MAX)
        }
        if len(value) > ENTRIES_MAX:
            found["non_field_errors"] = [f"{len(value) - ENTRIES_MAX:,} more errors are not shown."]
        return found
    if isinstance(value, list | tuple):
        return [bounded(item) for item in islice(value, MESSAGES_MAX)]
    return shorten(value) if isinstance(value, str) else value


def join_bounded(parts: Iterable[str], separator: str = "; ") -> str:
    """Join ``parts`` to at most ``DETAIL_MAX`` characters; reads no more of them than that
    takes."""
    taken: list[str] = []
    length = 0
    for part in parts:
        taken.append(shorten(part, DETAIL_MAX))
        length += len(taken[-1]) + len(separator)
        if length > DETAIL_MAX:
            break
    return shorten(separator.join(taken), DETAIL_MAX)


class Refusal(Exception):
    """What was asked is not done, and nothing has changed. What it repeats of the request is
    bounded.

    Args:
        detail: a sentence that says why and what to do; may be left out where ``messages`` says it.
        messages: field → sentences.
        retry_after: seconds after which asking again makes sense.
    """

    status = 400  # of an HTTP answer
    code = "invalid"  # for programs
    title = "Not possible"  # of a page
    retry_after: int | None = None  # None: as RETRY_AFTER says for the status

    def __init__(
        self, detail: str = "", *, messages: Messages | None = None, retry_after: int | None = None
    ):
        self.messages: Messages = bounded(messages or {})
        self.detail = shorten(detail, DETAIL_MAX) or join_bounded(
            f"{field}: {' '.join(said)}".removeprefix("non_field_errors: ")
            for field, said in self.messages.items()
        )
        self.retry_after = retry_after or self.retry_after or RETRY_AFTER.get(self.status)
        super().__init__(self.detail)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of an HTTP answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

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
    status, code, title = 408, "too_slow", "Too slow"

    def __init__(self) -> None:
        super().__init__("The request body came too slowly. Nothing was stored; send it again.")


class Conflict(Refusal):
    status, code, title = 409, "conflict", "Not possible now"


class TooLarge(Refusal):
    status, code, title = 413, "too_large", "Too large"

    def __init__(self, limit: int):
        """Refuse a body of more than ``limit`` bytes."""
        super().__init__(f"The request body is larger than the limit of {limit:,} bytes.")


class InvalidQuery(Refusal):
    """A query parameter or a path that cannot be read."""

    status, code, title = 422, "invalid_query", "Not understood"

    def __init__(self, messages: Messages):
        super().__init__(messages=messages)


class TooMany(Refusal):
    """The client has reached a limit of its own; others are served."""

    status, code, title = 429, "too_many", "Too many at once"


class NotHere(Refusal):
    """What this installation does not have."""

    status, code, title = 501, "not_implemented", "Not installed"


class Busy(Refusal):
    """The server has, or does, as much as it can."""

    status, code, title = 503, "busy", "The server is busy"


class DatabaseAway(Busy):
    title = "The database is away"

    def __init__(self) -> None:
        super().__init__(
            "The database cannot be reached right now. Try again in a moment;"
            " with the same client_request_id nothing is made twice."
        )


class NoRoom(Refusal):
    status, code, title, retry_after = 507, "no_room", "No room", 60


# the key of a request's environment under which the front hands a Refusal over
REFUSED = "tunixrt.refused"
