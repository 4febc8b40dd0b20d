"""Which rows a conversation becomes, and which characters of them are learnt.

Each answer is learnt in the context in which it would be generated: in what the template makes of
the messages up to it. Where that is the beginning of what the template makes of more messages,
answers share a row. Where a template changes earlier turns (those of reasoning models drop earlier
reasoning), they have rows of their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate

from runs.trainer.data.chat import ChatTemplate, LaidOut, Part, joined
from runs.trainer.data.conversation import Conversation, Message
from runs.trainer.errors import DataError

# The template renders the messages up to each answer: so many characters in all, of which each
# message counts as at least MESSAGE. All rows of one conversation together have at most MOST_TEXT.
MOST_RENDERED, MESSAGE = 2**26, 128
MOST_TEXT = 2**23


@dataclass(slots=True)
class TokenRow:
    """Text about to become tokens.

    Attributes:
        parts: what the template wrote and what people wrote, in order.
        text: the parts joined.
        spans: the characters of the text that are learnt, each ``(start, end)``: an answer
            and the token that ends it.
        found: the conversation up to the last of these answers.
        end_has_text: whether the template writes a text of its own after one of the answers,
            before the token that ends it.
    """

    parts: list[Part]
    text: str
    spans: list[tuple[int, int]]
    found: LaidOut
    end_has_text: bool = False

    @classmethod
    def of(cls, found: LaidOut) -> TokenRow:
        """Return the row of the last message of ``found``."""
        layout = found.layout
        prompt, answer = found.parts(layout.prompt), found.parts(layout.answer)
        start = _length(prompt)
        end = start + _length(answer) + layout.end_length
        parts = [*prompt, *answer, *found.parts(layout.end)]
        text = found.rendered if layout.row_is_rendered else joined(parts)
        return cls(parts, text, [(start, end)], found, layout.end_has_text)

    def begins(self, longer: TokenRow) -> bool:
        """Return whether all that is learnt here stands in ``longer`` after the same text."""
        return longer.text.startswith(self.text[: self.spans[-1][1]])


def make_rows(template: ChatTemplate, conversation: Conversation) -> list[TokenRow]:
    """Return the rows of a conversation; together they hold every answer that is learnt, once.

    Raises:
        DataError: the template cannot write the conversation, or it is too long.
    """
    messages, tools, learnt = conversation.messages, conversation.tools, conversation.learnt
    template.check_literal(conversation)
    _check_work(conversation)
    rows: list[TokenRow] = []
    left = MOST_TEXT
    for position in learnt:
        row = TokenRow.of(template.lay_out(messages[: position + 1], tools))
        if rows and rows[-1].begins(row):
            row.spans = [*rows[-1].spans, *row.spans]
            row.end_has_text |= rows[-1].end_has_text
            left += len(rows.pop().text)
        left -= len(row.text)
        if left < 0 and rows:
            raise DataError(
                "the chat template changes earlier messages, so that answers cannot share a row,"
                f" and the rows of this conversation have more than {MOST_TEXT:,} characters; split"
                " it, or give messages the weight 0"
            )
        rows.append(row)
    return rows


def _check_work(conversation: Conversation) -> None:
    if len(conversation.learnt) == 1:
        return
    tools = len(json.dumps(conversation.tools)) if conversation.tools else 0
    up_to = list(accumulate(map(_size, conversation.messages), initial=tools))
    if sum(up_to[position + 1] for position in conversation.learnt) > MOST_RENDERED:
        raise DataError(
            f"the conversation is too long to learn {len(conversation.learnt):,} answers of it:"
            f" what stands before and in them has more than {MOST_RENDERED:,} characters in all (a"
            f" message counts as at least {MESSAGE}); split it, or give messages the weight 0"
        )


def _size(message: Message) -> int:
    size = len(message["content"]) + len(message.get("reasoning_content", ""))
    if "tool_calls" in message:
        size += len(json.dumps(message["tool_calls"]))
    return max(size, MESSAGE)


def _length(parts: list[Part]) -> int:
    return sum(len(text) for text, _ in parts)
