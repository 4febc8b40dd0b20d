"""The kinds of examples beside the trace: what their content holds, and the lines that training
programs read.

``content`` is JSON text:

* conversation: ``{"messages", "tools"?}``. Every message of the assistant is learnt but those with
  ``weight: 0``.
* preference: ``{"prompt", "chosen", "rejected", "tools"?, "scores"?}``, three lists of messages;
  ``scores`` is ``{"chosen", "rejected"}``, numbers.
* prompt: ``{"messages", "tools"?}``, ending with a question; the reference answer is
  ``final_answer``.

Messages and tools have the form of datasets/examples/messages.py.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from datasets.examples.messages import (
    MAX_MESSAGES,
    MAX_TOOLS,
    ROLES,
    InvalidMessages,
    Message,
    Messages,
    Tools,
    is_learnt,
    read_messages,
    read_tools,
    reasoning_apart,
    texts_of,
)
from datasets.examples.schema import (
    MAX_META_DEPTH,
    TRACE_SCHEMA,
    ExampleData,
    HasContent,
    InvalidTrace,
    bounded_json,
    json_kind,
    meta_problem,
    parse_trace,
    text_problem,
    unknown_fields,
    value_problem,
)
from datasets.examples.words import composed
from datasets.models import TRACE_VERSION, Kind

MAX_SUMMARY = 1_000  # characters of a question that a list and a search by prefix see
_FIELDS: dict[str, tuple[str, ...]] = {
    Kind.CONVERSATION: ("messages", "tools", "final_answer", "meta"),
    Kind.PREFERENCE: ("prompt", "chosen", "rejected", "tools", "scores", "meta"),
    Kind.PROMPT: ("prompt", "tools", "final_answer", "meta"),
}

_TEXT = {"type": "string", "pattern": r"\S"}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_MESSAGES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "enum": list(ROLES)},
            "content": {"description": "Text, or a list of parts of text."},
            "reasoning": {"type": "string", "description": "Of an assistant."},
            "tool_calls": {"type": "array", "items": _OBJECT, "description": "Of an assistant."},
            "weight": {"enum": [0, 1], "description": "0: the answer is not to be learnt."},
            "tool_call_id": {"type": "string", "description": "Of a tool."},
            "name": {"type": "string", "description": "Of a tool."},
        },
    },
}
_TEXT_OR_MESSAGES = {"anyOf": [_TEXT, _MESSAGES]}
_SHARED = {
    "tools": {"type": "array", "items": _OBJECT, "maxItems": MAX_TOOLS},
    "meta": {"type": "object", "description": "Anything of yours."},
    "trace_version": {"type": "string", "enum": [TRACE_VERSION]},
}


def _schema(
    kind: Kind, description: str, required: list[str], properties: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "required": required,
        "properties": {"kind": {"type": "string", "enum": [kind.value]}, **properties, **_SHARED},
    }


# What parse_example takes, as JSON Schema.
EXAMPLE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        TRACE_SCHEMA,
        _schema(
            Kind.CONVERSATION,
            "A conversation, of which the answers are learnt.",
            ["messages"],
            {"messages": _MESSAGES, "final_answer": _TEXT},
        ),
        _schema(
            Kind.PREFERENCE,
            "Two answers to the same prompt.",
            ["prompt", "chosen", "rejected"],
            {
                **dict.fromkeys(("prompt", "chosen", "rejected"), _TEXT_OR_MESSAGES),
                "scores": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["chosen", "rejected"],
                    "properties": {"chosen": {"type": "number"}, "rejected": {"type": "number"}},
                },
            },
        ),
        _schema(
            Kind.PROMPT,
            "A question, with a reference answer or none.",
            ["kind", "prompt"],
            {"prompt": _TEXT_OR_MESSAGES, "final_answer": {"anyOf": [_TEXT, {"type": "null"}]}},
        ),
    ]
}


# --- Reading --------------------------------------------------------------------------------------


def parse_example(value: Any, kind: str | None = None, *, plain_text: bool = False) -> ExampleData:
    """Check one example of any kind, which its fields tell where neither ``kind`` nor a field of
    this name does. ``plain_text`` is that of ``conversation``. Raise InvalidTrace."""
    if not isinstance(value, Mapping):
        raise InvalidTrace({"trace": [f"Must be an object, not {json_kind(value)}."]})
    fields = {name: content for name, content in value.items() if name != "kind"}
    kind = value.get("kind", kind) or _kind_of(fields)
    if kind == Kind.TRACE:
        return parse_trace(fields)
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InvalidTrace({"kind": [f"Must be one of {', '.join(Kind.values)}."]})
    errors = unknown_fields(fields, (*_FIELDS[kind], "trace_version"))
    if fields.pop("trace_version", TRACE_VERSION) != TRACE_VERSION:
        errors["trace_version"] = [f'Must be "{TRACE_VERSION}".']
    for name in _FIELDS[kind][:1] if kind != Kind.PREFERENCE else ("prompt", "chosen", "rejected"):
        if name not in fields:
            errors[name] = ["This field is required."]
    if errors:
        raise InvalidTrace(errors)
    if kind == Kind.CONVERSATION:
        fields["plain_text"] = plain_text
    if kind == Kind.PROMPT:
        fields["messages"] = as_messages(fields.pop("prompt"), "user")
    if kind == Kind.PREFERENCE:
        for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
            fields[name] = as_messages(fields[name], role)
    builders: dict[str, Callable[..., ExampleData]] = {
        Kind.CONVERSATION.value: conversation,
        Kind.PREFERENCE.value: preference,
        Kind.PROMPT.value: prompt,
    }
    try:
        return builders[kind](**fields)
    except InvalidMessages as error:
        raise InvalidTrace({"messages": [f"{error}."]}) from error


def _kind_of(fields: Mapping[str, Any]) -> str:
    if "messages" in fields:
        return Kind.CONVERSATION
    if "chosen" in fields or "rejected" in fields:
        return Kind.PREFERENCE
    return Kind.TRACE


def as_messages(value: Any, role: str) -> Any:
    """Return a text as the one message that it stands for; everything else unchanged."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def conversation(
    *,
    messages: Any,
    tools: Any = None,
    final_answer: str | None = None,
    meta: dict[str, Any] | None = None,
    plain_text: bool = False,
    tagged: bool = False,
) -> ExampleData:
    """Return a conversation with something to learn.

    Args:
        final_answer: what exact match looks for in the last line of the last answer.
        plain_text: the assistant may write without being asked.
        tagged: that of ``read_messages``.

    Raise InvalidMessages, InvalidTrace.
    """
    read = read_messages(messages, tagged=tagged)
    if read[-1]["role"] != "assistant":
        raise InvalidMessages("the last message must be the assistant's")
    if not any(is_learnt(message) for message in read):
        raise InvalidMessages("every answer has weight 0; there is nothing to learn")
    questions = [message["content"] for message in read if message["role"] == "user"]
    if not questions and not plain_text:
        raise InvalidMessages("there is no message of the user")
    return _example(
        Kind.CONVERSATION,
        {"messages": read} | _tools(tools),
        summary=questions[0] if questions else read[-1]["content"],
        final_answer=final_answer,
        meta=meta,
    )


