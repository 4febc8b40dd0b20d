"""From the lines of our own exports back to the examples."""

from typing import Any

from datasets.examples import kinds
from datasets.examples.schema import ExampleData, json_kind
from datasets.formats.lines import Line, LineError
from datasets.formats.traces import make_trace, steps_of
from datasets.models import Kind


def from_tunix_sft(line: Line) -> ExampleData:
    """Return the example of an exported line. A line without a kind is a trace: its final answer is
    the end of the assistant's message, what stands before it are the steps."""
    del line["id"]
    kind, final_answer = line.pop("kind", Kind.TRACE.value), line.pop("final_answer")
    if final_answer is not None and not isinstance(final_answer, str):
        raise LineError(f"final_answer: must be text or null, not {json_kind(final_answer)}")
    if kind == Kind.CONVERSATION:
        _check_fields(line, "messages", "tools", "meta")
        return kinds.conversation(**line, final_answer=final_answer, plain_text=True)
    if kind != Kind.TRACE:
        raise LineError(f"kind: must be {Kind.CONVERSATION} in this format")
    _check_fields(line, "messages")
    messages = line["messages"]
    if not isinstance(messages, list) or [_role(message) for message in messages] != [
        "user",
        "assistant",
    ]:
        return _earlier_export(messages, final_answer)
    question, worked = (message.get("content") for message in messages)
    steps: list[str] = []
    if final_answer is not None:
        if not isinstance(worked, str) or not worked.endswith(f"\n{final_answer}"):
            raise LineError("final_answer: is not the end of the assistant's message")
        steps, worked = steps_of(worked[: -len(final_answer) - 1]), final_answer
    return make_trace(question, steps, worked, {})


def _earlier_export(messages: Any, final_answer: str | None) -> ExampleData:
    """Return the example of a line from before there were conversations, when only the last answer
    of one was learnt."""
    if isinstance(messages, list):
        messages = [
            message | {"weight": 0} if _role(message) == "assistant" else message
            for message in messages[:-1]
        ] + messages[-1:]
    return kinds.conversation(messages=messages, final_answer=final_answer)


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def from_tunix_preference(line: Line) -> ExampleData:
    _check_fields(line, "id", "kind", "prompt", "chosen", "rejected", "tools", "scores", "meta")
    del line["id"], line["kind"]
    return kinds.preference(**line)


def from_tunix_prompts(line: Line) -> ExampleData:
    _check_fields(line, "id", "kind", "messages", "final_answer", "tools", "meta")
    del line["id"], line["kind"]
    return kinds.prompt(**line)


def from_examples(line: Line) -> ExampleData:
    """Return the example of a line that holds it in full; tables fill such lines up with nulls."""
    filled = {name: value for name, value in line.items() if value is not None}
    return kinds.parse_example(filled, plain_text=True)


def _check_fields(line: Line, *known: str) -> None:
    if unknown := sorted(line.keys() - set(known)):
        raise LineError(f"{', '.join(unknown)[:100]}: an export of this system has no such field")
