"""Reading ``dataset.jsonl`` (formats tunix_sft and tunix_prompts): one example a line, streamed.
Bad lines are named.

A line is ``{"id", "messages": [{"role", "content"}, …], "final_answer": str|null, "split":
"train"|"held_out"}``. Without ``kind`` it is a trace: the last message is the assistant's, and the
only one that is learnt.

With ``"kind": "conversation"`` roles may be developer and tool as well, and there may be ``tools``.
An assistant's message may have ``reasoning``, ``tool_calls`` and ``"weight": 0``, a tool's
``tool_call_id`` and ``name``. Every message of the assistant without ``"weight": 0`` is learnt.

A line of tunix_prompts has ``"kind": "prompt"``, the messages to be answered, and ``meta``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runs.trainer.data.conversation import Conversation, Message, Messages, Tools
from runs.trainer.errors import DataError

ROLES = ("system", "user", "assistant")
CONVERSATION_ROLES = ("system", "developer", "user", "assistant", "tool")
KINDS = ("conversation",)
SPLITS = ("train", "held_out")
PROMPTS = "tunix_prompts"
NAMED_LINES = 5  # bad lines named in the error; the rest are counted


@dataclass(frozen=True, slots=True)
class Example:
    """One line. ``offset`` is where it starts in the file and ``size`` its length, in bytes;
    ``line`` counts from 1."""

    line: int
    offset: int
    size: int
    id: str
    conversation: Conversation
    final_answer: str | None
    held_out: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of tunix_prompts. ``meta``: further columns, which rewards and scorers read."""

    id: str
    messages: Messages
    tools: Tools | None
    final_answer: str | None
    meta: dict[str, Any]
    held_out: bool


