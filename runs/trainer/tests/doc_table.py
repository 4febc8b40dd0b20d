"""The tables of docs/manifest.md as runs/spec/kinds.py has them. ``python -m
runs.trainer.tests.doc_table`` prints them."""

import json
from typing import Any

from runs.spec.kinds import EVALUATE, KINDS, Kind
from runs.spec.parameters import Parameter

TYPES = {
    bool: "true / false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list of text",
}


def parameter_rows(kind: Kind) -> list[str]:
    """Return one row a parameter: name, type, default, range, help."""
    rows = []
    for parameter in kind.parameters.values():
        value = type_of(parameter) + (" or null" if parameter.nullable else "")
        cells = (
            f"`{parameter.name}`",
            value,
            shown(parameter.default),
            range_of(parameter),
            parameter.help,
        )
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def type_of(parameter: Parameter) -> str:
    if parameter.schema is not None and parameter.schema.get("items", {}).get("type") == "object":
        return "list of mappings"
    return TYPES[parameter.type]


def range_of(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(parameter.choices)
    if parameter.minimum is None or parameter.maximum is None:
        return "–"
    low, high = f"{parameter.minimum:,}", f"{parameter.maximum:,}"
    return f"{low} < x ≤ {high}" if parameter.exclusive_minimum else f"{low} to {high}"


def shown(value: Any) -> str:
    """A default as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"`{json.dumps(value)}`"
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    for kind in (*KINDS.values(), EVALUATE):
        print(f"### `{kind.name}`", *parameter_rows(kind), sep="\n")
