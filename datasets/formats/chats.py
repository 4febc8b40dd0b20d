"""From lines to conversations."""

from typing import Any

import orjson

from datasets.examples import kinds
from datasets.examples.messages import InvalidMessages, read_tools
from datasets.examples.schema import ExampleData, json_kind
from datasets.formats.answers import check_beside
from datasets.formats.lines import Line, LineError, plain_text, take_text

SYSTEM_FIELDS = ("system", "system_prompt", "systemInstruction")
TOOL_FIELDS = ("tools", "functions")


def from_messages(line: Line) -> ExampleData:
    return conversation(line.pop("messages"), line)


def from_prompt_completion(line: Line) -> ExampleData:
    """Return a conversation of a prompt and a completion that are messages; earlier answers are
    learnt as well, unless they have ``weight: 0``."""
    prompt, completion = line.pop("prompt"), line.pop("completion")
    messages = [kinds.as_messages(prompt, "user"), kinds.as_messages(completion, "assistant")]
    if not all(isinstance(part, list) for part in messages):
        raise LineError("prompt and completion: must be text or lists of messages")
    return conversation([*messages[0], *messages[1]], line)


_SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    "function_call": "function_call",
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
}


def from_sharegpt(line: Line) -> ExampleData:
    return conversation(messages_of_turns(line.pop("conversations"), "conversations"), line)


def messages_of_turns(turns: Any, name: str) -> list[Any]:
    """Return turns of ShareGPT, ``{from, value}``, as messages. Raise LineError."""
    if not isinstance(turns, list) or not turns:
        raise LineError(f"{name}: must be a list of turns")
    return [message_of_turn(turn, f"{name}: turn {number}") for number, turn in enumerate(turns, 1)]


def message_of_turn(turn: Any, where: str) -> Line:
    if not isinstance(turn, dict):
        raise LineError(f"{where} must be an object, not {json_kind(turn)}")
    rest = dict(turn)
    speaker, value = rest.pop("from", rest.pop("role", None)), rest.pop("value", None)
    value = rest.pop("content", None) if value is None else value
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        known = ", ".join(_SPEAKERS)
        raise LineError(f"{where} is from {str(speaker)[:40]!r}; known are {known}")
    if role == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(value, where)} | rest
    return {"role": role, "content": value} | rest


def _calls(value: Any, where: str) -> list[Line]:
    """Return calls as ShareGPT and xLAM write them: JSON text of ``{name, arguments}``, or a list
    of them."""
    try:
        calls = orjson.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise LineError(f"{where}: the calls are not JSON") from error
    return [{"function": call} for call in (calls if isinstance(calls, list) else [calls])]


def from_alpaca(line: Line) -> ExampleData:
    instruction, output = plain_text(line, "instruction", "output")
    further, history = take_text(line, "input"), line.pop("history", None) or []
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 for turn in history
    ):
        raise LineError("history: must be a list of pairs, a question and an answer")
    messages = [
        {"role": role, "content": text}
        for turn in history
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    question = f"{instruction}\n{further}" if further else instruction
    return conversation([*messages, *_turn(question, output)], line)


def from_dolly(line: Line) -> ExampleData:
    instruction, response = plain_text(line, "instruction", "response")
    context = take_text(line, "context")
    question = f"{instruction}\n\n{context}" if context else instruction
    return conversation(_turn(question, response), line)


def from_xlam(line: Line) -> ExampleData:
    (query,) = plain_text(line, "query")
    calls = _calls(line.pop("answers"), "answers")
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    return conversation([{"role": "user", "content": query}, answer], line)


def from_vertex(line: Line) -> ExampleData:
    contents = line.pop("contents")
    if not isinstance(contents, list) or not all(isinstance(turn, dict) for turn in contents):
        raise LineError("contents: must be a list of objects")
    messages = [
        message
        for number, turn in enumerate(contents, start=1)
        for message in _messages_of_contents(turn, f"contents: turn {number}")
    ]
    tools = line.get("tools")
    if isinstance(tools, list):
        line["tools"] = [function for tool in tools for function in _declared(tool)]
    system = line.get("systemInstruction")
    if isinstance(system, dict):
        line["systemInstruction"] = _parts(system.get("parts"), "systemInstruction")
    return conversation(messages, line)


def _messages_of_contents(turn: Line, where: str) -> list[Line]:
    """Return a turn of Vertex as a message, or the results of functions as one message each. Raise
    LineError."""
    parts = turn.get("parts")
    if not isinstance(parts, list):
        raise LineError(f"{where}: parts must be a list")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Line] = []
    results: list[Line] = []
    for part in parts:
        given = _filled(part) if isinstance(part, dict) else {}
        match given:
            case {} if isinstance(part, dict) and not given:
                continue
            case {"text": str(text), **rest} if not rest or rest == {"thought": False}:
                texts.append(text)
            case {"text": str(text), "thought": True, **rest} if not rest:
                thoughts.append(text)
            case {"functionCall": dict(call), **rest} if not rest:
                function = {"name": call.get("name"), "arguments": call.get("args")}
                calls.append({"id": call.get("id"), "function": function})
            case {"functionResponse": dict(result), **rest} if not rest:
                results.append(_result_of_function(result))
            case _:
                kinds = ", ".join(sorted(given))[:60] or json_kind(part)
                raise LineError(
                    f"{where}: has a part of {kinds}; only text, functionCall and functionResponse"
                    " can be learnt"
                )
    role = {"user": "user", "model": "assistant"}.get(str(turn.get("role")), turn.get("role"))
    if results:
        if texts or thoughts or calls or role == "assistant":
            raise LineError(f"{where}: a functionResponse stands beside something else")
        return results
    more = {"reasoning": "".join(thoughts), "tool_calls": calls}
    return [{"role": role, "content": "".join(texts)} | _filled(more)]


