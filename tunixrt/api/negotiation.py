"""Which form an answer takes."""

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.request import Request

from tunixrt.api.renderers import JSONRenderer


class ShortNegotiation(DefaultContentNegotiation):
    """DRF's, with a short way for what programs ask: JSON, or anything."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        plain = request.META.get("HTTP_ACCEPT", "*/*") in ("*/*", "application/json")
        if (
            plain
            and "format" not in request.query_params
            and isinstance(renderers[0], JSONRenderer)
        ):
            return renderers[0], renderers[0].media_type
        return super().select_renderer(request, renderers, format_suffix)


class OneForm(BaseContentNegotiation):
    """For files and streams: the answer has the one form there is, whatever Accept says, and an
    error is JSON."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type