def preference(
    *,
    prompt: Any,
    chosen: Any,
    rejected: Any,
    tools: Any = None,
    scores: Any = None,
    meta: dict[str, Any] | None = None,
    tagged: bool = False,
) -> ExampleData:
    """Return a pair of answers to the same prompt; ``tagged`` is that of ``read_messages``. Raise
    InvalidMessages, InvalidTrace."""
    sides = {
        "prompt": _question(prompt, tagged=tagged),
        "chosen": _answer(chosen, "chosen", tagged=tagged),
        "rejected": _answer(rejected, "rejected", tagged=tagged),
    }
    if sides["chosen"] == sides["rejected"]:
        raise InvalidMessages("chosen and rejected are the same; there is nothing to prefer")
    content: dict[str, Any] = sides | _tools(tools)
    if scores is not None:
        if (
            not isinstance(scores, dict)
            or set(scores) != {"chosen", "rejected"}
            or any(type(score) not in (int, float) for score in scores.values())
        ):
            raise InvalidMessages("scores must be numbers for chosen and rejected")
        content["scores"] = {side: scores[side] for side in ("chosen", "rejected")}
    return _example(
        Kind.PREFERENCE, content, summary=_summary(sides["prompt"]), final_answer=None, meta=meta
    )


def prompt(
    *,
    messages: Any,
    tools: Any = None,
    final_answer: str | None = None,
    meta: dict[str, Any] | None = None,
    tagged: bool = False,
) -> ExampleData:
    """Return a question, with its reference answer where there is one; ``tagged`` is that of
    ``read_messages``. Raise InvalidMessages, InvalidTrace."""
    read = _question(messages, tagged=tagged)
    return _example(
        Kind.PROMPT,
        {"messages": read} | _tools(tools),
        summary=_summary(read),
        final_answer=final_answer,
        meta=meta,
    )


