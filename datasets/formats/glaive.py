"""Function calls as Glaive writes them: a whole dialogue as one text, and the functions within the
system prompt."""

import json
import re
from typing import Any

from datasets.examples.schema import ExampleData, RepeatedKey, without_repeats
from datasets.formats.chats import conversation
from datasets.formats.lines import Line, LineError, plain_text

_TURN = re.compile(r"(?<!\n)\n\n+(USER|ASSISTANT|FUNCTION RESPONSE):")
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"
_CALL = "<functioncall>"
# The arguments are JSON between single quotes, within what would else be JSON.
_QUOTED = re.compile(r"""\{\s*"name":\s*"([^"]+)",\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)
_FUNCTIONS = re.compile(r"following functions[^{]{0,60}(?=\{)")
_NOT_SPACE = re.compile(r"\S")
_DECODER = json.JSONDecoder(object_pairs_hook=without_repeats)


def is_glaive(line: Line) -> bool:
    return isinstance(line["chat"], str) and line["chat"].lstrip().startswith("USER:")


def from_glaive(line: Line) -> ExampleData:
    system, chat = plain_text(line, "system", "chat")
    system, tools = _functions(system.strip().removeprefix("SYSTEM:").strip())
    messages: list[Line] = [{"role": "system", "content": system}] if system else []
    _, *turns = _TURN.split(f"\n\n{chat.strip()}")
    for number, (speaker, said) in enumerate(zip(turns[::2], turns[1::2], strict=True), start=1):
        text = said.strip().removesuffix(_END).rstrip()
        message = {"role": _ROLES[speaker], "content": text}
        if speaker == "ASSISTANT":
            message |= _calls(text, f"chat: turn {number}")
        messages.append(message)
    return conversation(messages, line | ({"tools": tools} if tools else {}))


def _functions(system: str) -> tuple[str, list[Any]]:
    """Return the system prompt without the functions that it ends with, and these. Raise
    LineError."""
    found = _FUNCTIONS.search(system)
    if not found:
        return system, []
    place, functions = found.end(), []
    while place < len(system):
        function, place = _read(system, place, "system: the functions")
        functions.append(function)
    return system[: found.end()].rstrip(" -\n"), functions


def _calls(text: str, where: str) -> Line:
    """Return the content and the call of an answer that makes one. Raise LineError."""
    before, found, call = text.partition(_CALL)
    if not found:
        return {}
    if quoted := _QUOTED.fullmatch(call.strip()):
        function = {"name": quoted[1], "arguments": quoted[2].replace("\\'", "'")}
    else:
        call = call.strip()
        function, place = _read(call, 0, f"{where}: the function call")
        if place < len(call):
            raise LineError(f"{where}: has text after its function call")
    return {"content": before.strip(), "tool_calls": [{"function": function}]}


def _read(text: str, place: int, what: str) -> tuple[Any, int]:
    """Return the JSON at a place of a text, and where the next begins. Raise LineError."""
    try:
        value, end = _DECODER.raw_decode(text, place)
    except RepeatedKey as error:
        raise LineError(f"{what}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"{what}: no JSON") from error
    following = _NOT_SPACE.search(text, end)
    return value, following.start() if following else len(text)
