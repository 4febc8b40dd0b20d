"""What a trace is: its fields and limits, and its content hash."""

import hashlib
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import orjson

from datasets.models import TRACE_VERSION, Kind
from tunixrt.readable import is_blank
from tunixrt.refusals import join_bounded, shorten

# One trace as canonical JSON. The longest context that can be trained, 32,768 tokens, is some 130
# kB of English.
MAX_TRACE_BYTES = 1024 * 1024
MAX_STEPS = 1_000
MAX_STEP_TYPE_CHARACTERS = 64
MAX_STEP_NUMBER = 2**31 - 1
MAX_META_DEPTH = 32
# Beyond it JSON numbers are not kept exactly by every database and reader.
MAX_META_NUMBER = 2**63 - 1
# What is named of all that is wrong with one trace, or with one dataset: a client may send a
# million wrong fields.
NAMED_FIELDS, NAMED_PROBLEMS, NAME_SHOWN = 20, 20, 100

_FIELDS = ("prompt", "steps", "final_answer", "meta", "trace_version")
_STEP_FIELDS = {"i", "type", "content"}
Errors = dict[str, list[str]]
_TEXT = {"type": "string", "pattern": r"\S"}
# What parse_trace takes, as JSON Schema. It says besides that steps are in ascending order, and how
# deep meta may be.
TRACE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "One worked example.",
    "additionalProperties": False,
    "required": ["prompt", "final_answer"],
    "properties": {
        "prompt": _TEXT,
        "steps": {
            "type": "array",
            "description": "In ascending order of i.",
            "maxItems": MAX_STEPS,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["i", "type", "content"],
                "properties": {
                    "i": {"type": "integer", "minimum": 0, "maximum": MAX_STEP_NUMBER},
                    "type": _TEXT | {"maxLength": MAX_STEP_TYPE_CHARACTERS},
                    "content": _TEXT,
                },
            },
        },
        "final_answer": _TEXT,
        "meta": {"type": "object", "description": "Anything of yours."},
        "trace_version": {"type": "string", "enum": [TRACE_VERSION]},
    },
}


class InvalidTrace(ValueError):
    """``errors``: field → what is wrong with it."""

    def __init__(self, errors: Errors):
        self.errors = errors
        super().__init__(
            join_bounded(f"{field}: {' '.join(messages)}" for field, messages in errors.items())
        )


def unknown_fields(given: Mapping[Any, Any], known: Container[str]) -> Errors:
    """Return an error for each field that is not known; of many, for the first ones and how many
    there are."""
    unknown = (key for key in given if key not in known)
    errors: Errors = {
        shorten(str(key), NAME_SHOWN): ["Unknown field."] for key in islice(unknown, NAMED_FIELDS)
    }
    if more := sum(1 for _ in unknown):
        errors["non_field_errors"] = [f"{more:,} more unknown fields."]
    return errors


class HasContent(Protocol):
    """What hash, statistics and export need: a stored example has it, and so has one that was just
    read."""

    kind: Any
    prompt: Any
    steps: Any
    final_answer: Any
    meta: Any
    content: Any


@dataclass(slots=True)
class ExampleData:
    """A valid example that may not be stored yet: the columns of ``Trace``. ``content_hash``:
    SHA-256 of the canonical JSON, hexadecimal; ``size``: about its length in bytes.
    """

    prompt: str
    steps: list[dict[str, Any]]
    final_answer: str
    meta: dict[str, Any]
    trace_version: str
    content_hash: str
    size: int
    kind: str = Kind.TRACE.value
    content: str = ""


def parse_trace(value: Any) -> ExampleData:
    """Check one trace, ``{prompt, steps, final_answer, meta?, trace_version?}``. Raise InvalidTrace
    with every fault."""
    if not isinstance(value, Mapping):
        raise InvalidTrace({"trace": [f"Must be an object, not {json_kind(value)}."]})
    errors = unknown_fields(value, _FIELDS)
    for field in ("prompt", "final_answer"):
        if problem := text_problem(value.get(field), required=True, given=field in value):
            errors[field] = [problem]
    steps = value.get("steps", [])
    if problems := _step_problems(steps):
        errors["steps"] = problems
    meta = value.get("meta", {})
    if problem := meta_problem(meta):
        errors["meta"] = [problem]
    version = value.get("trace_version", TRACE_VERSION)
    if version != TRACE_VERSION:
        errors["trace_version"] = [f'Must be "{TRACE_VERSION}".']
    if errors:
        raise InvalidTrace(errors)
    steps = [{"i": step["i"], "type": step["type"], "content": step["content"]} for step in steps]
    return _hashed(value["prompt"], steps, value["final_answer"], meta, version)


def trace_of(
    prompt: str, steps: list[dict[str, Any]], final_answer: str, meta: dict[str, Any]
) -> ExampleData:
    """Return the trace of steps that were made here, in the right form and order. Raise
    InvalidTrace."""
    texts = [prompt, final_answer, *(step["content"] for step in steps)]
    if len(steps) > MAX_STEPS or meta_problem(meta) or not all(map(_is_good_text, texts)):
        fields = {"prompt": prompt, "steps": steps, "final_answer": final_answer, "meta": meta}
        return parse_trace(fields)  # which says what is wrong
    return _hashed(prompt, steps, final_answer, meta, TRACE_VERSION)


