"""The description of the API as its page shows it: made of the OpenAPI document."""

import json
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from tunixrt.api.schema import METHODS, document


@cache
def read_reference() -> dict[str, Any]:
    """Return headings with their operations, and the models."""
    described = document()
    models = described["components"]["schemas"]
    tags: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in described["tags"]}
    for path, item in described["paths"].items():
        for method in METHODS:
            if method in item:
                one = item[method]
                tags[one["tags"][0]].append(_operation(path, method, item, one))
    return {
        "introduction": described["info"]["description"],
        "version": described["openapi"],
        "tags": [{"name": name, "operations": found} for name, found in tags.items()],
        "models": [
            {"name": name, "description": one.get("description", ""), "fields": _fields(one)}
            for name, one in models.items()
        ],
    }


def _operation(path: str, method: str, item: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    parameters = [*item.get("parameters", []), *one.get("parameters", [])]
    body = one.get("requestBody", {}).get("content", {})
    answers = one["responses"].items()
    return {
        "id": one["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": one["summary"],
        "description": one.get("description", ""),
        "parameters": [
            {
                "name": parameter["name"],
                "place": parameter["in"],
                "required": parameter.get("required", False),
                "description": parameter.get("description", ""),
                **_shown(parameter["schema"]),
            }
            for parameter in parameters
        ],
        "body": [{"type": name, **_shown(content["schema"])} for name, content in body.items()],
        "example": _example(path, method, parameters, body),
        "answers": [
            {
                "status": status,
                "description": answer["description"],
                "contents": [
                    {"type": name, **_shown(content["schema"])}
                    for name, content in answer.get("content", {}).items()
                ],
            }
            for status, answer in answers
            if status < "400"
        ],
        "refusals": [
            {"status": status, "name": answer["$ref"].rsplit("/", 1)[1]}
            for status, answer in answers
            if status >= "400"
        ],
    }


def _example(path: str, method: str, parameters: list[dict[str, Any]], body: dict[str, Any]) -> str:
    """Return a command for the shell that does it."""
    query = {}
    for parameter in parameters:
        if "example" in parameter and parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(parameter["example"]))
        elif "example" in parameter and parameter["in"] == "query":
            query[parameter["name"]] = parameter["example"]
    lines = ['curl -H "Authorization: Token $TUNIXRT_TOKEN"']
    if method.upper() not in ("GET", "POST") or (method == "post" and not body):
        lines[0] += f" -X {method.upper()}"
    if "multipart/form-data" in body:
        lines.append("-F file=@problems.jsonl -F name=algebra -F version=v1")
    for name, content in body.items():
        if "example" in content:
            lines.append(f"-H 'Content-Type: {name}'")
            lines.append(f"-d '{json.dumps(content['example'], indent=2)}'")
    lines.append(f'"$server{path}{"?" + urlencode(query) if query else ""}"')
    return " \\\n  ".join(lines)


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "required": name in required,
            "description": one.get("description", ""),
            **_shown(one),
        }
        for name, one in schema.get("properties", {}).items()
    ]


def _shown(schema: dict[str, Any]) -> dict[str, Any]:
    """Return how a schema reads: the words of its type, the models it names, its bounds and its
    default."""
    variants = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    nullable = len(variants) < len(schema.get("anyOf", [schema]))
    found: dict[str, Any] = {"types": [_type(one) for one in variants], "nullable": nullable}
    found["limits"] = "; ".join(filter(None, (_limits(one) for one in variants)))
    if schema.get("default") is not None:
        found["default"] = json.dumps(schema["default"])
    return found


def _type(schema: dict[str, Any]) -> dict[str, str]:
    """Return the words of a type; ``model``: the one it names."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[1]
        return {"words": "", "model": name}
    if schema.get("type") == "array":
        inner = _type(schema.get("items", {}))
        return {"words": f"list of {inner['words']}".rstrip(), "model": inner["model"]}
    words = schema.get("type", "anything")
    return {"words": f"{words} ({schema['format']})" if "format" in schema else words, "model": ""}


_BOUNDS = (
    ("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"),
    ("minLength", "{} or more characters"), ("maxLength", "at most {} characters"),
    ("minItems", "{} or more"), ("maxItems", "at most {}"), ("pattern", "matches {}"),
)  # fmt: skip


def _limits(schema: dict[str, Any]) -> str:
    choices = schema.get("enum") or schema.get("items", {}).get("enum") or []
    if "const" in schema:
        choices = [schema["const"]]
    told = [f"one of {', '.join(json.dumps(each) for each in choices)}"] if choices else []
    told += [
        text.format(f"{schema[key]:,}" if isinstance(schema[key], int) else schema[key])
        for key, text in _BOUNDS
        if key in schema
    ]
    return ", ".join(told)
