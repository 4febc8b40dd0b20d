"""Markdown that people write, as harmless HTML: raw HTML is shown as text, links lead only where a browser may go."""

from django import template
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

register = template.Library()

# markdown-it escapes everything it does not understand and refuses javascript:, vbscript:, file: and data: addresses.
# Images would make the browser of whoever looks ask other hosts.
_renderer = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")


@register.filter
def markdown(text: str) -> SafeString:
    return mark_safe(_renderer.render(text))
