"""The OpenAPI 3.1 document of the API, made of the routes and of what their views read and answer.

A view's method carries an ``operation``: the models that it reads with and the models of its
answers. A walk over the routes makes the document of them; a route without an operation is an
error, so that none can be forgotten. docs/openapi.yaml holds the document, and a test compares it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import yaml
from django.urls import URLPattern, URLResolver, get_resolver
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema
from rest_framework.views import APIView

from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import NoQuery
from tunixrt.refusals import RETRY_AFTER

VERSION = "1"
ROUTES = "tunixrt.urls"
JSON = "application/json"
# What any operation may answer: a host or a header that is wrong, no login, a role or a
# token that may not, a body that comes slowly or is too large, a query or an id that cannot be
# read, a limit of the account, the database or the output root away.
ANYWHERE = (400, 401, 403, 408, 413, 414, 422, 429, 503)
METHODS = ("get", "post", "put", "patch", "delete")
# As RFC 9110 has them; those of http.HTTPStatus differ between versions of Python.
PHRASES = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No content",
    206: "Partial content",
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    406: "Not acceptable",
    408: "Request timeout",
    409: "Conflict",
    413: "Content too large",
    414: "URI too long",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Unprocessable content",
    429: "Too many requests",
    501: "Not implemented",
    503: "Service unavailable",
    507: "Insufficient storage",
}
_SCHEMAS = "#/components/schemas/{model}"
F = TypeVar("F", bound=Callable[..., Any])


class Answer(BaseModel):
    """What an operation answers. All fields are there unless they have a default."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Error(BaseModel):
    """What is wrong. Of a body or a query that is wrong, further fields name what is wrong with
    each of its fields."""

    model_config = ConfigDict(extra="allow")

    detail: str = Field(description="A sentence for people.", examples=["Dataset not found: x-v1"])


class Pagination(Answer):
    limit: int
    offset: int
    next_offset: int | None = Field(description="null on the last page")
    next_cursor: str | None = Field(description="null on the last page")


@dataclass(frozen=True)
class Content:
    """An answer or a body that is no JSON object of a model."""

    media_types: tuple[str, ...]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further types


@dataclass(frozen=True)
class Path:
    """A variable part of a path."""

    description: str
    schema: Mapping[str, Any]
    example: str


@dataclass(frozen=True)
class Operation:
    """What one method of one route reads and answers.

    Args:
        name: its ``operationId``.
        tag: the heading that it stands under.
        summary: what it does, in a few words.
        query: model of the query; several where the query decides which one counts.
        body: models of a JSON body, one of which it is; or another content.
        answers: status → what stands in the answer: a model, several, a content, or None.
        refused: statuses it may answer besides those of ANYWHERE.
        path: the variable parts of its path.
        headers: further request headers, with their descriptions.
        example_query, example: a request that works, executed by a test.
        gives: path variable → pointer into the answer; operations that take it are linked.
    """

    name: str
    tag: str
    summary: str
    answers: Mapping[int, Any]
    query: Any = NoQuery
    body: Any = None
    refused: tuple[int, ...] = ()
    path: Mapping[str, Path] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    example_query: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    gives: Mapping[str, str] = field(default_factory=dict)


def operation(*arguments: Any, **fields: Any) -> Callable[[F], F]:
    """Describe the method of a view; the arguments are those of ``Operation``."""
    described = Operation(*arguments, **fields)

    def mark(method: F) -> F:
        method.operation = described  # type: ignore[attr-defined]
        return method

    return mark


# --- the document ---------------------------------------------------------------------------------


def api_routes() -> Iterator[tuple[str, type[APIView]]]:
    """Yield the path of every route below /api/, as OpenAPI writes it, and its view."""
    yield from _routes(get_resolver(ROUTES).url_patterns, "/")


def _routes(
    patterns: list[URLPattern | URLResolver], prefix: str
) -> Iterator[tuple[str, type[APIView]]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, route)
        elif route.startswith("/api/"):
            yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route), pattern.callback.cls  # type: ignore[attr-defined]


def operations() -> Iterator[tuple[str, str, type[APIView], Operation]]:
    """Yield path, method, view and operation of everything the API does. Raise LookupError for a
    method that is not described."""
    for path, view in api_routes():
        for method in METHODS:
            handler = getattr(view, method, None)
            if handler is None:
                continue
            described = getattr(handler, "operation", None)
            if described is None:
                raise LookupError(f"{view.__name__}.{method} ({path}) has no @operation.")
            yield path, method, view, described


@cache
def as_json() -> bytes:
    """Return the document as JSON."""
    return json.dumps(document(), indent=1, ensure_ascii=False).encode() + b"\n"


@cache
def as_yaml() -> bytes:
    """Return the document as YAML."""
    dumped = yaml.dump(
        document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100, encoding="utf-8"
    )
    return bytes(dumped)