def _question(value: Any, *, tagged: bool) -> Messages:
    read = read_messages(value, tagged=tagged)
    if read[-1]["role"] not in ("user", "tool"):
        raise InvalidMessages("a prompt must end with a message of the user")
    return read


def _answer(value: Any, name: str, *, tagged: bool) -> Messages:
    try:
        read = read_messages(value, tagged=tagged)
    except InvalidMessages as error:
        raise InvalidMessages(f"{name}: {error}") from error
    if read[-1]["role"] != "assistant":
        raise InvalidMessages(f"{name}: the last message must be the assistant's")
    return read


def _tools(value: Any) -> dict[str, Tools]:
    tools = read_tools(value)
    return {"tools": tools} if tools else {}


def _summary(messages: Messages) -> str:
    return next(
        (message["content"] for message in messages if message["role"] == "user"),
        messages[0]["content"],
    )


def _example(
    kind: Kind,
    content: dict[str, Any],
    *,
    summary: str,
    final_answer: str | None,
    meta: dict[str, Any] | None,
) -> ExampleData:
    errors = {}
    if problem := value_problem(content, MAX_META_DEPTH + 4):
        errors["messages"] = [problem]
    if final_answer is not None and (problem := text_problem(final_answer, required=True)):
        errors["final_answer"] = [problem]
    meta = {} if meta is None else meta
    if problem := meta_problem(meta):
        errors["meta"] = [problem]
    if errors:
        raise InvalidTrace(errors)
    text = bounded_json(content).decode()
    canonical = bounded_json(
        [kind.value, text, final_answer or None, meta], option=orjson.OPT_SORT_KEYS
    )
    return ExampleData(
        prompt=summary[:MAX_SUMMARY],
        steps=[],
        final_answer=final_answer or "",
        meta=meta,
        trace_version=TRACE_VERSION,
        content_hash=hashlib.sha256(canonical).hexdigest(),
        size=len(canonical),
        kind=kind.value,
        content=text,
    )


# --- Showing --------------------------------------------------------------------------------------


_ERASED_CONTENT: dict[Kind, dict[str, Any]] = {
    Kind.CONVERSATION: {"messages": []},
    Kind.PREFERENCE: {"prompt": [], "chosen": [], "rejected": []},
    Kind.PROMPT: {"messages": []},
}


def content_of(example: HasContent) -> dict[str, Any]:
    """Return the content of an example of any kind; a trace as the conversation that is learnt from
    it."""
    if example.kind != Kind.TRACE:
        if not example.content:  # erased
            return dict(_ERASED_CONTENT[Kind(example.kind)])
        return orjson.loads(example.content)
    return {
        "messages": [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": answer_text(example)},
        ]
    }


def text_hash(example: HasContent) -> str:
    """Return a SHA-256 of what is said in an example, hexadecimal: equal for examples that say the
    same, whatever their kind, tools, weights and ``meta``, the form of Unicode, and whether
    reasoning stands in the answer or apart from it. By it an erased example is known again."""
    content = content_of(example)
    said = [
        [part, message["role"], *_said(message)]
        for part in ("prompt", "messages", "chosen", "rejected")
        for message in content.get(part, ())
    ]
    if example.kind == Kind.PROMPT:
        said.append([composed(example.final_answer)])
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


