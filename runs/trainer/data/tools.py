"""What a chat template shows of tools: nothing is trained of which a part is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from runs.trainer.data.conversation import Conversation, Message, Messages, Tools
from runs.trainer.data.skeleton import FIRST, LAST, Skeleton
from runs.trainer.errors import DataError

# Makes a finished conversation of messages and tools; raises DataError where the template refuses.
Render = Callable[[Messages, Tools | None], str]


class _Marks:
    """Placeholders that no text has, each with what it stands for."""

    def __init__(self) -> None:
        self.meanings: dict[str, str] = {}

    def new(self, meaning: str) -> str:
        mark = chr(LAST - 1 - len(self.meanings))
        self.meanings[mark] = meaning
        return mark


def with_arguments(messages: Messages, *, as_text: bool) -> Messages:
    """Return the messages with the arguments of tool calls as the template wants them: as objects,
    or as JSON."""
    if not as_text:
        return messages
    changed: Messages = []
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                function = call["function"]
                arguments = json.dumps(function["arguments"], ensure_ascii=False)
                calls.append({**call, "function": {**function, "arguments": arguments}})
            message = {**message, "tool_calls": calls}
        changed.append(message)
    return changed


def takes_arguments_as_text(render: Render) -> bool:
    """Return whether the template wants the arguments of tool calls as JSON, not as objects: it
    fails with an object, or writes it as Python would."""
    name, value = chr(FIRST), chr(FIRST + 1)
    function = {"name": "f", "arguments": {name: value}}
    call = {"id": "call00000", "type": "function", "function": function}
    messages: Messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    for as_text in (False, True):
        try:
            whole = render(with_arguments(messages, as_text=as_text), None)
        except DataError:
            continue
        if value in whole and f"'{value}'" not in whole:
            return as_text
    return False


def literals(conversation: Conversation) -> Iterator[tuple[str, Any]]:
    """Yield the values that a template writes itself, with names for sentences."""
    if conversation.tools:
        yield "the description of the tools", conversation.tools
    for number, message in enumerate(conversation.messages, start=1):
        if len(message) > 2:
            given = [message.get(key) for key in ("tool_calls", "tool_call_id", "name")]
            yield f"what message {number} says of tools", given


def strings(value: Any) -> Iterator[str]:
    """Yield a JSON value as text, then all texts in it, names of fields too."""
    yield json.dumps(value, ensure_ascii=False)
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item


def check_tools_shown(skeleton: Skeleton, whole: str, render: Render, *, template: str) -> None:
    """Raise DataError if the template leaves tools or tool calls out, or does not tell what a tool
    says from what others say.

    ``whole`` is the rendered skeleton; ``template`` is what sentences call the template.
    """
    if any(message["role"] == "tool" for message in skeleton.messages):
        _check_results_told_apart(skeleton, whole, render, template)
    marks = _Marks()
    as_text = any(
        isinstance(call["function"]["arguments"], str)
        for message in skeleton.messages
        for call in message.get("tool_calls", ())
    )
    messages = [
        _marked_calls(message, number, marks) if "tool_calls" in message else message
        for number, message in enumerate(skeleton.messages, start=1)
    ]
    tools = [
        _marked_tool(tool, number, marks) for number, tool in enumerate(skeleton.tools or [], 1)
    ]
    if not marks.meanings:
        return
    shown = render(with_arguments(messages, as_text=as_text), tools or None)
    for mark, meaning in marks.meanings.items():
        if mark not in shown:
            raise DataError(
                f"{template} does not show {meaning}; give the tokenizer a template for tools, or"
                " leave the tools out of the dataset"
            )


def _check_results_told_apart(
    skeleton: Skeleton, whole: str, render: Render, template: str
) -> None:
    for role in ("assistant", "user"):
        messages = [
            {"role": role, "content": message["content"]} if message["role"] == "tool" else message
            for message in skeleton.messages
        ]
        try:
            same = render(messages, skeleton.tools) == whole
        except DataError:
            continue
        if same:
            raise DataError(
                f"{template} shows what a tool says (role tool) as a message of the {role}; give"
                " the tokenizer a template for tools"
            )


def _marked_calls(message: Message, number: int, marks: _Marks) -> Message:
    """Return a message with marks for what a template has to show of its tool calls."""
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        of_call = f"of a tool call in message {number} (assistant)"
        name = marks.new(f"the name {of_call}")
        arguments: dict[str, str] = {}
        if function["arguments"] not in ({}, "{}"):
            arguments = {
                marks.new(f"the arguments {of_call}"): marks.new(f"the arguments {of_call}")
            }
        calls.append({**call, "function": {**function, "name": name, "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _marked_tool(tool: dict[str, Any], number: int, marks: _Marks) -> dict[str, Any]:
    """Return a tool with marks for what a template has to show of it."""
    function = tool["function"]
    marked: dict[str, Any] = {"name": marks.new(f"the name of tool {number}")}
    if function.get("description"):
        marked["description"] = marks.new(f"the description of tool {number}")
    if "parameters" in function:
        properties = {}
        if function["parameters"].get("properties"):
            name = marks.new(f"the parameters of tool {number}")
            properties = {name: {"type": "string", "description": "-"}}
        marked["parameters"] = {"type": "object", "properties": properties}
    return {**tool, "function": marked}
