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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

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
from runs.trainer.errors import DataError

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
_REMEMBERED = 2**22  # characters of templates, in all layouts that are kept


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A conversation without its texts. Tools and tool calls stay as they are.

    Attributes:
        messages: the messages with placeholders.
        key: equal for equal messages and tools.
        owners: the message of each text.
        required: numbers of the texts that the template must show.
        reasoning: number of the last message's reasoning.
    """

    messages: Messages
    tools: Tools | None
    key: tuple[Any, ...]
    owners: tuple[int, ...]
    required: frozenset[int]
    reasoning: int | None


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
    """A conversation in its layout.

    Attributes:
        messages: as the template is given them.
        system_moved: whether the system message was put before the first question.
        developer_moved: whether developers' messages are given as system messages.
    """

    layout: Layout
    texts: list[str]
    messages: Messages
    system_moved: bool = False
    developer_moved: bool = False

    def parts(self, pieces: Pieces) -> list[Part]:
        """``pieces`` with the texts put in, each part with whether the template wrote it."""
        return [
            (piece, True) if isinstance(piece, str) else (self.texts[piece], False)
            for piece in pieces
        ]


class _Marks:
    """Placeholders that no text has, each with what it stands for."""

    def __init__(self) -> None:
        self.meanings: dict[str, str] = {}

    def new(self, meaning: str) -> str:
        mark = chr(_LAST - 1 - len(self.meanings))
        self.meanings[mark] = meaning
        return mark


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, *, prompt_style: str, begin: str, name: str):
        """``begin`` is put before everything: the begin token, where the template is ours.
        ``name`` is what sentences call the template."""
        self._tokenizer = tokenizer
        self._style = prompt_style
        self._begin = begin
        self._name = name
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._remembered = 0
        source = str(tokenizer.chat_template)
        if _PLACEHOLDERS.search(source):
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
        """What the template writes around texts: control tokens may be put together from parts
        (``'<|' + role + '|>'``)."""
        texts = []
        for roles in (("user", "assistant"), ("system", "user", "assistant", "user", "assistant")):
            messages = [{"role": role, "content": chr(_FIRST)} for role in roles]
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

    @cached_property
    def _takes_arguments_as_text(self) -> bool:
        """Whether the template wants the arguments of tool calls as JSON, not as objects: it
        fails with an object, or writes it as Python would."""
        for as_text in (False, True):
            arguments: Any = {chr(_FIRST): chr(_FIRST + 1)}
            call = {
                "id": "call00000",
                "type": "function",
                "function": {
                    "name": "f",
                    "arguments": json.dumps(arguments, ensure_ascii=False)
                    if as_text
                    else arguments,
                },
            }
            messages: Messages = [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            try:
                whole = self._render(messages, None, generation=False)
            except DataError:
                continue
            if chr(_FIRST + 1) in whole and f"'{chr(_FIRST + 1)}'" not in whole:
                return as_text
        return False

    def lay_out(self, messages: Messages, tools: Tools | None = None) -> LaidOut:
        """Where everything lies once ``messages`` are rendered; the last one is the answer.

        Raises:
            DataError: the template refuses the conversation, or does not show its texts as they
                are.
        """
        developer_moved = not self._knows_developer and any(
            message["role"] == "developer" for message in messages
        )
        if developer_moved:
            messages = developer_as_system(messages)
        system_moved = messages[0]["role"] == "system" and self._system_refused
        if system_moved:
            messages = system_into_user(messages)
        if any("tool_calls" in message for message in messages):
            messages = [self._with_arguments(message) for message in messages]
        found = self._lay_out(messages, tools)
        if not system_moved and not developer_moved:
            return found
        return replace(found, system_moved=system_moved, developer_moved=developer_moved)

    def lay_out_prompt(
        self, messages: Messages, tools: Tools | None = None, answer: Message | None = None
    ) -> LaidOut:
        """The same for messages that an answer is asked for. Of ``answer`` counts only whether it
        has reasoning and tool calls: otherwise it is the letter a."""
        if answer is None or not is_composed(answer):
            answer = {"role": "assistant", "content": "a"}
        found = self.lay_out([*messages, answer], tools)
        if found.layout.prompt_is_asked:
            asked = self._render(found.messages[:-1], tools, generation=True)
            self._compare(found, found.layout.asked, asked)
        return found

    def check_literal(self, conversation: Conversation) -> None:
        """Raise DataError if tools or tool calls, which the template writes, contain what is no
        text to the tokenizer."""
        self._check_no_control("the description of the tools", conversation.tools)
        for number, message in enumerate(conversation.messages, start=1):
            given = [message.get(key) for key in ("tool_calls", "tool_call_id", "name")]
            if any(given):
                self._check_no_control(f"what message {number} says of tools", given)

    def _check_no_control(self, name: str, value: Any) -> None:
        if value is None:
            return
        for text in (json.dumps(value, ensure_ascii=False), *_strings(value)):
            if found := self.control.found(text) or _PLACEHOLDERS.search(text):
                raise DataError(
                    f"{name} contains {found[0]!r}, which cannot be told from a control token"
                    f" there, because {self._name} writes it; change it"
                )

    def _with_arguments(self, message: Message) -> Message:
        if "tool_calls" not in message or not self._takes_arguments_as_text:
            return message
        calls = []
        for call in message["tool_calls"]:
            function = call["function"]
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            calls.append({**call, "function": {**function, "arguments": arguments}})
        return {**message, "tool_calls": calls}

    def _lay_out(self, messages: Messages, tools: Tools | None) -> LaidOut:
        skeleton, texts = self._skeleton(messages, tools)
        layout = self._layouts.get(skeleton.key)
        if layout is None:
            layout = self._remember(skeleton)
        found = LaidOut(layout, texts, messages)
        rendered = self._render(messages, tools, generation=False)
        if _text(found.parts(layout.rendered)) != rendered:
            # A template may write the time of day; and where it looks into other messages, it is
            # enough to know the answer.
            found = LaidOut(self._remember(skeleton), texts, messages)
            if _text(found.parts(found.layout.rendered)) != rendered:
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
                if found := self.control.found(text) or _PLACEHOLDERS.search(text):
                    raise DataError(
                        f"message {number} contains {found[0]!r}, and the chat template changes the"
                        " texts of this conversation, so that text and control tokens cannot be"
                        " told apart; change the message or the template"
                    )
        skeleton, texts = self._skeleton(messages, tools, answer_alone=True)
        layout = self._find_layout(skeleton)
        laid_out = LaidOut(layout, texts, messages)
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
        layout = self._find_layout(skeleton)
        size = sum(len(piece) if isinstance(piece, str) else 1 for piece in layout.rendered)
        if self._remembered + size > _REMEMBERED:
            self._layouts.clear()
            self._remembered = 0
        self._remembered += size
        self._layouts[skeleton.key] = layout
        return layout

    def _skeleton(
        self, messages: Messages, tools: Tools | None, *, answer_alone: bool = False
    ) -> tuple[Skeleton, list[str]]:
        """The skeleton and its texts. White space around a text stays, so that a template trims
        both alike; so do the tags of an assistant's message, which templates look for."""
        marked: Messages = []
        key: list[Any] = []
        texts: list[str] = []
        owners: list[int] = []
        required: set[int] = set()
        reasoning: int | None = None
        last = len(messages) - 1

        def place(segment: str, position: int) -> str:
            """``segment`` with a placeholder for its text."""
            text = segment.strip()
            if len(texts) > _LAST - _FIRST:
                raise DataError(
                    f"the conversation has more than {_LAST - _FIRST:,} texts; split it"
                )
            before = len(segment) - len(segment.lstrip())
            placeholder = chr(_FIRST + len(texts))
            texts.append(text)
            owners.append(position)
            return f"{segment[:before]}{placeholder}{segment[before + len(text) :]}"

        for position, message in enumerate(messages):
            role, content = message["role"], message["content"]
            out = message
            if not answer_alone or position == last:
                out = {"role": role, "content": content}
                if len(message) > 2:
                    out = {**message}
                    if "reasoning_content" in message:
                        # templates leave the reasoning of earlier turns out, on purpose
                        if position == last:
                            reasoning = len(texts)
                        out["reasoning_content"] = place(message["reasoning_content"], position)
                segments = [content]
                if role == "assistant" and "<" in content:
                    segments = self.control.tags.split(content)
                    if not any(segment.strip() for segment in segments[::2]):
                        segments = [content]
                numbers: list[int] = []
                for index, segment in enumerate(segments):
                    if index % 2 or not segment.strip():
                        if segment == REASONING_TAGS[1] and position < last:
                            numbers.clear()  # as above
                        continue
                    numbers.append(len(texts))
                    segments[index] = place(segment, position)
                required.update(numbers)
                out["content"] = "".join(segments)
            marked.append(out)
            if len(out) > 2:
                rest = {name: out[name] for name in out if name not in ("role", "content")}
                key.append((role, out["content"], json.dumps(rest)))
            else:
                key.append((role, out["content"]))
        if tools is not None:
            key.append(json.dumps(tools))
        skeleton = Skeleton(
            marked, tools, tuple(key), tuple(owners), frozenset(required), reasoning
        )
        return skeleton, texts

    def _find_layout(self, skeleton: Skeleton) -> Layout:
        messages = skeleton.messages
        whole = self._render(messages, skeleton.tools, generation=False)
        self._check_shown(skeleton, whole)
        self._check_tools_shown(skeleton, whole)
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
        """Where an answer whose text is at ``start`` begins with ``prompt_style: conversation``."""
        if asked and whole.startswith(asked) and not whole[len(asked) : start].strip():
            return len(asked)  # what lies between is white space, which the model has to write
        return start

    def _composed(self, skeleton: Skeleton, whole: str, asked: str) -> Layout:
        """The layout of an answer with reasoning or tool calls: all that the template writes after
        what it writes before any answer, or when it asks for one."""
        before = self._before_text(skeleton, asked)
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

    def _before_text(self, skeleton: Skeleton, asked: str) -> str | None:
        """What stands before the last answer if it is a text; None where the template refuses."""
        answer = {"role": "assistant", "content": chr(_LAST)}
        try:
            whole = self._render(
                [*skeleton.messages[:-1], answer], skeleton.tools, generation=False
            )
        except DataError:
            return None
        place = whole.find(chr(_LAST))
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
        header = last_words(_pieces(before)).removeprefix(last_words(_pieces(asked)))
        if header.strip():
            raise DataError(
                f"the chat template ignores add_generation_prompt: {shown(header)} stands"
                " before an answer, and it would be learnt as a part of it; set prompt_style"
                " to conversation, or give the tokenizer another template"
            )

    def _check_tools_shown(self, skeleton: Skeleton, whole: str) -> None:
        """Raise DataError if the template leaves tools or tool calls out, or does not tell what a
        tool says from what others say."""
        if any(message["role"] == "tool" for message in skeleton.messages):
            self._check_results_told_apart(skeleton, whole)
        marks = _Marks()
        messages, tools = skeleton.messages, skeleton.tools
        if any("tool_calls" in message for message in messages):
            messages = [
                self._marked_calls(message, number, marks)
                for number, message in enumerate(messages, start=1)
            ]
        if tools:
            tools = [_marked_tool(tool, number, marks) for number, tool in enumerate(tools, 1)]
        if not marks.meanings:
            return
        text = self._render(messages, tools, generation=False)
        for mark, meaning in marks.meanings.items():
            if mark not in text:
                raise DataError(
                    f"{self._name} does not show {meaning}; give the tokenizer a template for"
                    " tools, or leave the tools out of the dataset"
                )

    def _marked_calls(self, message: Message, number: int, marks: _Marks) -> Message:
        if "tool_calls" not in message:
            return message
        calls = []
        for call in message["tool_calls"]:
            function = call["function"]
            name = marks.new(f"the name of a tool call in message {number} (assistant)")
            arguments: dict[str, str] = {}
            if function["arguments"] not in ({}, "{}"):
                of_call = f"the arguments of a tool call in message {number} (assistant)"
                arguments = {marks.new(of_call): marks.new(of_call)}
            marked = {**function, "name": name, "arguments": arguments}
            calls.append({**call, "function": marked})
        return self._with_arguments({**message, "tool_calls": calls})

    def _check_results_told_apart(self, skeleton: Skeleton, whole: str) -> None:
        for role in ("assistant", "user"):
            messages = [
                {"role": role, "content": message["content"]}
                if message["role"] == "tool"
                else message
                for message in skeleton.messages
            ]
            try:
                same = self._render(messages, skeleton.tools, generation=False) == whole
            except DataError:
                continue
            if same:
                raise DataError(
                    f"{self._name} shows what a tool says (role tool) as a message of the {role};"
                    " give the tokenizer a template for tools"
                )

    def _after_asked(
        self, skeleton: Skeleton, whole: str, asked: str, place: tuple[int, int] | None
    ) -> Layout:
        """The layout with ``prompt_style: generation``: the answer stands after what the template
        writes when it asks for one."""
        self._check_asks(skeleton, asked, whole[: place[0]] if place else None)
        if place and whole[: place[0]].startswith(asked):
            return self._layout(
                asked, whole[len(asked) : place[1]], whole[place[1] :], whole, asked
            )
        answer = skeleton.messages[-1]["content"].strip()
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
        last = len(skeleton.messages) - 1
        answer = [number for number, owner in enumerate(skeleton.owners) if owner == last]
        composed = is_composed(skeleton.messages[last])
        if not answer and not composed:
            raise DataError("the assistant's answer is blank; there is nothing to learn")
        if skeleton.reasoning is not None and not counts[skeleton.reasoning]:
            raise DataError(
                f"{self._name} does not show the reasoning of message {last + 1} (assistant), given"
                " as reasoning_content; give the tokenizer a template for reasoning, or leave the"
                " reasoning out of the dataset"
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

    def _render(self, messages: Messages, tools: Tools | None, *, generation: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generation
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


def _marked_tool(tool: dict[str, Any], number: int, marks: _Marks) -> dict[str, Any]:
    """A tool with marks for what a template has to show of it."""
    function = tool["function"]
    marked: dict[str, Any] = {"name": marks.new(f"the name of tool {number}")}
    if function.get("description"):
        marked["description"] = marks.new(f"the description of tool {number}")
    if "parameters" in function:
        properties = {}
        if function["parameters"].get("properties"):
            name = marks.new(f"the parameters of tool {number}")
            properties = {name: {"type": "string", "description": "-"}}
        marked["parameters"] = {"type": "object", "properties": properties}
    return {**tool, "function": marked}


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, names of fields too."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item
