"""Chat messages and tools in the one form in which they are stored.

The form is the one of OpenAI's chat completions, which chat templates read: ``{role, content}``,
for an assistant also ``reasoning``, ``tool_calls`` and ``weight``, for a tool ``tool_call_id`` and
``name``. Arguments of a call are an object. What a template would leave out without saying so is
refused by name.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from datasets.examples.schema import (
    NAME_SHOWN,
    RepeatedKey,
    json_kind,
    text_problem,
    without_repeats,
)
from tunixrt.readable import is_blank
from tunixrt.refusals import shorten

MAX_MESSAGES = 1_000
MAX_TOOLS = 1_000
ROLES = ("system", "developer", "user", "assistant", "tool")
Message = dict[str, Any]
Messages = list[Message]
Tools = list[dict[str, Any]]

# What stands around reasoning at the beginning of an answer: of reasoning models, and of
# OpenThoughts-114k, which marks the answer after it as well.
_THINK = ("<think>", "</think>")
_THOUGHT = ("<|begin_of_thought|>", "<|end_of_thought|>")
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
_REASONING = ("reasoning", "reasoning_content", "thinking")
_FIELDS = {
    "assistant": {"role", "content", "weight", "tool_calls", "function_call", *_REASONING},
    "tool": {"role", "content", "tool_call_id", "name"},
}
_PLAIN = {"role", "content"}
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class InvalidMessages(ValueError):
    """Why messages or tools cannot be stored, as the end of a sentence."""


def read_messages(value: Any, *, tagged: bool = False) -> Messages:
    """Return messages of OpenAI's form as they are stored.

    Args:
        tagged: an answer may begin with its reasoning between tags (``<think>``), which is then
            stored apart from it.

    Raise InvalidMessages, naming the first bad message by its number from 1.
    """
    if not isinstance(value, list) or not value:
        raise InvalidMessages("must be a list of messages")
    if len(value) > MAX_MESSAGES:
        raise InvalidMessages(f"has {len(value):,} messages; the limit is {MAX_MESSAGES:,}")
    return [
        _read_message(message, number, tagged=tagged)
        for number, message in enumerate(value, start=1)
    ]


def _read_message(message: Any, number: int, *, tagged: bool) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidMessages(f"message {number} must be an object, not {json_kind(message)}")
    role = "tool" if message.get("role") == "function" else message.get("role")
    if role not in ROLES:
        raise InvalidMessages(
            f"message {number} has the role {shorten(repr(role), NAME_SHOWN)}; known are"
            f" {', '.join(ROLES)}"
        )
    for name, content in message.items():
        if name == "weight" and role != "assistant" and _is_weight(content):
            continue  # SlimOrca has one on every turn; only answers are learnt anyway
        if name not in _FIELDS.get(role, _PLAIN) and content not in _EMPTY:
            raise InvalidMessages(
                f"message {number} ({role}) has the field {shorten(repr(name), NAME_SHOWN)}, which"
                " would be left out"
            )
    read: Message = {"role": role, "content": _read_content(message.get("content"), number)}
    if role == "assistant":
        reasoning = ""
        if tagged:
            reasoning, read["content"] = _apart(read["content"], number)
        read |= _read_assistant(message, number, reasoning)
    if role == "tool":
        read |= {
            name: _text(message[name], f"{name} of message {number}")
            for name in ("tool_call_id", "name")
            if message.get(name) is not None
        }
    if is_blank(read["content"]) and role != "tool" and "tool_calls" not in read:
        raise InvalidMessages(f"message {number} ({role}) is blank")
    return read


def _read_content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if not isinstance(content, list):
        return _text(content, f"the content of message {number}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part, Mapping):
            raise InvalidMessages(
                f"message {number} has a part of type {shorten(str(kind), NAME_SHOWN)}; only text"
                " can be learnt"
            )
        texts.append(_text(part.get("text"), f"a part of message {number}"))
    return "".join(texts)


def _apart(content: str, number: int) -> tuple[str, str]:
    try:
        return reasoning_apart(content)
    except InvalidMessages as error:
        raise InvalidMessages(f"message {number} {error}") from error


def reasoning_apart(text: str) -> tuple[str, str]:
    """Return the reasoning that an answer begins with, and the answer without it and without the
    tags of a solution. Raise InvalidMessages."""
    stripped = text.lstrip()
    if stripped.startswith(_THINK[0]):
        reasoning, answer = _within(stripped, *_THINK)
        return reasoning.strip(), answer.lstrip()
    if stripped.startswith(_THOUGHT[0]):
        reasoning, answer = _within(stripped, *_THOUGHT)
        before, found, solution = answer.partition(_SOLUTION[0])
        answer = before + _solution(found + solution) if found else answer
        return reasoning.strip(), answer.lstrip()
    if stripped.startswith(_SOLUTION[0]):
        return "", _solution(stripped)
    return "", text


def _solution(text: str) -> str:
    """Return the text between the tags of a solution, which ``text`` begins with."""
    solution, rest = _within(text, *_SOLUTION)
    if rest.strip():
        raise InvalidMessages(f"has text after {_SOLUTION[1]}")
    return solution.strip()


def _within(text: str, begin: str, end: str) -> tuple[str, str]:
    """Return the text between the tag that ``text`` begins with and the next ``end``, and the
    rest."""
    within, found, rest = text.removeprefix(begin).partition(end)
    if not found:
        raise InvalidMessages(f"begins with {begin} and has no {end}")
    return within, rest


def _read_assistant(message: Mapping[str, Any], number: int, reasoning: str) -> Message:
    """Read the message of an assistant. ``reasoning``: what the content began with."""
    read: Message = {}
    reasons = [
        _text(message[name], f"{name} of message {number}")
        for name in _REASONING
        if message.get(name) not in _EMPTY
    ]
    if len(reasons) > 1:
        raise InvalidMessages(f"message {number} has its reasoning twice")
    if reasons and reasoning and reasons[0].strip() != reasoning:
        raise InvalidMessages(f"message {number} has its reasoning twice, and not the same")
    if reasons or reasoning:
        read["reasoning"] = reasons[0] if reasons else reasoning
    calls = message.get("tool_calls")
    if message.get("function_call") not in _EMPTY:
        if calls not in _EMPTY:
            raise InvalidMessages(f"message {number} has tool_calls and function_call")
        calls = [{"function": message["function_call"]}]
    if calls not in _EMPTY:
        read["tool_calls"] = _read_calls(calls, number)
    weight = message.get("weight")
    if weight is not None:
        if not _is_weight(weight):
            raise InvalidMessages(f"weight of message {number} must be 0 or 1")
        if weight == 0:
            read["weight"] = 0
    return read


def _is_weight(value: Any) -> bool:
    return not isinstance(value, bool) and value in (0, 1)


def _read_calls(calls: Any, number: int) -> list[dict[str, Any]]:
    where = f"tool_calls of message {number}"
    if not isinstance(calls, list):
        raise InvalidMessages(f"{where} must be a list, not {json_kind(calls)}")
    read = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidMessages(f"{where}: a call must be an object with a function")
        name = _text(function.get("name"), f"{where}: name")
        if is_blank(name):
            raise InvalidMessages(f"{where}: the name of a function is blank")
        stored: dict[str, Any] = {"type": "function"}
        if isinstance(call, Mapping) and call.get("id") is not None:
            stored = {"id": _text(call["id"], f"{where}: id"), "type": "function"}
        arguments = _read_arguments(function.get("arguments"), f"{where}: arguments of {name}")
        read.append(stored | {"function": {"name": name, "arguments": arguments}})
    return read


def _read_arguments(arguments: Any, where: str) -> dict[str, Any]:
    """Read arguments, an object or its JSON text: providers write the one or the other."""
    if arguments in (None, ""):
        return {}
    if isinstance(arguments, str):
        arguments = _json(arguments, where)
    if not isinstance(arguments, dict):
        raise InvalidMessages(f"{where} must be an object, not {json_kind(arguments)}")
    return arguments


def read_tools(value: Any) -> Tools:
    """Return tools as they are stored, ``{"type": "function", "function": {name, …}}``; functions
    without that frame, and the JSON text of all of it, are read too. Raise InvalidMessages."""
    if isinstance(value, str) and value:
        value = _json(value, "tools")
    if value in _EMPTY:
        return []
    if not isinstance(value, list):
        raise InvalidMessages(f"tools: must be a list, not {json_kind(value)}")
    if len(value) > MAX_TOOLS:
        raise InvalidMessages(f"tools: has {len(value):,} tools; the limit is {MAX_TOOLS:,}")
    tools = []
    for tool in value:
        if not isinstance(tool, Mapping):
            raise InvalidMessages(f"tools: a tool must be an object, not {json_kind(tool)}")
        function = tool.get("function", tool)
        if tool.get("type", "function") != "function" and "function" in tool:
            raise InvalidMessages("tools: only tools of type function can be learnt")
        if not isinstance(function, Mapping) or is_blank(
            _text(function.get("name"), "tools: the name of a function")
        ):
            raise InvalidMessages("tools: a tool has no function with a name")
        tools.append({"type": "function", "function": dict(function)})
    return tools


def _json(text: str, where: str) -> Any:
    try:
        value = orjson.loads(text)
        json.loads(text, object_pairs_hook=without_repeats)
    except RepeatedKey as error:
        raise InvalidMessages(f"{where}: {error}") from error
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise InvalidMessages(f"{where}: is not JSON") from error
    return value


def _text(value: Any, where: str) -> str:
    if problem := text_problem(value, required=False):
        raise InvalidMessages(f"{where}: {problem.rstrip('.').replace('Must', 'must', 1)}")
    return str(value)


def is_learnt(message: Message) -> bool:
    """Return whether a training learns to write this message."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def texts_of(message: Message) -> list[str]:
    """Return all texts of a message, in the order in which templates write them."""
    texts = [message["content"]]
    if "reasoning" in message:
        texts.insert(0, message["reasoning"])
    if "tool_calls" in message:
        texts.append(orjson.dumps(message["tool_calls"]).decode())
    return texts
