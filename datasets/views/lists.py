"""What the lists have in common: how long a page is, where it starts, and what is searched for."""

from collections.abc import Callable

from django.http import HttpRequest

from tunixrt.cursors import Cursor, Key

PAGE = 25
SEARCH_MAX_LENGTH = 256


def search_text(request: HttpRequest, name: str = "q") -> str:
    return request.GET.get(name, "").replace("\x00", "").strip()[:SEARCH_MAX_LENGTH]


def read_cursor(request: HttpRequest, decode: Callable[[str], Cursor[Key]]) -> Cursor[Key] | None:
    """Return where the page starts; a cursor that cannot be read starts at the top."""
    try:
        return decode(request.GET["cursor"]) if "cursor" in request.GET else None
    except ValueError:
        return None
