"""Markdown that people write, as harmless HTML: raw HTML is shown as text, links lead only where a
browser may go."""

from functools import lru_cache

from django import template
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

register = template.Library()

# markdown-it escapes everything it does not understand and refuses javascript:, vbscript:, file:
# and data: addresses. Images would make the reader's browser ask other hosts. The time for
# brackets that are never closed grows with the nesting allowed.
_OPTIONS = {"html": False, "breaks": True, "maxNesting": 10}
_renderer = MarkdownIt("commonmark", _OPTIONS).enable("strikethrough").disable("image")
_renderer_with_tables = (
    MarkdownIt("commonmark", _OPTIONS).enable(["table", "strikethrough"]).disable("image")
)
TABLE_CELLS_MAX = 5_000


@register.filter
@lru_cache(maxsize=8)
def markdown(text: str) -> SafeString:
    """Return ``text`` as HTML. Tables stay text when there could be more than ``TABLE_CELLS_MAX``
    cells: Markdown fills every row up to the header's columns, so a short text can make a table of
    quadratic size.

    Remembers the last texts, because a page that refreshes itself renders the same one every few
    seconds: 20,000 open brackets take 130 ms of CPU.
    """
    lines = text.splitlines()
    cells = len(lines) * max((line.count("|") for line in lines), default=0)
    renderer = _renderer if cells > TABLE_CELLS_MAX else _renderer_with_tables
    return mark_safe(renderer.render(text))
