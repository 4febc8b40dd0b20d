"""Tokenizers: from messages to token ids, and which of them are learnt.

Two kinds: bytes (built-in presets) and any Hugging Face fast tokenizer from a folder. Both turn a
conversation into rows of ids of which only the assistant's messages, each with the token that ends
it, are learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from runs.spec.model_folder import FolderProblem, read_end_ids
from runs.trainer.data.chat import (
    CONVERSATION,
    GENERATION,
    ChatTemplate,
    LaidOut,
    Part,
    joined,
    last_words,
    shown,
)
from runs.trainer.data.control_tokens import ControlTokens
from runs.trainer.data.conversation import Conversation, Message, Messages, Tools
from runs.trainer.data.rows import TokenRow, make_rows
from runs.trainer.errors import DataError, ModelError

# Characters that are encoded at once: what a tokenizer keeps of each token takes a hundred bytes.
BATCH_CHARACTERS = 2**21


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row of token ids: a conversation, or what stands up to some of its answers.

    Attributes:
        learnt: the spans of ids that are learnt, each ``(start, end)``, in order.
        control_texts: texts that contain the name of a control token.
        system_moved: whether the system message was put before the first question.
        developer_moved: whether developers' messages were written as system messages.
        end_has_text: whether the template writes a text of its own after an answer, before the
            token that ends it; it is learnt.
    """

    ids: list[int]
    learnt: list[tuple[int, int]]
    control_texts: int = 0
    system_moved: bool = False
    developer_moved: bool = False
    end_has_text: bool = False

    @property
    def counted(self) -> list[tuple[int, int]]:
        """The spans that count in the loss: the first token of a row has nothing before it from
        which it could be foretold."""
        return [(max(start, 1), end) for start, end in self.learnt]


@dataclass(frozen=True, slots=True)
class Seen:
    """A row with its text, for people to look at.

    Attributes:
        offsets: the characters of the text that each token stands for.
        control: ids of control tokens.
    """

    row: Encoded
    text: str
    offsets: list[tuple[int, int]]
    control: frozenset[int]


class Tokenizer(Protocol):
    """What the training needs of a tokenizer."""

    fingerprint: str  # changes whenever the same messages could become other ids
    template_hash: str  # of the chat template and the prompt style alone
    stop_ids: tuple[int, ...]  # ids that end an answer
    notes: list[str]  # what people should know of the tokenizer and its template

    def encode(self, conversations: Sequence[Conversation]) -> list[list[Encoded]]:
        """Return the rows of each conversation.

        Raises:
            DataError: a conversation cannot be written, or nothing of it can be learnt.
        """

    def encode_prompt(
        self, messages: Messages, *, tools: Tools | None = None, answer: Message | None = None
    ) -> list[int]:
        """Return the ids of what the model is given when it is to answer ``messages``.

        ``answer``: the message that is expected. What it says does not matter, but before an answer
        with reasoning or tool calls a template may write something else.
        """

    def see(self, conversation: Conversation) -> Iterator[Seen]:
        """Yield the rows of a conversation with their texts. Raise DataError."""

    def see_prompt(self, messages: Messages, *, tools: Tools | None = None) -> Seen:
        """Return what the model is given when it is to answer. Raise DataError."""

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        """Return the text of an answer, without its ending token; with ``marks`` the special tokens
        by name."""