Parsed = TypeVar("Parsed")


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples in file order.

    Raises:
        DataError: the file cannot be read; or, after the last line, that there were bad lines or no
            lines at all. The number and reason of the first few bad lines are in the sentence.
    """
    return _read_lines(path, parse_line)


def read_prompts(path: Path) -> Iterator[Prompt]:
    """Yield the prompts of a file of tunix_prompts, as ``read_examples`` does."""
    return _read_lines(path, lambda raw, number, offset: parse_prompt(raw, number))


def _read_lines(path: Path, parse: Callable[[bytes, int, int], Parsed]) -> Iterator[Parsed]:
    problems: list[str] = []
    bad = good = 0
    try:
        with open(path, "rb") as file:
            offset = 0
            for number, raw in enumerate(file, start=1):
                start, offset = offset, offset + len(raw)
                if not raw.strip():
                    continue
                try:
                    example = parse(raw, number, start)
                except ValueError as error:
                    bad += 1
                    if len(problems) < NAMED_LINES:
                        problems.append(f"line {number}: {error}")
                    continue
                good += 1
                yield example
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if bad:
        more = f"; and {bad - len(problems)} more" if bad > len(problems) else ""
        raise DataError(
            f"{bad} bad line(s) in {path.name}: {'; '.join(problems)}{more}. Correct or remove them"
        )
    if not good:
        raise DataError(f"{path.name} is empty: there are no examples")


def parse_line(raw: bytes, line: int, offset: int) -> Example:
    """Check one line. Raise ValueError with the reason in words."""
    value = _parse_object(raw, line)
    kind = value.get("kind")
    if kind is None:
        conversation = _read_trace(value)
    elif kind in KINDS:
        conversation = _read_conversation(value)
    else:
        raise ValueError(f"kind is {kind!r}, not {' or '.join(KINDS)}")
    return Example(
        line=line,
        offset=offset,
        size=len(raw),
        id=str(value.get("id", line)),
        conversation=conversation,
        final_answer=_read_final_answer(value),
        held_out=_is_held_out(value),
    )


def parse_prompt(raw: bytes, line: int) -> Prompt:
    """Check one line of tunix_prompts. Raise ValueError with the reason in words."""
    value = _parse_object(raw, line)
    if value.get("kind") != "prompt":
        raise ValueError(f"kind is {value.get('kind')!r}, not prompt")
    messages: Messages = []
    for position, message in enumerate(_read_messages(value)):
        read = _check_message(message, position, CONVERSATION_ROLES)
        if read["role"] == "assistant":
            read.update(_read_assistant(message, f"message {position + 1}"))
        elif read["role"] == "tool":
            read.update(_read_result(message, f"message {position + 1}"))
        messages.append(read)
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's: there is nothing to answer")
    meta = value.get("meta", {})
    if not isinstance(meta, dict):
        raise ValueError("meta is not an object")
    return Prompt(
        id=str(value.get("id", line)),
        messages=messages,
        tools=_read_tools(value),
        final_answer=_read_final_answer(value),
        meta=meta,
        held_out=_is_held_out(value),
    )


def _read_final_answer(value: dict[str, Any]) -> str | None:
    final_answer = value.get("final_answer")
    if final_answer is not None and not isinstance(final_answer, str):
        raise ValueError("final_answer is neither text nor null")
    return final_answer


def _is_held_out(value: dict[str, Any]) -> bool:
    split = value.get("split", "train")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, neither train nor held_out")
    return bool(split == "held_out")


def _parse_object(raw: bytes, line: int) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _read_trace(value: dict[str, Any]) -> Conversation:
    messages = _read_messages(value)
    clean = [_check_message(message, position, ROLES) for position, message in enumerate(messages)]
    if clean[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not any(message["role"] == "user" for message in clean):
        raise ValueError("has no message of a user")
    if not clean[-1]["content"].strip():
        raise ValueError("the assistant's answer is empty")
    return Conversation.of_trace(clean)


def _read_conversation(value: dict[str, Any]) -> Conversation:
    clean: list[Message] = []
    learnt: list[int] = []
    for position, message in enumerate(_read_messages(value)):
        read = _check_message(message, position, CONVERSATION_ROLES)
        name = f"message {position + 1}"
        if read["role"] == "assistant":
            read.update(_read_assistant(message, name))
            if _read_weight(message, name):
                learnt.append(position)
                if not read["content"].strip() and "tool_calls" not in read:
                    raise ValueError(f"{name} is the assistant's, and it is empty")
        elif read["role"] == "tool":
            read.update(_read_result(message, name))
        if not read["content"] and read["role"] != "tool" and "tool_calls" not in read:
            raise ValueError(f"{name} ({read['role']}) is empty")
        clean.append(read)
    if not learnt:
        raise ValueError("has no message of the assistant that is learnt")
    return Conversation(clean, tuple(learnt), _read_tools(value))


def _read_messages(value: dict[str, Any]) -> list[Any]:
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("has no messages")
    return messages


def _check_message(message: Any, position: int, roles: tuple[str, ...]) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f"message {position + 1} is not an object")
    role, content = message.get("role"), message.get("content")
    if role not in roles:
        raise ValueError(
            f"message {position + 1} has the role {role!r}, not one of {', '.join(roles)}"
        )
    if not isinstance(content, str):
        raise ValueError(f"message {position + 1} has no text")
    _check_encodable(content, f"message {position + 1}")
    return {"role": role, "content": content}


def _read_assistant(message: dict[str, Any], name: str) -> Message:
    """Read the message of an assistant, with ``reasoning`` and ``tool_calls`` under the names that
    templates read. Blank reasoning is none."""
    found: Message = {}
    reasoning = message.get("reasoning")
    if reasoning is not None:
        if not isinstance(reasoning, str):
            raise ValueError(f"the reasoning of {name} is not text")
        _check_encodable(reasoning, f"the reasoning of {name}")
        if reasoning.strip():
            found["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list) or not calls:
            raise ValueError(f"the tool calls of {name} are not a list of calls")
        found["tool_calls"] = [
            _read_call(call, f"tool call {number} of {name}")
            for number, call in enumerate(calls, start=1)
        ]
    return found


def _read_call(call: Any, name: str) -> dict[str, Any]:
    function = _read_function(call, name)
    if not isinstance(function.get("arguments"), dict):
        raise ValueError(f"{name} has no arguments (an object)")
    clean: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": function["arguments"]},
    }
    if (identifier := call.get("id")) is not None:
        if not isinstance(identifier, str):
            raise ValueError(f"the id of {name} is not text")
        clean["id"] = identifier
    _check_value(clean, name)
    return clean


def _read_function(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") != "function":
        raise ValueError(f"{name} is not an object of the type function")
    function = value.get("function")
    if not isinstance(function, dict):
        raise ValueError(f"{name} has no function (an object)")
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise ValueError(f"the function of {name} has no name")
    return function


def _read_result(message: dict[str, Any], name: str) -> Message:
    found: Message = {}
    for key in ("tool_call_id", "name"):
        if (text := message.get(key)) is not None:
            if not isinstance(text, str):
                raise ValueError(f"the {key} of {name} is not text")
            _check_encodable(text, f"the {key} of {name}")
            found[key] = text
    return found


def _read_tools(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    tools = value.get("tools")
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list):
        raise ValueError("the tools are not a list")
    for number, tool in enumerate(tools, start=1):
        name = f"tool {number}"
        function = _read_function(tool, name)
        if not isinstance(function.get("description", ""), str):
            raise ValueError(f"the description of {name} is not text")
        if not isinstance(function.get("parameters", {}), dict):
            raise ValueError(f"the parameters of {name} are not an object")
        _check_value(tool, name)
    return tools


def _read_weight(message: dict[str, Any], name: str) -> bool:
    """Return whether the message is learnt."""
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(f"the weight of {name} is {weight!r}, neither 0 nor 1")
    return bool(weight)


def _check_value(value: dict[str, Any], name: str) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{name} holds a number that JSON does not have, or is nested too deep"
        ) from None
    _check_encodable(text, name)


def _check_encodable(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half a character (a lone surrogate)") from None


def examples_at(path: Path, offsets: list[int]) -> list[Example]:
    """Return the examples whose lines start at these byte offsets."""
    found = []
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            found.append(parse_line(file.readline(), 1 if offset == 0 else 2, offset))
    return found


def last_line(text: str) -> str:
    """Return the last line that is not blank, stripped: what exact match compares."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