def _filled(fields: Line) -> Line:
    """Return the fields that are not empty, since tables fill up rows."""
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def _result_of_function(result: Line) -> Line:
    said = result.get("response")
    content = said if isinstance(said, str) else orjson.dumps(said).decode()
    message = {"name": result.get("name"), "tool_call_id": result.get("id")}
    return {"role": "tool", "content": content} | message


def _declared(tool: Any) -> list[Any]:
    """Return the functions that a tool of Vertex declares; another tool unchanged."""
    if isinstance(tool, dict) and isinstance(tool.get("functionDeclarations"), list):
        return list(tool["functionDeclarations"])
    return [tool]


def _parts(parts: Any, where: str) -> str:
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and set(part) == {"text"} and isinstance(part["text"], str)
        for part in parts
    ):
        raise LineError(f"{where}: only parts of text can be learnt")
    return "".join(part["text"] for part in parts)


def from_text(line: Line) -> ExampleData:
    """Return plain text as an example that is learnt unchanged: the assistant writes it without
    being asked."""
    (text,) = plain_text(line, "text")
    return kinds.conversation(
        messages=[{"role": "assistant", "content": text}], meta=line, plain_text=True
    )


def _turn(question: str, answer: str) -> list[Line]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def conversation(messages: Any, rest: Line) -> ExampleData:
    """Return a conversation with the system prompt and the tools that stand beside the messages;
    the other fields are kept in ``meta``. Raise LineError also where the last message ends in
    another number than an answer beside the messages."""
    messages, tools = with_surroundings(messages, rest)
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and isinstance(last.get("content"), str):
        check_beside(rest, "the last message", last["content"])
    return kinds.conversation(messages=messages, tools=tools, meta=rest, tagged=True)


def with_surroundings(messages: Any, rest: Line) -> tuple[Any, Any]:
    """Take the system prompt and the tools out of ``rest``: the messages with the one, and the
    others. Raise InvalidMessages, LineError."""
    for name in SYSTEM_FIELDS:
        if text := take_text(rest, name):
            if not isinstance(messages, list):
                break
            first = messages[0] if messages and isinstance(messages[0], dict) else {}
            if first.get("role") in ("system", "developer"):
                if first.get("content") == text:
                    continue
                raise InvalidMessages(f"there is a system prompt in {name} and in the messages")
            messages = [{"role": "system", "content": text}, *messages]
    found = [read_tools(rest.pop(name)) for name in TOOL_FIELDS if name in rest]
    filled = [tools for tools in found if tools]
    if len(filled) > 1:
        raise InvalidMessages("there are tools and functions; give one of them")
    return messages, filled[0] if filled else None