class ByteTokenizer:
    """256 byte values, then padding 256, begin 257, end 258 (``families.BYTE_VOCABULARY`` counts a
    spare id too).

    Template: begin, then every message followed by a newline, the assistant's by end.
    """

    BEGIN, END = 257, 258
    NAMES = {BEGIN: "<begin>", END: "<end>"}

    fingerprint: str = "bytes-1"
    template_hash: str = hashlib.sha256(b"bytes-1").hexdigest()
    stop_ids: tuple[int, ...] = (END,)

    def __init__(self) -> None:
        self.notes: list[str] = []

    def encode(self, conversations: Sequence[Conversation]) -> list[list[Encoded]]:
        return [[self._encode(conversation)] for conversation in conversations]

    def _encode(self, conversation: Conversation) -> Encoded:
        last = conversation.last_answer
        messages = conversation.messages[: last + 1]
        self._check_plain(messages, conversation.tools)
        ids, learnt = [self.BEGIN], []
        answers = set(conversation.learnt)
        for position, message in enumerate(messages):
            start = len(ids)
            ids += self._message(message)
            if position in answers:
                learnt.append((start, len(ids)))
        developer_moved = any(message["role"] == "developer" for message in messages)
        return Encoded(ids, learnt, developer_moved=developer_moved)

    def encode_prompt(
        self, messages: Messages, *, tools: Tools | None = None, answer: Message | None = None
    ) -> list[int]:
        self._check_plain([*messages, answer] if answer else messages, tools)
        return [self.BEGIN, *(id for message in messages for id in self._message(message))]

    def see(self, conversation: Conversation) -> Iterator[Seen]:
        yield self._seen(self._encode(conversation))

    def see_prompt(self, messages: Messages, *, tools: Tools | None = None) -> Seen:
        return self._seen(Encoded(self.encode_prompt(messages, tools=tools), []))

    def _seen(self, row: Encoded) -> Seen:
        text, offsets = "", []
        for control, ids in groupby(row.ids, key=self.NAMES.__contains__):
            if control:
                for id in ids:
                    offsets.append((len(text), len(text) + len(self.NAMES[id])))
                    text += self.NAMES[id]
                continue
            for letter in bytes(ids).decode():
                offsets += [(len(text), len(text) + 1)] * len(letter.encode())
                text += letter
        return Seen(row, text, offsets, frozenset(self.NAMES))

    def _message(self, message: Message) -> list[int]:
        end = self.END if message["role"] == "assistant" else ord("\n")
        return [*message["content"].encode(), end]

    @staticmethod
    def _check_plain(messages: Messages, tools: Tools | None) -> None:
        """Raise DataError for what the template of bytes cannot write."""
        what = "tools" if tools else None
        for number, message in enumerate(messages, start=1):
            if message["role"] == "tool" or "tool_calls" in message:
                what = what or f"tools (message {number})"
            elif "reasoning_content" in message:
                what = what or f"reasoning (message {number})"
        if what:
            raise DataError(
                f"the built-in presets read bytes, which have no way to write {what}; train a model"
                " with a chat template, or leave it out of the dataset"
            )

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        named = {id: name.encode() for id, name in self.NAMES.items()} if marks else {}
        return b"".join(bytes([id]) if id < 256 else named.get(id, b"") for id in ids).decode(
            "utf-8", errors="replace"
        )


# For base models, whose tokenizer has no chat template. The end token follows every answer.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n{% elif"
    " message.role == 'user' %}Question: {{ message.content }}\n{% else %}Answer: {{"
    " message.content }}{{ eos_token }}{% if not loop.last %}\n{% endif %}{% endif %}{% endfor %}{%"
    " if add_generation_prompt %}Answer:{% endif %}"
)


# Answers that must be learnt exactly before a template is trusted: an unlikely one, and such as are
# parts of control tokens.
PROBE_ROLES = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
)
PROBE_ANSWERS = ("Qz7 wExk-93 vB?", "d", "m", "of", "end", "user", "assistant")