class _Plain(yaml.SafeDumper):
    """YAML without anchors: what stands in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def document() -> dict[str, Any]:
    """Return the OpenAPI document as it stands for this code."""
    every = list(operations())
    components = _Components([described for *_, described in every])
    paths: dict[str, dict[str, Any]] = {}
    for path, method, view, described in every:
        item = paths.setdefault(path, {})
        if described.path and "parameters" not in item:
            item["parameters"] = [
                _path_parameter(name, described.path[name]) for name in re.findall(r"{(\w+)}", path)
            ]
        item[method] = _operation(path, view, described, components, every)
    tags = dict.fromkeys(described.tag for *_, described in every)
    return {
        "openapi": "3.1.1",
        "info": {"title": "tunixrt", "version": VERSION, "description": INTRODUCTION},
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": {
                _status_name(status): _refusal(status, components)
                for status in sorted(components.refused)
            },
            "securitySchemes": SECURITY,
        },
    }


INTRODUCTION = (
    "Paths are exact: no trailing slash, no redirect. Times are UTC. Every error is JSON with"
    " `detail`. A route that answers GET answers HEAD as well, without a body. In local mode"
    " requests from the machine itself need no login. Browsers that ask for `text/html` get the"
    " same answers as a page."
)
SECURITY = {
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Token <key>`. Make a key at `/tokens`.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "A login at `/login`; what changes something needs `X-CSRFToken`.",
    },
}


class _Components:
    """The schemas of all models that operations name."""

    def __init__(self, described: list[Operation]):
        models: dict[type[BaseModel], None] = {Error: None}
        for each in described:
            bodies = [] if each.body is None else _several(each.body)
            for one in (*bodies, *(one for a in each.answers.values() for one in _several(a))):
                if isinstance(one, type):
                    models[one] = None
        found, defined = models_json_schema(
            [(model, "validation") for model in models], ref_template=_SCHEMAS
        )
        self.refused: set[int] = set()
        self._references = {model: found[model, "validation"] for model in models}
        self.schemas = {name: _tidy(one) for name, one in sorted(defined["$defs"].items())}

    def content(self, described: Any) -> dict[str, Any]:
        if isinstance(described, Content):
            schemas = {**dict.fromkeys(described.media_types, described.schema), **described.also}
            return {media_type: {"schema": dict(one)} for media_type, one in schemas.items()}
        references = [dict(self._references[model]) for model in _several(described)]
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        return {JSON: {"schema": schema}}


def _several(described: Any) -> tuple[Any, ...]:
    described = (
        described() if callable(described) and not isinstance(described, type) else described
    )
    if described is None:
        return ()
    return tuple(described) if isinstance(described, tuple | list) else (described,)


def _tidy(schema: Any) -> Any:
    """Return a schema without the titles that pydantic makes of the names."""
    if isinstance(schema, dict):
        return {
            key: _tidy(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_tidy(one) for one in schema] if isinstance(schema, list) else schema


def _operation(
    path: str, view: type[APIView], described: Operation, components: _Components, every: list[Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": described.name,
        "tags": [described.tag],
        "summary": described.summary,
    }
    if described.description:
        found["description"] = described.description
    parameters = [*_query_parameters(described), *_header_parameters(described)]
    if parameters:
        found["parameters"] = parameters
    refused = {*ANYWHERE, *described.refused, *([404] if described.path else [])}
    if not issubclass(view.content_negotiation_class, OneForm):
        refused.add(406)
    if described.body is not None:
        refused.add(415)
        content = components.content(_as_content(described.body))
        if described.example is not None:
            next(iter(content.values()))["example"] = described.example
        required = isinstance(described.body, Content) or any(
            field.is_required()
            for model in _several(described.body)
            for field in model.model_fields.values()
        )
        found["requestBody"] = {"required": required, "content": content}
    answers = {
        str(status): _answer(answer, components, status)
        for status, answer in described.answers.items()
    }
    links = {
        other.name: {"operationId": other.name, "parameters": {name: f"$response.body#{place}"}}
        for name, place in described.gives.items()
        for other_path, _, _, other in every
        if re.findall(r"{(\w+)}", other_path) == [name] and other_path != path
    }
    if links:
        answers[str(min(described.answers))]["links"] = links
    components.refused |= refused
    for status in sorted(refused):
        answers[str(status)] = {"$ref": f"#/components/responses/{_status_name(status)}"}
    return found | {"responses": answers}


def _as_content(body: Any) -> Any:
    return body if isinstance(body, Content) else _several(body)


def _answer(described: Any, components: _Components, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": PHRASES[status]}
    if described is not None:
        answer["content"] = components.content(
            described if isinstance(described, Content) else _several(described)
        )
    return answer


def _refusal(status: int, components: _Components) -> dict[str, Any]:
    if status == 414:  # of the HTTP library, before anything of ours is asked
        return _answer(None, components, status)
    answer = _answer(Error, components, status)
    if status in RETRY_AFTER or status == 507:
        schema = {"type": "integer", "minimum": 0}
        about = "Seconds after which to ask again."
        header = {"description": about, "required": True, "schema": schema}
        answer["headers"] = {"Retry-After": header}
    return answer


def _status_name(status: int) -> str:
    """Return the name of a refusal among the components: ``BadRequest``."""
    return PHRASES[status].title().replace(" ", "")


def _path_parameter(name: str, part: Path) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": part.description,
        "schema": dict(part.schema),
        "example": part.example,
    }


def _query_parameters(described: Operation) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for model in _several(described.query):
        schema = _tidy(model.model_json_schema())
        for name, one in schema.get("properties", {}).items():
            if name in seen:
                continue
            seen.add(name)
            about = one.pop("description", None)
            if one.get("default", "") is None:
                del one["default"]
            examples = one.pop("examples", [])
            parameter: dict[str, Any] = {"name": name, "in": "query"}
            if about:
                parameter["description"] = about
            if name in schema.get("required", ()):
                parameter["required"] = True
            parameter["schema"] = one
            if name in described.example_query:
                parameter["example"] = described.example_query[name]
            elif examples:
                parameter["example"] = examples[0]
            yield parameter


def _header_parameters(described: Operation) -> Iterator[dict[str, Any]]:
    for name, about in described.headers.items():
        yield {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
