"""Conversations, as chat templates take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# ``role`` and ``content``; an assistant's message may have ``reasoning_content`` and
# ``tool_calls``, a tool's ``tool_call_id`` and ``name``. These are the names that templates read.
Message = dict[str, Any]
Messages = list[Message]
Tools = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the tools that the assistant may call, and what is learnt.

    Attributes:
        learnt: positions of the assistant's messages that are learnt, ascending; at least one.
    """

    messages: Messages
    learnt: tuple[int, ...]
    tools: Tools | None = None

    @classmethod
    def of_trace(cls, messages: Messages) -> Conversation:
        """Return a conversation of which the last message is learnt."""
        return cls(messages, (len(messages) - 1,))

    @property
    def last_answer(self) -> int:
        """Position of the last message that is learnt."""
        return self.learnt[-1]


def is_composed(message: Message) -> bool:
    """Return whether a template composes what the assistant says of more than its text."""
    return "reasoning_content" in message or "tool_calls" in message


def system_into_user(messages: Messages) -> Messages:
    """Return the messages with the system message put before the first question."""
    if not messages or messages[0]["role"] != "system":
        return messages
    first, *rest = messages
    position = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if position is None:
        return [{"role": "user", "content": first["content"]}, *rest]
    merged = {"role": "user", "content": f"{first['content']}\n\n{rest[position]['content']}"}
    return [*rest[:position], merged, *rest[position + 1 :]]


def developer_as_system(messages: Messages) -> Messages:
    """Return the messages with developers' as system messages; those that follow one another
    become one."""
    changed: Messages = []
    for message in messages:
        if message["role"] not in ("developer", "system"):
            changed.append(message)
        elif changed and changed[-1]["role"] == "system":
            together = f"{changed[-1]['content']}\n\n{message['content']}"
            changed[-1] = {"role": "system", "content": together}
        else:
            changed.append({"role": "system", "content": message["content"]})
    return changed
