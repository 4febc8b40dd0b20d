"""Formats of JSONL lines: how a line is read, recognised and turned into a trace."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from datasets.models import Split
from datasets.schema import MAX_STEPS, InvalidTrace, TraceData, kind_of, messages_problem, parse_trace


class LineError(ValueError):
    """Why one line cannot be read."""


# --- One line ------------------------------------------------------------------------------------------------------------


def parse_line(raw: bytes) -> dict[str, Any]:
    """The JSON object of one line. Raises LineError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise LineError(f"is not valid UTF-8 at byte {error.start + 1} of the line") from error
    try:
        value = orjson.loads(text)
        if not isinstance(value, dict):
            hint = "; write one object a line, without a list around them" if isinstance(value, list) else ""
            raise LineError(f"is {kind_of(value)}, not an object{hint}")
        # orjson is strict about everything but keys that come twice.
        json.loads(text, object_pairs_hook=_without_repeats)
    except orjson.JSONDecodeError as error:
        raise LineError(_json_reason(error, text)) from error
    except RecursionError as error:
        raise LineError("is nested too deeply") from error
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [key for key, _ in pairs]
        repeated = next(key for key in names if names.count(key) > 1)
        raise LineError(f"has the key {repeated!r} twice")
    return result


def _json_reason(error: orjson.JSONDecodeError, text: str) -> str:
    rest = text[error.pos :].lstrip("-")
    if rest.startswith(("NaN", "Infinity")):
        return f"is not JSON: NaN and Infinity are no JSON numbers (character {error.pos + 1})"
    if error.msg.startswith("depth limit"):
        return "is nested too deeply"
    if "surrogate" in error.msg:
        return f"holds half a character, a lone surrogate (character {error.pos + 1})"
    if error.msg.startswith("number is infinity"):
        return f"holds a number too large for any reader (character {error.pos + 1})"
    return f"is not JSON: {error.msg} (character {error.pos + 1})"


# --- Formats -------------------------------------------------------------------------------------------------------------


def _from_trace(line: dict[str, Any]) -> dict[str, Any]:
    return line


def _from_messages(line: dict[str, Any]) -> dict[str, Any]:
    *earlier, last = _messages(line.pop("messages"))
    return _example(earlier, [], last, line)


def _from_tunix_sft(line: dict[str, Any]) -> dict[str, Any]:
    """Our own export. The final answer is the end of the assistant's message, what stands before it are the steps."""
    *earlier, last = _messages(line["messages"])
    final_answer = line["final_answer"]
    if final_answer is None:
        return _example(earlier, [], last, {})
    if not isinstance(final_answer, str):
        raise LineError(f"final_answer: must be text or null, not {kind_of(final_answer)}")
    if not last.endswith(f"\n{final_answer}"):
        raise LineError("final_answer: is not the end of the assistant's message")
    worked = last[: -len(final_answer) - 1]
    lines = worked.split("\n")
    steps = lines if len(lines) <= MAX_STEPS and all(line.strip() for line in lines) else [worked]
    return _example(earlier, steps, final_answer, {})


def _messages(messages: Any) -> list[Any]:
    """The messages before the answer, and the answer's text."""
    if problem := messages_problem(messages):
        raise LineError(f"messages: {problem.rstrip('.')}")
    if messages[-1]["role"] != "assistant":
        raise LineError("messages: the last message must be the assistant's")
    if not messages[-1]["content"].strip():
        raise LineError("messages: the assistant's answer is blank")
    return [*messages[:-1], messages[-1]["content"]]


def _from_prompt_completion(line: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = _texts(line, "prompt", "completion")
    return _example([{"role": "user", "content": prompt}], [], completion, line)


# A calculator mark of GSM8K (https://github.com/openai/grade-school-math), as in `48/2 = <<48/2=24>>24 clips`.
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKER = "####"


def _from_gsm8k(line: dict[str, Any]) -> dict[str, Any]:
    question, answer = _texts(line, "question", "answer")
    steps, marker, final = answer.partition(_MARKER)
    if not marker:
        raise LineError(f"answer: has no line `{_MARKER} <final answer>`")
    if steps and not steps.endswith("\n"):
        raise LineError(f"answer: `{_MARKER}` must stand at the start of a line")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise LineError(f"answer: nothing follows `{_MARKER}`")
    if "\n" in final or _MARKER in final:
        raise LineError(f"answer: the line `{_MARKER} <final answer>` must be the last one")
    lines = [step.strip() for step in _CALCULATION.sub("", steps).split("\n")]
    return _example([{"role": "user", "content": question}], [step for step in lines if step], final, line)


def _texts(line: dict[str, Any], *fields: str) -> list[str]:
    texts = [line.pop(name) for name in fields]
    for name, text in zip(fields, texts, strict=True):
        if not isinstance(text, str):
            raise LineError(f"{name}: must be text, not {kind_of(text)}")
        if not text.strip():
            raise LineError(f"{name}: must not be blank")
    return texts


def _example(earlier: list[dict[str, str]], steps: list[str], final_answer: str, rest: dict[str, Any]) -> dict[str, Any]:
    """The trace of a conversation; fields that the format does not know are kept in ``meta``."""
    questions = [message["content"] for message in earlier if message["role"] == "user"]
    if not questions:
        raise LineError("messages: there is no message of the user before the answer")
    meta = dict(rest)
    if len(earlier) > 1:
        meta["messages"] = earlier
    elif "messages" in meta:
        raise LineError("messages: this format has no such field")
    return {
        "prompt": questions[-1],
        "steps": [{"i": number, "type": "reasoning", "content": step} for number, step in enumerate(steps)],
        "final_answer": final_answer,
        "meta": meta,
    }


@dataclass(frozen=True, slots=True)
class Format:
    keys: frozenset[str]
    convert: Callable[[dict[str, Any]], dict[str, Any]]


# Name → the keys by which a line is recognised, and how it becomes a trace. The first that fits counts.
FORMATS = {
    "tunix_sft": Format(frozenset({"id", "messages", "final_answer", "split"}), _from_tunix_sft),
    "messages": Format(frozenset({"messages"}), _from_messages),
    "gsm8k": Format(frozenset({"question", "answer"}), _from_gsm8k),
    "prompt_completion": Format(frozenset({"prompt", "completion"}), _from_prompt_completion),
    "trace": Format(frozenset({"prompt", "final_answer"}), _from_trace),
}


def recognise(line: dict[str, Any]) -> str:
    """The name of a line's format. Raises LineError."""
    for name, known in FORMATS.items():
        if known.keys <= line.keys():
            return name
    found = ", ".join(sorted(line)[:10]) or "none"
    raise LineError(f"is of no known format: its keys are {found}"[:300])


def to_trace(line: dict[str, Any], format_name: str) -> tuple[TraceData, str | None]:
    """The trace of a line, and the part that the line names itself. Raises LineError."""
    known = FORMATS[format_name]
    if missing := sorted(known.keys - line.keys()):
        raise LineError(f"is no {format_name} line: {', '.join(missing)} is missing")
    split = line.get("split")
    if "split" in line and split not in Split.values:
        raise LineError(f'split: must be "train" or "held_out", not {split!r}'[:200])
    rest = {key: value for key, value in line.items() if key != "split" or format_name == "tunix_sft"}
    try:
        return parse_trace(known.convert(rest)), split
    except InvalidTrace as error:
        raise LineError(str(error).rstrip(".")) from error
