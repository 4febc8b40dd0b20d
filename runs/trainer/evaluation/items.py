"""What an evaluation asks: the examples of a set, each with the prompt and what is expected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.trainer.data.conversation import Message, Messages, Tools
from runs.trainer.data.dataset import PROMPTS, Example, read_examples, read_prompts
from runs.trainer.errors import DataError


@dataclass(frozen=True)
class Question:
    """An example of the set.

    ``answer``: the message that is expected, where the set has one: before an answer with reasoning
    or tool calls a template may write something else. ``hash``: of what is asked and expected,
    with the columns, which may hold choices; items of two evaluations are paired by it.
    """

    id: str
    hash: str
    messages: Messages
    tools: Tools | None
    reference: str | None
    answer: Message | None = None
    columns: dict[str, Any] = field(default_factory=dict)


def read_questions(
    path: Path, *, format: str, part: str, limit: int | None, system_prompt: str | None
) -> list[Question]:
    """Return the questions of a set in the order of their hashes: so the first so many are the same
    ones always.

    Args:
        part: ``auto``, ``held_out`` or ``all``.
        system_prompt: stands in place of the system message of each; None: as it is.

    Raises:
        DataError: bad lines, or nothing to ask.
    """
    found = list(_prompts(path) if format == PROMPTS else _conversations(path))
    held_out = [question for is_held_out, question in found if is_held_out]
    if part == "held_out" and not held_out:
        raise DataError(f"{path.name} has no held-out part; ask for part: all")
    asked = held_out if part == "held_out" or (part == "auto" and held_out) else None
    questions = [question for _, question in found] if asked is None else asked
    unique = {question.hash: question for question in questions}
    if system_prompt is not None:
        unique = {key: _with_system(one, system_prompt) for key, one in unique.items()}
    return [unique[key] for key in sorted(unique)][:limit]


def _conversations(path: Path) -> Iterator[tuple[bool, Question]]:
    for example in read_examples(path):
        yield example.held_out, _of_conversation(example)


def _of_conversation(example: Example) -> Question:
    conversation = example.conversation
    last = conversation.last_answer
    answer = conversation.messages[last]
    reference = example.final_answer or answer["content"] or None
    messages, tools = conversation.messages[:last], conversation.tools
    if not messages:
        raise DataError(f"line {example.line}: nothing is said before the answer")
    key = _hash(messages, tools, reference, {})
    return Question(example.id, key, messages, tools, reference, answer)


def _prompts(path: Path) -> Iterator[tuple[bool, Question]]:
    for prompt in read_prompts(path):
        key = _hash(prompt.messages, prompt.tools, prompt.final_answer, prompt.meta)
        yield (
            prompt.held_out,
            Question(
                prompt.id,
                key,
                prompt.messages,
                prompt.tools,
                prompt.final_answer,
                None,
                prompt.meta,
            ),
        )


def _hash(
    messages: Messages, tools: Tools | None, reference: str | None, columns: dict[str, Any]
) -> str:
    text = json.dumps([messages, tools, reference, columns], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _with_system(question: Question, text: str) -> Question:
    """Return the question with another system message; its hash stays, since it is the same
    question."""
    rest = [one for one in question.messages if one["role"] not in ("system", "developer")]
    return Question(
        question.id,
        question.hash,
        [{"role": "system", "content": text}, *rest],
        question.tools,
        question.reference,
        question.answer,
        question.columns,
    )
