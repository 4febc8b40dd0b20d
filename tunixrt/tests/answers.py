"""Compare every answer of the API that any test gets with the OpenAPI document.

conftest.py puts ``check_answer`` behind Django's test client, so each test of the API is also
one of its description: an answer with a status, a type of content or a body that the document does
not have fails the test.
"""

import re
from functools import cache
from typing import Any

import jsonschema_rs
import orjson
from django.urls import Resolver404

from tunixrt.api.schema import METHODS, document


def check_answer(method: str, response: Any) -> None:
    """Fail if the document does not allow this answer of an API route."""
    described = _described(method, response)
    if described is None:
        return
    place = f"{method} {response.resolver_match.route}: {response.status_code}"
    answer = described["responses"].get(str(response.status_code))
    assert answer is not None, f"{place} is not in the OpenAPI document"
    if reference := answer.get("$ref"):
        answer = document_once()["components"]["responses"][reference.rsplit("/", 1)[1]]
    for name in answer.get("headers", {}):
        assert name in response.headers, f"{place} has no {name}"
    media_type = response.headers.get("Content-Type", "").split(";")[0]
    contents = answer.get("content", {})
    if not contents or media_type == "text/html":  # DRF's page of the same answer
        return
    assert media_type in contents, f"{place} has the type {media_type}"
    if media_type == "application/json" and not response.streaming:
        schema = orjson.dumps(contents[media_type]["schema"]).decode()
        validator(schema).validate(orjson.loads(response.content))


def _described(method: str, response: Any) -> dict[str, Any] | None:
    """Return the operation that answered; None where it is none of the API's."""
    if method.lower() not in METHODS or response.resolver_match is None:
        return None
    try:
        route = response.resolver_match.route
    except Resolver404:
        return None
    path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)
    found: dict[str, Any] | None = document_once()["paths"].get(path, {}).get(method.lower())
    return found


@cache
def document_once() -> dict[str, Any]:
    return document()


@cache
def validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    """Return what checks bodies against ``schema``, in which components may be named."""
    whole = orjson.loads(schema) | {"components": document_once()["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
