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
from typing import Any

from runs.trainer.data.control_tokens import REASONING_TAGS, ControlTokens
from runs.trainer.errors import DataError

Messages = list[dict[str, str]]
Part = tuple[str, bool]  # a text, and whether the template wrote it
Pieces = tuple[str | int, ...]  # what the template writes, and numbers of texts

# see ``prompt_style`` in runs/spec/manifest.py
CONVERSATION, GENERATION = (
    "conversation",
    "generation",
)

# One character a text, of the private use area of plane 15; whatever the texts hold, skeletons hold
# only placeholders.
_FIRST, _LAST = 0xF0000, 0xFFFFD
_PLACEHOLDERS = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A conversation without its texts.

    ``marked`` are the messages with placeholders. ``owners`` holds the message of each text,
    ``required`` the numbers of those that the template must show.
    """

    marked: tuple[tuple[str, str], ...]
    owners: tuple[int, ...]
    required: frozenset[int]

    @property
    def messages(self) -> Messages:
        return [{"role": role, "content": content} for role, content in self.marked]


@dataclass(frozen=True, slots=True)
class Layout:
    """A row: the prompt, then what is learnt.

    Attributes:
        prompt, answer, end: what stands before the answer, the answer, and what the template writes
            after it.
        end_length: characters of ``end`` up to and including the token that ends the answer.
        end_added: whether that is the end token, because the template writes none.
        rendered: the whole conversation as the template renders it; differs from the row with
            ``prompt_style: generation``.
        asked: what the template makes of the messages before the answer when it asks for one; empty
            where it refuses.
    """

    prompt: Pieces
    answer: Pieces
    end: Pieces
    end_length: int
    end_added: bool
    rendered: Pieces
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


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A conversation in its layout. ``system_moved``: its system message was put before the first
    question."""

    layout: Layout
    texts: list[str]
    owners: tuple[int, ...]
    system_moved: bool

    def parts(self, pieces: Pieces) -> list[Part]:
        """``pieces`` with the texts put in, each part with whether the template wrote it."""
        return [
            (piece, True) if isinstance(piece, str) else (self.texts[piece], False)
            for piece in pieces
        ]


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, *, prompt_style: str, begin: str):
        """``begin`` is put before everything: the begin token, where the template is ours."""
        self._tokenizer = tokenizer
        self._style = prompt_style
        self._begin = begin
        self._layouts: dict[tuple[tuple[str, str], ...], Layout] = {}
        source = str(tokenizer.chat_template)
        if _PLACEHOLDERS.search(source):
            raise DataError(
                "the chat template contains characters of a private use area (U+F0000 and above);"
                " remove them"
            )
        self.control = ControlTokens(tokenizer, f"{source}\n{self._probe()}")
        self._system_refused = self._refuses_system()

    def _probe(self) -> str:
        """What the template writes around texts: control tokens may be put together from parts
        (``'<|' + role + '|>'``)."""
        texts = []
        for roles in (("user", "assistant"), ("system", "user", "assistant", "user", "assistant")):
            messages = [{"role": role, "content": chr(_FIRST)} for role in roles]
            for given, generation in ((messages, False), (messages[:-1], True)):
                try:
                    texts.append(self._render(given, generation=generation))
                except DataError:
                    continue  # the conversations themselves will tell
        return "\n".join(texts)

    def _refuses_system(self) -> bool:
        messages = [
            {"role": role, "content": f"{role} 7"} for role in ("system", "user", "assistant")
        ]
        try:
            self._lay_out(messages, moved=False)
        except DataError:
            return True
        return False

    def lay_out(self, messages: Messages) -> LaidOut:
        """Where everything lies once ``messages`` are rendered; the last one is the answer.

        Raises:
            DataError: the template refuses the conversation, or does not show its texts as they
                are.
        """
        if messages[0]["role"] == "system" and self._system_refused:
            return self._lay_out(system_into_user(messages), moved=True)
        return self._lay_out(messages, moved=False)

    def lay_out_prompt(self, messages: Messages) -> LaidOut:
        """The same for messages that an answer is asked for; the answer is the letter a."""
        found = self.lay_out([*messages, {"role": "assistant", "content": "a"}])
        if found.layout.prompt_is_asked:
            given = system_into_user(messages) if found.system_moved else messages
            self._compare(found, found.layout.asked, self._render(given, generation=True))
        return found

    def _lay_out(self, messages: Messages, *, moved: bool) -> LaidOut:
        skeleton, texts = self._skeleton(messages)
        layout = self._layouts.get(skeleton.marked)
        if layout is None:
            layout = self._remember(skeleton)
        found = LaidOut(layout, texts, skeleton.owners, moved)
        rendered = self._render(messages, generation=False)
        if _text(found.parts(layout.rendered)) != rendered:
            # A template may write the time of day; and where it looks into other messages, it is
            # enough to know the answer.
            found = LaidOut(self._remember(skeleton), texts, skeleton.owners, moved)
            if _text(found.parts(found.layout.rendered)) != rendered:
                found = self._answer_alone(messages, rendered, moved)
        if self._style == GENERATION:
            self._compare(found, found.layout.asked, self._render(messages[:-1], generation=True))
        return found

    def _answer_alone(self, messages: Messages, rendered: str, moved: bool) -> LaidOut:
        """Lay out with a placeholder for the answer only: no text of the other messages may contain
        a control token then."""
        for number, message in enumerate(messages[:-1], start=1):
            found = self.control.found(message["content"]) or _PLACEHOLDERS.search(
                message["content"]
            )
            if found:
                raise DataError(
                    f"message {number} contains {found[0]!r}, and the chat template changes the"
                    " texts of this conversation, so that text and control tokens cannot be told"
                    " apart; change the message or the template"
                )
        skeleton, texts = self._skeleton(messages, answer_alone=True)
        layout = self._find_layout(skeleton)
        laid_out = LaidOut(layout, texts, skeleton.owners, moved)
        self._compare(laid_out, layout.rendered, rendered)
        return laid_out

    @staticmethod
    def _compare(found: LaidOut, pieces: Pieces, rendered: str) -> None:
        if _text(found.parts(pieces)) != rendered:
            raise DataError(
                "the chat template changes the texts of the conversation, so that what is learnt"
                " would not be the answer; give the tokenizer a template that shows them as"
                " they are"
            )

    def _remember(self, skeleton: Skeleton) -> Layout:
        if len(self._layouts) >= _REMEMBERED:
            self._layouts.clear()
        layout = self._layouts[skeleton.marked] = self._find_layout(skeleton)
        return layout

    def _skeleton(
        self, messages: Messages, *, answer_alone: bool = False
    ) -> tuple[Skeleton, list[str]]:
        """The skeleton and its texts. White space around a text stays, so that a template trims
        both alike; so do the tags of an assistant's message, which templates look for."""
        marked: list[tuple[str, str]] = []
        texts: list[str] = []
        owners: list[int] = []
        required: set[int] = set()
        last = len(messages) - 1
        for position, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if answer_alone and position < last:
                marked.append((role, content))
                continue
            segments = [content]
            if role == "assistant" and "<" in content:
                segments = self.control.tags.split(content)
                if not any(segment.strip() for segment in segments[::2]):
                    segments = [content]
            out = []
            numbers: list[int] = []
            for index, segment in enumerate(segments):
                text = segment.strip()
                if index % 2 or not text:
                    if segment == REASONING_TAGS[1] and position < last:
                        # templates leave the reasoning of earlier turns out, on purpose
                        numbers.clear()
                    out.append(segment)
                    continue
                if len(texts) > _LAST - _FIRST:
                    raise DataError(
                        f"the conversation has more than {_LAST - _FIRST:,} texts; split it"
                    )
                before = segment[: len(segment) - len(segment.lstrip())]
                out += before, chr(_FIRST + len(texts)), segment[len(before) + len(text) :]
                numbers.append(len(texts))
                texts.append(text)
                owners.append(position)
            required.update(numbers)
            marked.append((role, "".join(out)))
        return Skeleton(tuple(marked), tuple(owners), frozenset(required)), texts

    def _find_layout(self, skeleton: Skeleton) -> Layout:
        messages = skeleton.messages
        whole = self._render(messages, generation=False)
        self._check_shown(skeleton, whole)
        try:
            asked = self._render(messages[:-1], generation=True)
        except DataError:
            asked = ""  # an example can be learnt from even where the template asks for nothing
        place = self._find_answer(messages[-1]["content"], whole)
        if self._style == GENERATION:
            return self._after_asked(messages, whole, asked, place)
        if place is None:
            raise DataError(
                "the chat template leaves a part of the answer out (templates of reasoning models"
                " drop what stands before </think>); set prompt_style to generation, or change the"
                " answer or the template"
            )
        start, end = place
        if asked and whole.startswith(asked) and not whole[len(asked) : start].strip():
            start = len(asked)  # what lies between is white space, which the model has to write
        return self._layout(whole[:start], whole[start:end], whole[end:], whole, asked)

    def _after_asked(
        self, messages: Messages, whole: str, asked: str, place: tuple[int, int] | None
    ) -> Layout:
        """The layout with ``prompt_style: generation``: the answer stands after what the template
        writes when it asks for one."""
        if not asked:
            raise DataError(
                "the chat template does not ask for this answer; set prompt_style to conversation"
            )
        if place and asked == self._render(messages[:-1], generation=False):
            before = last_words(_pieces(whole[: place[0]])).removeprefix(last_words(_pieces(asked)))
            if before.strip():
                raise DataError(
                    f"the chat template ignores add_generation_prompt: {shown(before)} stands"
                    " before an answer, and it would be learnt as a part of it; set prompt_style"
                    " to conversation, or give the tokenizer another template"
                )
        if place and whole[: place[0]].startswith(asked):
            return self._layout(
                asked, whole[len(asked) : place[1]], whole[place[1] :], whole, asked
            )
        answer = messages[-1]["content"].strip()
        end = max(whole.rfind(text) for text in _PLACEHOLDERS.findall(answer)) + 1
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
        if _PLACEHOLDERS.search(end[:length]):
            raise DataError(
                "the chat template writes another message before it ends the answer; give the"
                " tokenizer another template"
            )
        return Layout(
            _pieces(prompt),
            _pieces(answer),
            _pieces(end),
            length,
            end_added,
            _pieces(whole),
            _pieces(asked),
        )

    def _check_shown(self, skeleton: Skeleton, whole: str) -> None:
        """Raise DataError if a text of the conversation is missing, or the answer is blank or not
        there exactly once."""
        counts = Counter(ord(placeholder) - _FIRST for placeholder in _PLACEHOLDERS.findall(whole))
        last = len(skeleton.marked) - 1
        answer = [number for number, owner in enumerate(skeleton.owners) if owner == last]
        if not answer:
            raise DataError("the assistant's answer is blank; there is nothing to learn")
        if not counts[answer[-1]]:
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
            role = skeleton.marked[position][0]
            raise DataError(
                f"the chat template leaves message {position + 1} ({role}) out; give the tokenizer"
                " another template"
            )

    def _find_answer(self, marked: str, whole: str) -> tuple[int, int] | None:
        """Where the answer with all its tags lies; white space around tags may differ."""
        tokens = [
            part
            for segment in self.control.tags.split(marked)
            for part in _PLACEHOLDERS.split(segment)
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

    def _render(self, messages: Messages, *, generation: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation
            )
        except Exception as error:  # templates raise what they like
            raise DataError(
                f"the chat template refuses a conversation: {error}; correct the messages or the"
                " template"
            ) from error
        return self._begin + str(text)


def _pieces(text: str) -> Pieces:
    parts = _PLACEHOLDERS.split(text)
    return tuple(
        ord(part) - _FIRST if index % 2 else part for index, part in enumerate(parts) if part
    )


def _text(parts: Iterable[Part]) -> str:
    return "".join(text for text, _ in parts)


def _without_repeated_tag(asked: str, answer: str) -> str:
    """The answer without the tag that the generation prompt has written already."""
    tag = REASONING_TAGS[0]
    if asked.rstrip().endswith(tag) and answer.lstrip().startswith(tag):
        return answer.lstrip().removeprefix(tag).lstrip()
    return answer


def system_into_user(messages: Messages) -> Messages:
    """The messages with the system message put before the first question."""
    if not messages or messages[0]["role"] != "system":
        return messages
    first, *rest = messages
    position = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if position is None:
        return [{"role": "user", "content": first["content"]}, *rest]
    merged = {"role": "user", "content": f"{first['content']}\n\n{rest[position]['content']}"}
    return [*rest[:position], merged, *rest[position + 1 :]]


def shown(text: str) -> str:
    """Template text as a sentence shows it."""
    return json.dumps(text, ensure_ascii=False)


def last_words(pieces: Sequence[str | int]) -> str:
    """What the template writes after the last text."""
    words = ""
    for piece in reversed(pieces):
        if isinstance(piece, int):
            break
        words = piece + words
    return words