class ChatTokenizer:
    """A Hugging Face fast tokenizer with its chat template, or with ``PLAIN_TEMPLATE`` when it has
    none.

    Learnt are the answers and the tokens that end them (chat.py says where they lie, rows.py which
    of them share a row); a token that spans the border to what stands before belongs to the answer.
    What people wrote is text: control tokens come from the template alone (control_tokens.py).
    """

    def __init__(
        self, folder: Path, *, prompt_style: str = CONVERSATION, tokenizer: Any | None = None
    ):
        """Open a tokenizer. ``prompt_style``: what an answer stands after, see
        runs/spec/manifest.py. ``tokenizer``: of the folder, where it is not read by transformers
        (tokenizer_file.py).

        Raise ModelError: no tokenizer in ``folder``, one that cannot be read, or a template that
        cannot be trained with.
        """
        self._tokenizer = _load(folder) if tokenizer is None else tokenizer
        self.notes: list[str] = []
        self._prompt_style = prompt_style
        begin, name = "", f"the chat template in {folder}"
        if not self._tokenizer.chat_template:
            begin = self._use_plain_template(folder)
            name = f"the plain template (there is none in {folder})"
        try:
            self._template = ChatTemplate(
                self._tokenizer, prompt_style=prompt_style, begin=begin, name=name
            )
            end = self._probe()
        except DataError as error:
            raise ModelError(
                f"the tokenizer in {folder} cannot be trained with: {error}"
            ) from error
        template = f"{self._tokenizer.chat_template}\0{prompt_style}"
        self.fingerprint = _fingerprint(folder, template)
        self.template_hash = hashlib.sha256(template.encode()).hexdigest()
        self.stop_ids: tuple[int, ...] = self._find_stop_ids(folder, end)

    def _use_plain_template(self, folder: Path) -> str:
        """Set the plain template; return what is put before everything."""
        if self._tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer in {folder} has neither a chat template nor an end token; give it"
                " one of them"
            )
        self.notes.append(
            "The tokenizer has no chat template: a plain one is used (Question: … / Answer: …)."
        )
        self._tokenizer.chat_template = PLAIN_TEMPLATE
        bos = self._tokenizer.bos_token
        return (
            str(bos)
            if bos and self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
            else ""
        )

    def encode(self, conversations: Sequence[Conversation]) -> list[list[Encoded]]:
        rows = [make_rows(self._template, conversation) for conversation in conversations]
        encoded = iter(self._encode_all([row for of_one in rows for row in of_one]))
        return [[next(encoded) for _ in of_one] for of_one in rows]

    def _encode_all(self, rows: list[TokenRow]) -> Iterator[Encoded]:
        for batch in _batches(rows):
            for row, (encoding, forges) in zip(batch, self._encode_rows(batch), strict=True):
                yield self._encoded(row, encoding, forges)

    def encode_prompt(
        self, messages: Messages, *, tools: Tools | None = None, answer: Message | None = None
    ) -> list[int]:
        _, encoding, count = self._encode_asked(messages, tools, answer)
        ids: list[int] = encoding.ids
        return ids[:count]

    def _encode_asked(
        self, messages: Messages, tools: Tools | None, answer: Message | None
    ) -> tuple[TokenRow, Any, int]:
        """Return a row that begins with what stands before an answer, its encoding, and how many of
        its tokens that is."""
        found = self._template.lay_out_prompt(messages, tools, answer)
        if found.layout.prompt_is_asked:
            prompt = found.parts(found.layout.prompt)
            row = TokenRow(prompt, joined(prompt), [], found)
            [(encoding, _)] = self._encode_rows([row])
            return row, encoding, len(encoding.ids)
        # As in training: where the answer's first letter and what stands before it are one token,
        # the model writes that token.
        row = TokenRow.of(found)
        [(encoding, _)] = self._encode_rows([row])
        return row, encoding, self._first_token(encoding, encoding.ids, row.spans[0][0])

    def see(self, conversation: Conversation) -> Iterator[Seen]:
        for batch in _batches(make_rows(self._template, conversation)):
            for row, (encoding, forges) in zip(batch, self._encode_rows(batch), strict=True):
                yield Seen(
                    self._encoded(row, encoding, forges),
                    row.text,
                    encoding.offsets,
                    self._template.control.all_ids,
                )

    def see_prompt(self, messages: Messages, *, tools: Tools | None = None) -> Seen:
        self._template.check_literal(Conversation(messages, (), tools))
        row, encoding, count = self._encode_asked(messages, tools, None)
        offsets = encoding.offsets[:count]
        end = max((end for _, end in offsets), default=0)
        text = row.text[: row.spans[0][0]] if row.spans else row.text
        return Seen(
            Encoded(
                list(encoding.ids[:count]),
                [],
                system_moved=row.found.system_moved,
                developer_moved=row.found.developer_moved,
            ),
            text if len(text) >= end else row.text[:end],
            offsets,
            self._template.control.all_ids,
        )

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        # Cleaning up would change texts: "a ." to "a.".
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=not marks, clean_up_tokenization_spaces=False
            )
        )

    def _encode_rows(self, rows: list[TokenRow]) -> list[tuple[Any, bool]]:
        """Return the encoding of each row, and whether its texts would make control tokens."""
        control = self._template.control
        texts = [row.text for row in rows]
        forging = [
            _control_starts(row.parts, control) != control.starts(text)
            for row, text in zip(rows, texts, strict=True)
        ]
        apart = [control.everywhere or forges for forges in forging]
        plain = [text for text, is_apart in zip(texts, apart, strict=True) if not is_apart]
        # The templates write their own special tokens.
        encodings = (
            self._tokenizer(plain, add_special_tokens=False, return_attention_mask=False).encodings
            if plain
            else []
        )
        others = control.encode_apart(
            [row.parts for row, is_apart in zip(rows, apart, strict=True) if is_apart]
        )
        of_kind = {False: iter(encodings), True: iter(others)}
        return [
            (next(of_kind[is_apart]), forges)
            for is_apart, forges in zip(apart, forging, strict=True)
        ]

    def _encoded(self, row: TokenRow, encoding: Any, forges: bool) -> Encoded:
        ids: list[int] = encoding.ids
        found = row.found
        learnt = [self._learnt(encoding, ids, start, end) for start, end in row.spans]
        # A name may also come about where a text and the template meet: then no text contains it.
        control_texts = (
            max(1, sum(self._template.control.found(text) is not None for text in found.texts))
            if forges
            else 0
        )
        return Encoded(
            ids,
            learnt,
            control_texts,
            found.system_moved,
            found.developer_moved,
            row.end_has_text,
        )

    def _learnt(self, encoding: Any, ids: list[int], start: int, end: int) -> tuple[int, int]:
        """Return the tokens of the answer at these characters."""
        first = self._first_token(encoding, ids, start)
        last = encoding.char_to_token(end - 1)
        if last is None or ids[last] not in self._template.control.all_ids:
            raise DataError(
                "the tokenizer joins the token that ends the answer with other text; change the"
                " answer or the template"
            )
        if first >= last:
            raise DataError(
                "the tokenizer has no tokens for the answer; change the answer or the tokenizer"
            )
        return first, last + 1

    def _first_token(self, encoding: Any, ids: list[int], start: int) -> int:
        """Return the first token with a character from ``start`` on, unless it is a control token
        that swallows white space."""
        index = encoding.char_to_token(start)
        if index is None:  # a tokenizer may leave white space out of its offsets
            index = next(
                (i for i, (_, end) in enumerate(encoding.offsets) if end > start), len(ids)
            )
        if (
            index < len(ids)
            and ids[index] in self._template.control.all_ids
            and encoding.token_to_chars(index)[0] < start
        ):
            index += 1
        return int(index)

    def _probe(self) -> int:
        """Encode made-up conversations and check what would be learnt; return the id that ends an
        answer.

        Raise DataError: the template, or the tokenizer with it, cannot be trained with.
        """
        problem: DataError | None = None
        end: int | None = None
        for roles in PROBE_ROLES:
            conversations = [
                [
                    {"role": role, "content": answer if role == "assistant" else f"Hm, {role}?"}
                    for role in roles
                ]
                for answer in PROBE_ANSWERS
            ]
            try:
                found = self._template.lay_out(conversations[0])
            except DataError as error:
                # A template need not take every kind; a conversation that it refuses is named.
                problem = problem or error
                continue
            encoded = self.encode([Conversation.of_trace(messages) for messages in conversations])
            for messages, [row] in zip(conversations, encoded, strict=True):
                self._check_learnt(self._template.lay_out(messages), row)
            if end is None:
                self._note_layout(found)
                [first] = encoded[0]
                end = first.ids[first.learnt[-1][1] - 1]
        if end is None:
            assert problem is not None
            raise problem
        return end

    def _check_learnt(self, found: LaidOut, encoded: Encoded) -> None:
        """Raise DataError if, by what the tokenizer decodes, something else than the answer and its
        end would be learnt."""
        layout = found.layout
        end = joined(found.parts(layout.end))[: layout.end_length]
        expected = _without_space(joined(found.parts(layout.answer)) + end)
        if expected not in _without_space(self.decode(encoded.ids, marks=True)):
            # the tokenizer changes texts (to lower case, for one); their places are known from the
            # layout
            return
        [(first, last)] = encoded.learnt
        learnt = _without_space(self.decode(encoded.ids[first:last], marks=True))
        before = learnt.removesuffix(expected)
        spanning = _without_space(self.decode(encoded.ids[first : first + 1], marks=True))
        if before == learnt or len(before) >= max(len(spanning), 1):
            raise DataError(
                f"of {shown(expected)} only {shown(learnt)} would be learnt: the tokenizer's"
                " offsets are wrong"
            )

    def _note_layout(self, found: LaidOut) -> None:
        layout = found.layout
        if layout.end_added:
            self.notes.append(
                f"The chat template does not end an answer: {self._tokenizer.eos_token} is added."
            )
        before, asked = (
            joined(found.parts(pieces)) for pieces in (layout.before_answer, layout.asked)
        )
        if before.startswith(asked) and not before[len(asked) :].strip():
            return
        finished, asks = last_words(layout.before_answer), last_words(layout.asked)
        # the template renders what stands before differently, or writes a text of its own there
        if finished == asks or not (finished and asks):
            finished, asks = before, asked
        style, other, used = CONVERSATION, GENERATION, finished
        if self._prompt_style == GENERATION:
            style, other, used = GENERATION, CONVERSATION, asks
        self.notes.append(
            f"The chat template writes {shown(finished)} before an answer in a conversation, but"
            f" {shown(asks)} when it asks for one, as servers do. Here answers are learnt and"
            f" measured after {shown(used)} (prompt_style: {style}); prompt_style: {other} chooses"
            " the other."
        )

    def _find_stop_ids(self, folder: Path, end: int) -> tuple[int, ...]:
        """Return the end token, those of generation_config.json, and the token with which the
        template ends an answer."""
        found = {end}
        if self._tokenizer.eos_token_id is not None:
            found.add(self._tokenizer.eos_token_id)
        try:
            return tuple(sorted(found.union(read_end_ids(folder))))
        except FolderProblem as error:
            raise ModelError(str(error)) from error


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - two seconds that the built-in presets need not spend

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # The library raises OSError, ValueError, KeyError, … for the many faults of a folder.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"no usable tokenizer in {folder}: {reason}; put the model's tokenizer files and a"
            " valid config.json there"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer in {folder} has no fast form (tokenizer.json); convert it with"
            " transformers first"
        )
    return tokenizer


def _fingerprint(folder: Path, template: str) -> str:
    digest = hashlib.sha256(template.encode())
    for name in (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ):
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _without_space(text: str) -> str:
    return "".join(text.split())


def _batches(rows: list[TokenRow]) -> Iterator[list[TokenRow]]:
    batch: list[TokenRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _control_starts(parts: list[Part], control: ControlTokens) -> tuple[int, ...]:
    """Return where the template writes control tokens in the joined parts."""
    starts: list[int] = []
    position = 0
    for text, from_template in parts:
        if from_template:
            starts += [position + start for start in control.starts_in_template(text)]
        position += len(text)
    return tuple(starts)


def load_tokenizer(folder: Path | None, *, prompt_style: str = CONVERSATION) -> Tokenizer:
    """Return the tokenizer in ``folder``; None means bytes, for which the same always stands before
    an answer."""
    return ByteTokenizer() if folder is None else ChatTokenizer(folder, prompt_style=prompt_style)
