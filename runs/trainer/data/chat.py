"""Chat templates: how a template lays out a conversation, and where in it each text lies.

A template is a program. To know which characters of its output are whose, it is run twice: on the
conversation, and on its skeleton, in which a placeholder stands for each text. The skeleton with
the texts put in must equal the rendered conversation: then every position is known, and nothing is
ever searched for. A conversation for which this cannot be done is refused by name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateSyntaxError

from runs.trainer.data.control_tokens import REASONING_TAGS, ControlTokens
from runs.trainer.data.conversation import (
    Conversation,
    Message,
    Messages,
    Tools,
    developer_as_system,
    is_composed,
    system_into_user,
)
from runs.trainer.data.skeleton import (
    FIRST,
    LAST,
    PLACEHOLDERS,
    Pieces,
    Skeleton,
    make_skeleton,
    pieces_of,
)
from runs.trainer.data.tools import (
    check_tools_shown,
    literals,
    strings,
    takes_arguments_as_text,
    with_arguments,
)
from runs.trainer.errors import DataError

Part = tuple[str, bool]  # a text, and whether the template wrote it

# see ``prompt_style`` in runs/spec/manifest.py
CONVERSATION, GENERATION = (
    "conversation",
    "generation",
)

_REMEMBERED = 2**22  # characters of templates, in all layouts that are kept


@dataclass(frozen=True, slots=True)
class Layout:
    """A row: the prompt, then what is learnt.

    Attributes:
        prompt, answer, end: what stands before the answer, the answer, and what the template writes
            after it.
        end_length: characters of ``end`` up to and including the token that ends the answer.
        end_added: whether that is the end token, because the template writes none.
        end_has_text: whether the template writes a text of its own before that token.
        rendered: the whole conversation as the template renders it.
        row_is_rendered: whether the row is the same; with ``prompt_style: generation`` it may not
            be.
        asked: what the template makes of the messages before the answer when it asks for one; empty
            where it refuses.
    """

    prompt: Pieces
    answer: Pieces
    end: Pieces
    end_length: int
    end_added: bool
    end_has_text: bool
    rendered: Pieces
    row_is_rendered: bool
    asked: Pieces

    @property
    def row(self) -> Pieces:
        return self.prompt + self.answer + self.end

    @property
    def before_answer(self) -> Pieces:
        """The rendered conversation up to its last text."""
        return self.rendered[
            : max(index for index, piece in enumerate(self.rendered) if isinstance(piece, int))
        ]

    @property
    def prompt_is_asked(self) -> bool:
        """Whether an answer stands after what the template writes when it asks for one."""
        return self.prompt == self.asked


@dataclass(slots=True)
class LaidOut:
    """A conversation in its layout.

    Attributes:
        messages: as the template is given them.
        rendered: the text that the template makes of them.
        system_moved: whether the system message was put before the first question.
        developer_moved: whether developers' messages are given as system messages.
    """

    layout: Layout
    texts: list[str]
    messages: Messages
    rendered: str
    system_moved: bool = False
    developer_moved: bool = False

    def parts(self, pieces: Pieces) -> list[Part]:
        """Return ``pieces`` with the texts put in, each part with whether the template wrote it."""
        return [
            (piece, True) if isinstance(piece, str) else (self.texts[piece], False)
            for piece in pieces
        ]


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, *, prompt_style: str, begin: str, name: str):
        """Take a template. ``begin`` is put before everything: the begin token, where the template
        is ours. ``name`` is what sentences call the template."""
        self._tokenizer = tokenizer
        self._style = prompt_style
        self._begin = begin
        self._name = name
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._remembered = 0
        source = str(tokenizer.chat_template)
        if PLACEHOLDERS.search(source):
            raise DataError(
                "the chat template contains characters of a private use area (U+F0000 and above);"
                " remove them"
            )
        self.control = ControlTokens(tokenizer, f"{source}\n{self._probe()}")
        self._system_refused = self._refuses_system()
        self._knows_developer = "developer" in source or any(
            "developer" in name for name in self.control.ids
        )

    def _probe(self) -> str:
        """Return what the template writes around texts: control tokens may be put together from
        parts (``'<|' + role + '|>'``)."""
        texts = []
        for roles in (("user", "assistant"), ("system", "user", "assistant", "user", "assistant")):
            messages = [{"role": role, "content": chr(FIRST)} for role in roles]
            for given, generation in ((messages, False), (messages[:-1], True)):
                try:
                    texts.append(self._render(given, None, generation=generation))
                except DataError:
                    continue  # the conversations themselves will tell
        return "\n".join(texts)

    def _refuses_system(self) -> bool:
        messages = [
            {"role": role, "content": f"{role} 7"} for role in ("system", "user", "assistant")
        ]
        try:
            self._lay_out(messages, None)
        except DataError:
            return True
        return False

    def lay_out(self, messages: Messages, tools: Tools | None = None) -> LaidOut:
        """Return where everything lies once ``messages`` are rendered; the last one is the answer.

        Raises:
            DataError: the template refuses the conversation, or does not show its texts as they
                are.
        """
        plain = True
        developer_moved = False
        for message in messages:
            if len(message) > 2:
                plain = False
            elif message["role"] == "developer" and not self._knows_developer:
                developer_moved = True
        if developer_moved:
            messages = developer_as_system(messages)
        system_moved = messages[0]["role"] == "system" and self._system_refused
        if system_moved:
            messages = system_into_user(messages)
        if not plain and any("tool_calls" in message for message in messages):
            messages = with_arguments(messages, as_text=self._takes_arguments_as_text)
        found = self._lay_out(messages, tools)
        found.system_moved, found.developer_moved = system_moved, developer_moved
        return found

    def lay_out_prompt(
        self, messages: Messages, tools: Tools | None = None, answer: Message | None = None
    ) -> LaidOut:
        """Return the same for messages that an answer is asked for. Of ``answer`` counts only
        whether it has reasoning and tool calls: otherwise it is the letter a."""
        if answer is None or not is_composed(answer):
            answer = {"role": "assistant", "content": "a"}
        found = self.lay_out([*messages, answer], tools)
        if found.layout.prompt_is_asked:
            asked = self._render(found.messages[:-1], tools, generation=True)
            self._compare(found, found.layout.asked, asked)
        return found

    def check_literal(self, conversation: Conversation) -> None:
        """Raise DataError if tools or tool calls, which the template writes, contain the name of a
        control token: it could not be told from the token."""
        for name, value in literals(conversation):
            for text in strings(value):
                if found := self.control.found(text) or PLACEHOLDERS.search(text):
                    raise DataError(
                        f"{name} contains {found[0]!r}, which cannot be told from a control token"
                        f" there, because {self._name} writes it; change it"
                    )

    @cached_property
    def _takes_arguments_as_text(self) -> bool:
        return takes_arguments_as_text(self._render_finished)

    def _lay_out(self, messages: Messages, tools: Tools | None) -> LaidOut:
        skeleton, texts = make_skeleton(messages, tools, self.control.tags)
        layout = self._layouts.get(skeleton.key)
        if layout is None:
            layout = self._remember(skeleton)
        rendered = self._render(messages, tools, generation=False)
        found = LaidOut(layout, texts, messages, rendered)
        if joined(found.parts(layout.rendered)) != rendered:
            # A template may write the time of day; and where it looks into other messages, it is
            # enough to know the answer.
            found = LaidOut(self._remember(skeleton), texts, messages, rendered)
            if joined(found.parts(found.layout.rendered)) != rendered:
                found = self._answer_alone(messages, tools, rendered)
        if self._style == GENERATION:
            self._compare(
                found, found.layout.asked, self._render(messages[:-1], tools, generation=True)
            )
        return found

    def _answer_alone(self, messages: Messages, tools: Tools | None, rendered: str) -> LaidOut:
        """Lay out with a placeholder for the answer only: no text of the other messages may contain
        a control token then."""
        for number, message in enumerate(messages[:-1], start=1):
            for text in (message["content"], message.get("reasoning_content", "")):
                if found := self.control.found(text) or PLACEHOLDERS.search(text):
                    raise DataError(
                        f"message {number} contains {found[0]!r}, and the chat template changes the"
                        " texts of this conversation, so that text and control tokens cannot be"
                        " told apart; change the message or the template"
                    )
        skeleton, texts = make_skeleton(messages, tools, self.control.tags, answer_alone=True)
        layout = self._find_layout(skeleton)
        laid_out = LaidOut(layout, texts, messages, rendered)
        self._compare(laid_out, layout.rendered, rendered)
        return laid_out

    @staticmethod
    def _compare(found: LaidOut, pieces: Pieces, rendered: str) -> None:
        if joined(found.parts(pieces)) != rendered:
            raise DataError(
                "the chat template changes the texts of the conversation, so that what is learnt"
                " would not be the answer; give the tokenizer a template that shows them as"
                " they are"
            )

    def _remember(self, skeleton: Skeleton) -> Layout:
        layout = self._find_layout(skeleton)
        size = sum(len(piece) if isinstance(piece, str) else 1 for piece in layout.rendered)
        if self._remembered + size > _REMEMBERED:
            self._layouts.clear()
            self._remembered = 0
        self._remembered += size
        self._layouts[skeleton.key] = layout
        return layout

    def _find_layout(self, skeleton: Skeleton) -> Layout:
        messages = skeleton.messages
        whole = self._render(messages, skeleton.tools, generation=False)
        self._check_shown(skeleton, whole)
        check_tools_shown(skeleton, whole, self._render_finished, template=self._name)
        try:
            asked = self._render(messages[:-1], skeleton.tools, generation=True)
        except DataError:
            asked = ""  # an example can be learnt from even where the template asks for nothing
        if is_composed(messages[-1]):
            return self._composed(skeleton, whole, asked)
        place = self._find_answer(messages[-1]["content"], whole)
        if self._style == GENERATION:
            return self._after_asked(skeleton, whole, asked, place)
        if place is None:
            raise DataError(
                "the chat template leaves a part of the answer out (templates of reasoning models"
                " drop what stands before </think>); set prompt_style to generation, or change the"
                " answer or the template"
            )
        start, end = place
        start = self._start_of_answer(whole, asked, start)
        return self._layout(whole[:start], whole[start:end], whole[end:], whole, asked)

    @staticmethod
    def _start_of_answer(whole: str, asked: str, start: int) -> int:
        """Return where an answer whose text is at ``start`` begins with ``prompt_style:
        conversation``."""
        if asked and whole.startswith(asked) and not whole[len(asked) : start].strip():
            return len(asked)  # what lies between is white space, which the model has to write
        return start

    def _composed(self, skeleton: Skeleton, whole: str, asked: str) -> Layout:
        """Return the layout of an answer with reasoning or tool calls: all that the template writes
        after what it writes before any answer, or when it asks for one."""
        before = self._beforejoined(skeleton, asked)
        if self._style == GENERATION:
            self._check_asks(skeleton, asked, before)
            before = None
        start = next(
            (
                len(text)
                for text in (before, asked or None)
                if text is not None and whole.startswith(text)
            ),
            None,
        )
        if start is None:
            raise DataError(
                f"{self._name} writes something else before message {len(skeleton.messages)}"
                " (assistant), which has reasoning or tool calls, than when it asks for an answer,"
                " so that it is not known where the answer begins; give the tokenizer another"
                " template"
            )
        found = self.control.last_end_in(whole[start:])
        end = start + found[0] if found else len(whole)
        return self._layout(whole[:start], whole[start:end], whole[end:], whole, asked)

    def _beforejoined(self, skeleton: Skeleton, asked: str) -> str | None:
        """Return what stands before the last answer if it is a text; None where the template
        refuses."""
        answer = {"role": "assistant", "content": chr(LAST)}
        try:
            whole = self._render(
                [*skeleton.messages[:-1], answer], skeleton.tools, generation=False
            )
        except DataError:
            return None
        place = whole.find(chr(LAST))
        return whole[: self._start_of_answer(whole, asked, place)] if place >= 0 else None

    def _check_asks(self, skeleton: Skeleton, asked: str, before: str | None) -> None:
        """Raise DataError if the template does not ask for the answer: what it writes ``before``
        one would be learnt with ``prompt_style: generation``."""
        if not asked:
            raise DataError(
                "the chat template does not ask for this answer; set prompt_style to conversation"
            )
        given = skeleton.messages[:-1]
        if before is None or asked != self._render(given, skeleton.tools, generation=False):
            return
        header = last_words(pieces_of(before)).removeprefix(last_words(pieces_of(asked)))
        if header.strip():
            raise DataError(
                f"the chat template ignores add_generation_prompt: {shown(header)} stands"
                " before an answer, and it would be learnt as a part of it; set prompt_style"
                " to conversation, or give the tokenizer another template"
            )

    def _after_asked(
        self, skeleton: Skeleton, whole: str, asked: str, place: tuple[int, int] | None
    ) -> Layout:
        """Return the layout with ``prompt_style: generation``: the answer stands after what the
        template writes when it asks for one."""
        self._check_asks(skeleton, asked, whole[: place[0]] if place else None)
        if place and whole[: place[0]].startswith(asked):
            return self._layout(
                asked, whole[len(asked) : place[1]], whole[place[1] :], whole, asked
            )
        answer = skeleton.messages[-1]["content"].strip()
        end = max(whole.rfind(text) for text in PLACEHOLDERS.findall(answer)) + 1
        if place:
            answer, end = whole[slice(*place)], place[1]
        return self._layout(asked, _without_repeated_tag(asked, answer), whole[end:], whole, asked)

    def _layout(self, prompt: str, answer: str, end: str, whole: str, asked: str) -> Layout:
        length = self.control.end_in(end)
        end_added = length is None
        if length is None:
            if not self._tokenizer.eos_token:
                raise DataError(
                    "the chat template ends an answer with no control token, and there is no end"
                    " token; define one"
                )
            end += self._tokenizer.eos_token
            length = len(end)
        if PLACEHOLDERS.search(end[:length]):
            raise DataError(
                "the chat template writes another message before it ends the answer; give the"
                " tokenizer another template"
            )
        return Layout(
            pieces_of(prompt),
            pieces_of(answer),
            pieces_of(end),
            length,
            end_added,
            bool(self.control.without_names(end[:length]).strip()),
            pieces_of(whole),
            prompt + answer + end == whole,
            pieces_of(asked),
        )

    def _check_shown(self, skeleton: Skeleton, whole: str) -> None:
        """Raise DataError if a text of the conversation is missing, or the answer is blank or not
        there exactly once."""
        counts = Counter(ord(placeholder) - FIRST for placeholder in PLACEHOLDERS.findall(whole))
        last = len(skeleton.messages) - 1
        answer = [number for number, owner in enumerate(skeleton.owners) if owner == last]
        composed = is_composed(skeleton.messages[last])
        if not answer and not composed:
            raise DataError("the assistant's answer is blank; there is nothing to learn")
        if skeleton.reasoning is not None and not counts[skeleton.reasoning]:
            raise DataError(
                f"{self._name} does not show the reasoning of message {last + 1} (assistant), given"
                " as reasoning_content; give the tokenizer a template for reasoning, or make the"
                " reasoning part of the answers (the recipe step inline_reasoning)"
            )
        if not all(counts[number] for number in (answer if composed else answer[-1:])):
            raise DataError(
                "the chat template leaves the assistant's answer out; give the tokenizer another"
                " template"
            )
        if any(counts[number] > 1 for number in answer):
            raise DataError(
                "the chat template writes the answer more than once; give the tokenizer another"
                " template"
            )
        for number in sorted(skeleton.required.difference(counts, answer)):
            position = skeleton.owners[number]
            role = skeleton.messages[position]["role"]
            raise DataError(
                f"the chat template leaves message {position + 1} ({role}) out; give the tokenizer"
                " another template"
            )

    def _find_answer(self, marked: str, whole: str) -> tuple[int, int] | None:
        """Return where the answer with all its tags lies; white space around tags may differ."""
        tokens = [
            part
            for segment in self.control.tags.split(marked)
            for part in PLACEHOLDERS.split(segment)
            if part.strip()
        ]
        found = re.search(r"\s*".join(re.escape(token.strip()) for token in tokens), whole)
        if found is None:
            return None
        start, end = found.span()
        before = marked[: len(marked) - len(marked.lstrip())]
        after = marked[len(marked.rstrip()) :]
        if whole[:start].endswith(before):
            start -= len(before)
        return start, end + len(after) if whole.startswith(after, end) else end

    def _render_finished(self, messages: Messages, tools: Tools | None) -> str:
        return self._render(messages, tools, generation=False)

    def _render(self, messages: Messages, tools: Tools | None, *, generation: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generation
            )
        except TemplateSyntaxError as error:
            raise DataError(
                f"the chat template is damaged: {error.message} (line {error.lineno}); correct the"
                " template"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # templates raise what they like
            raise DataError(
                f"the chat template refuses a conversation: {error}; correct the messages or the"
                " template"
            ) from error
        return self._begin + str(text)


def joined(parts: Iterable[Part]) -> str:
    return "".join(text for text, _ in parts)


def _without_repeated_tag(asked: str, answer: str) -> str:
    """Return the answer without the tag that the generation prompt has written already."""
    tag = REASONING_TAGS[0]
    if asked.rstrip().endswith(tag) and answer.lstrip().startswith(tag):
        return answer.lstrip().removeprefix(tag).lstrip()
    return answer


def shown(text: str) -> str:
    """Return template text as a sentence shows it."""
    return json.dumps(text, ensure_ascii=False)


def last_words(pieces: Sequence[str | int]) -> str:
    """Return what the template writes after the last text."""
    words = ""
    for piece in reversed(pieces):
        if isinstance(piece, int):
            break
        words = piece + words
    return words
