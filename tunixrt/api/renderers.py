"""Writing answers."""

from typing import Any

import orjson
from rest_framework.renderers import BaseRenderer
from rest_framework.renderers import BrowsableAPIRenderer as BrowsableAPIRenderer

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def to_json(data: Any) -> bytes:
    """Return JSON bytes; datetimes in UTC with ``Z``, UUIDs as text, NaN and infinities as null."""
    return orjson.dumps(data, default=str, option=_OPTIONS)


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "text"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        return b"" if data is None else to_json(data)


class YAMLRenderer(JSONRenderer):
    """For the description of the API; an error in it is JSON, which is YAML too."""

    media_type = "application/yaml"
    format = "yaml"