def _said(message: Message) -> Iterator[str]:
    reasoning, text = message.get("reasoning", ""), message["content"]
    if message["role"] == "assistant":
        if not reasoning:
            with suppress(InvalidMessages):  # tags that do not belong together are text
                reasoning, text = reasoning_apart(text)
        text = text.strip()
    yield composed(text)
    yield composed(reasoning.strip())
    for call in message.get("tool_calls", ()):  # not its id, which is drawn
        function = orjson.dumps(call["function"], option=orjson.OPT_SORT_KEYS)
        yield composed(function.decode())


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message on a page. ``calls``: ``name(arguments)`` of each tool call."""

    role: str
    content: str
    reasoning: str
    calls: list[str]
    learnt: bool


@dataclass(frozen=True, slots=True)
class Part:
    """Messages that belong together on a page: of a pair the prompt and each side."""

    title: str
    messages: list[ShownMessage]


def _shown(messages: Messages, *, learnt: bool = True) -> list[ShownMessage]:
    return [
        ShownMessage(
            role=message["role"],
            content=message["content"],
            reasoning=message.get("reasoning", ""),
            calls=[
                f"{call['function']['name']}({orjson.dumps(call['function']['arguments']).decode()})"
                for call in message.get("tool_calls", ())
            ],
            learnt=learnt and is_learnt(message),
        )
        for message in messages
    ]


def parts_of(example: HasContent) -> list[Part]:
    """Return what a page shows of an example."""
    content = content_of(example)
    if example.kind == Kind.PREFERENCE:
        return [
            Part("Prompt", _shown(content["prompt"], learnt=False)),
            Part("Chosen", _shown(content["chosen"])),
            Part("Rejected", _shown(content["rejected"])),
        ]
    parts = [Part("", _shown(content["messages"]))]
    if example.kind == Kind.PROMPT and example.final_answer:
        reference = {"role": "reference answer", "content": example.final_answer}
        parts.append(Part("", _shown([reference])))
    return parts


def answer_text(trace: HasContent) -> str:
    """Return what the model is to write for a trace: the steps and the final answer, a line
    each."""
    return "\n".join([*(step["content"] for step in trace.steps), trace.final_answer])


class Outline(NamedTuple):
    """What statistics know of an example.

    Attributes:
        given: the texts that are given.
        learnt: the texts that are to be learnt: of a pair both answers, of a prompt its reference
            answer.
        roles: who speaks, message by message; of a pair as with the chosen answer.
        tools, reasoning: whether it has any, which not every template can write.
    """

    given: list[str]
    learnt: list[str]
    roles: list[str]
    tools: bool = False
    reasoning: bool = False


_ROLES_OF_TRACE = ["user", "assistant"]


def outline_of(example: HasContent) -> Outline:
    if example.kind == Kind.TRACE:
        return Outline([example.prompt], [answer_text(example)], _ROLES_OF_TRACE)
    content = content_of(example)
    if example.kind == Kind.PREFERENCE:
        messages = [*content["prompt"], *content["chosen"]]
        given = content["prompt"]
        answers = [*content["chosen"], *content["rejected"]]
    else:
        messages = given = content["messages"]
        answers = []
    if example.kind == Kind.CONVERSATION:
        answers = [message for message in messages if is_learnt(message)]
        given = [message for message in messages if not is_learnt(message)]
    learnt = [example.final_answer] if example.kind == Kind.PROMPT else _all_texts(answers)
    every = [*messages, *answers]
    return Outline(
        _all_texts(given),
        learnt,
        [message["role"] for message in messages],
        tools="tools" in content
        or any(message["role"] == "tool" or "tool_calls" in message for message in every),
        reasoning=any("reasoning" in message for message in every),
    )


def texts_of_example(example: HasContent) -> tuple[list[str], list[str]]:
    """Return the texts that are given, and those that are to be learnt."""
    outline = outline_of(example)
    return outline.given, outline.learnt


def _all_texts(messages: Messages) -> list[str]:
    return [text for message in messages for text in texts_of(message)]


def has_final_answer(example: HasContent) -> bool:
    """Return whether exact match has something to look for: the final answer of a trace without
    steps is free text."""
    return bool(example.steps if example.kind == Kind.TRACE else example.final_answer)


def training_line(example_id: Any, example: HasContent, split: str) -> bytes:
    """Return one line of the example's training format (TRAINING_FORMATS)."""
    line: dict[str, Any] = {"id": str(example_id)}
    if example.kind != Kind.TRACE:
        line["kind"] = str(example.kind)
    line |= content_of(example)
    if example.kind != Kind.PREFERENCE:
        line["final_answer"] = example.final_answer if has_final_answer(example) else None
    if example.kind != Kind.TRACE and example.meta:
        line["meta"] = example.meta
    line["split"] = str(split)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def example_line(example: HasContent, split: str) -> bytes:
    """Return one line with all fields of an example, as ``parse_example`` takes them, and its
    part."""
    line: dict[str, Any] = {"kind": str(example.kind)}
    if example.kind == Kind.TRACE:
        line |= {"prompt": example.prompt, "steps": example.steps}
    else:
        content = content_of(example)
        if example.kind == Kind.PROMPT:
            content = {"prompt": content.pop("messages")} | content
        line |= content
    if example.final_answer:
        line["final_answer"] = example.final_answer
    line |= {"meta": example.meta, "split": str(split)}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
