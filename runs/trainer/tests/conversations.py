"""Conversations with tools and reasoning, and a tokenizer of single bytes for the templates of
templates.py."""

import json
from pathlib import Path
from typing import Any

from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import parse_line
from runs.trainer.data.tokenizer import ChatTokenizer, Encoded
from runs.trainer.tests.helpers import byte_tokenizer, conversation_line

SPECIAL = [
    "<|turn|>", "<|call|>", "<|sep|>", "<|called|>", "[INST]", "[/INST]", "[TOOLS]", "[TOOL_CALLS]",
    "[RESULTS]",
]  # fmt: skip
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # tokens, not marked as special


def load(
    folder: Path, template: str | None, *, prompt_style: str = "conversation"
) -> ChatTokenizer:
    """A tokenizer of single bytes, so that every token is a letter or a control token."""
    tokenizer = byte_tokenizer(template, bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(TAGS)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return ChatTokenizer(folder, prompt_style=prompt_style)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def calls(name: str, content: str = "", **arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def result(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content}


def conversation(*messages: dict[str, Any], **line: Any) -> Conversation:
    """What the line of these messages is read as."""
    raw = json.dumps(conversation_line(*messages, **line)).encode()
    return parse_line(raw, 2, 0).conversation


def rows(tokenizer: Any, *messages: dict[str, Any], **line: Any) -> list[Encoded]:
    [found] = tokenizer.encode([conversation(*messages, **line)])
    return found


def check_row(tokenizer: ChatTokenizer, row: Encoded, expected: str) -> None:
    """Compare ids and mask with ``expected``, in which «…» is learnt, token by token."""
    ids: list[int] = []
    learnt: list[bool] = []
    for index, text in enumerate(
        piece for part in expected.split("«") for piece in part.split("»")
    ):
        found = tokenizer._tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found
        learnt += [index % 2 == 1] * len(found)
    mask = [any(start <= i < end for start, end in row.learnt) for i in range(len(row.ids))]
    named = tokenizer._tokenizer.convert_ids_to_tokens
    assert list(zip(named(row.ids), mask, strict=True)) == list(
        zip(named(ids), learnt, strict=True)
    )