def _is_good_text(value: Any) -> bool:
    return isinstance(value, str) and "\x00" not in value and not is_blank(value)


def _hashed(
    prompt: str, steps: list[dict[str, Any]], final_answer: str, meta: dict[str, Any], version: str
) -> ExampleData:
    content = {
        "prompt": prompt,
        "steps": steps,
        "final_answer": final_answer,
        "meta": meta,
        "trace_version": version,
    }
    canonical = bounded_json(content, option=orjson.OPT_SORT_KEYS)
    return ExampleData(
        prompt,
        steps,
        final_answer,
        meta,
        version,
        hashlib.sha256(canonical).hexdigest(),
        len(canonical),
    )


def bounded_json(value: Any, *, option: int = 0) -> bytes:
    """Return the JSON of what is stored of an example. Raise InvalidTrace for text that has no
    UTF-8 form, and beyond ``MAX_TRACE_BYTES``."""
    try:
        found = orjson.dumps(value, option=option)
    except TypeError as error:  # all types are checked before
        raise InvalidTrace({"trace": ["Holds half a character (a lone surrogate)."]}) from error
    if len(found) > MAX_TRACE_BYTES:
        reason = f"Has {len(found):,} bytes as JSON; the limit is {MAX_TRACE_BYTES:,}."
        raise InvalidTrace({"trace": [reason]})
    return found


class RepeatedKey(Exception):
    """An object of JSON has a key twice: readers disagree which value counts."""


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object, as the ``object_pairs_hook`` of a strict reader. Raise RepeatedKey."""
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise RepeatedKey(f"has the key {repeated!r} twice")
    return result


def json_kind(value: Any) -> str:
    """Return the JSON name of a value's type."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def text_problem(value: Any, *, required: bool, given: bool = True) -> str | None:
    if not given:
        return "This field is required."
    if not isinstance(value, str):
        return f"Must be text, not {json_kind(value)}."
    if required and is_blank(value):
        return "Must not be blank."
    if "\x00" in value:
        return "Holds a NUL character (\\u0000), which cannot be stored."
    return None


def _step_problems(steps: Any) -> list[str]:
    if not isinstance(steps, list):
        return [f"Must be a list, not {json_kind(steps)}."]
    if len(steps) > MAX_STEPS:
        return [f"Has {len(steps):,} steps; the limit is {MAX_STEPS:,}."]
    problems: list[str] = []
    last = -1
    for position, step in enumerate(steps):
        if len(problems) >= NAMED_PROBLEMS:
            return [*problems[:NAMED_PROBLEMS], "More problems may follow."]
        place = f"steps[{position}]"
        if not isinstance(step, Mapping):
            problems.append(f"{place}: must be an object, not {json_kind(step)}.")
            continue
        if set(step) != _STEP_FIELDS:
            unknown = (key for key in step if key not in _STEP_FIELDS)
            missing = sorted(_STEP_FIELDS - set(step))
            problems.extend(
                f"{place}: unknown field {shorten(str(key), NAME_SHOWN)}."
                for key in islice(unknown, NAMED_FIELDS)
            )
            problems.extend(f"{place}: {key} is missing." for key in missing)
            continue
        number = step["i"]
        if type(number) is not int or not 0 <= number <= MAX_STEP_NUMBER:
            problems.append(f"{place}.i: must be a whole number from 0 to {MAX_STEP_NUMBER}.")
        elif number <= last:
            problems.append(
                f"{place}.i: {number} does not come after {last}; steps are listed in ascending"
                " order."
            )
        else:
            last = number
        for field in ("type", "content"):
            if problem := text_problem(step[field], required=True):
                problems.append(f"{place}.{field}: {problem}")
        if isinstance(step["type"], str) and len(step["type"]) > MAX_STEP_TYPE_CHARACTERS:
            problems.append(f"{place}.type: the limit is {MAX_STEP_TYPE_CHARACTERS} characters.")
    return problems


def meta_problem(meta: Any) -> str | None:
    """Return what is wrong with the free fields of an example, or None."""
    if not isinstance(meta, dict):
        return f"Must be an object, not {json_kind(meta)}."
    return value_problem(meta, MAX_META_DEPTH)


def value_problem(value: Any, depth: int) -> str | None:
    if depth < 0:
        return f"Is nested more than {MAX_META_DEPTH} levels deep."
    if isinstance(value, str):
        return text_problem(value, required=False) if "\x00" in value else None
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # NaN fails the comparison too.
        return (
            None
            if abs(value) <= MAX_META_NUMBER
            else f"Holds a number beyond ±{MAX_META_NUMBER}; write it as text."
        )
    if isinstance(value, list):
        return next(
            (problem for item in value if (problem := value_problem(item, depth - 1))), None
        )
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"Has the key {shorten(repr(key), NAME_SHOWN)}; keys are text."
            if problem := text_problem(key, required=False) or value_problem(item, depth - 1):
                return problem
        return None
    return f"Holds {json_kind(value)}, which is no JSON."
