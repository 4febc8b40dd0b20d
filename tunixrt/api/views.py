"""The description of the API itself."""

from typing import Annotated

from django.http import HttpResponse
from pydantic import Field
from rest_framework.request import Request
from rest_framework.views import APIView

from tunixrt.api import schema
from tunixrt.api.query import choice, read_query
from tunixrt.api.renderers import JSONRenderer, YAMLRenderer
from tunixrt.api.schema import Content, operation
from tunixrt.reading import Model


class SchemaQuery(Model):
    format: Annotated[str | None, choice(["json", "yaml"])] = Field(
        None, description="Left out: what Accept asks for."
    )


class SchemaView(APIView):
    """GET: the OpenAPI document of this API."""

    renderer_classes = [JSONRenderer, YAMLRenderer]

    @operation(
        "readSchema",
        "About the API",
        "This document",
        query=SchemaQuery,
        answers={
            200: Content(
                ("application/json",),
                {"type": "object", "required": ["openapi", "info", "paths"]},
                also={"application/yaml": {"type": "string"}},
            )
        },
        example_query={"format": "json"},
    )
    def get(self, request: Request) -> HttpResponse:
        asked = read_query(SchemaQuery, request).format or request.accepted_renderer.format
        if asked == "yaml":
            return HttpResponse(schema.as_yaml(), content_type="application/yaml")
        return HttpResponse(schema.as_json(), content_type="application/json")
