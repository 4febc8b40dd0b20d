"""Tokenizers and chat templates: from messages to token ids, and where the answer begins.

Two kinds: bytes (built-in presets) and any Hugging Face fast tokenizer from a folder. Both turn a conversation into one row
of ids of which only the last assistant message, with the token that ends it, is learnt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from runs.trainer.errors import DataError, ModelError
from runs.trainer.metrics import say

Messages = list[dict[str, str]]
Encoded = tuple[list[int], int]  # token ids, index of the first token of the answer


class Tokenizer(Protocol):
    """What the training needs of a tokenizer."""

    fingerprint: str  # changes whenever the same messages could become other ids
    stop_ids: tuple[int, ...]  # ids that end an answer

    def encode(self, conversations: Sequence[Messages]) -> list[Encoded]:
        """Ids of whole conversations, each with the index of the answer's first token."""

    def encode_prompt(self, messages: Messages) -> list[int]:
        """Ids of what the model is given when it is to answer: everything before the last assistant message."""

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        """Text of an answer, without its ending token; with ``marks`` the special tokens by name."""


PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class ByteTokenizer:
    """256 byte values, then padding 256, begin 257, end 258 (``families.BYTE_VOCABULARY`` counts a spare id too).

    Template: begin, then every message followed by a newline, the assistant's by end.
    """

    BEGIN, END = 257, 258

    fingerprint: str = "bytes-1"
    stop_ids: tuple[int, ...] = (END,)

    def encode(self, conversations: Sequence[Messages]) -> list[Encoded]:
        encoded = []
        for messages in conversations:
            prompt = self.encode_prompt(messages[:-1])
            encoded.append(([*prompt, *messages[-1]["content"].encode(), self.END], len(prompt)))
        return encoded

    def encode_prompt(self, messages: Messages) -> list[int]:
        ids = [self.BEGIN]
        for message in messages:
            ids += message["content"].encode()
            ids.append(self.END if message["role"] == "assistant" else ord("\n"))
        return ids

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        named = {self.BEGIN: b"<begin>", self.END: b"<end>"} if marks else {}
        return b"".join(bytes([id]) if id < 256 else named.get(id, b"") for id in ids).decode("utf-8", errors="replace")


# For base models, whose tokenizer has no chat template. The end token follows every answer.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}Question: {{ message.content }}\n"
    "{% else %}Answer: {{ message.content }}{{ eos_token }}{% if not loop.last %}\n{% endif %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)


class ChatTokenizer:
    """A Hugging Face fast tokenizer with its chat template, or with ``PLAIN_TEMPLATE`` when it has none.

    The prompt is the conversation rendered without the last assistant message but with the template's generation prompt; the
    answer is whatever the full rendering adds to it. Where a template renders the beginning differently once the answer is
    there, the answer is looked for in the text. When the ids of the prompt are not the first ids of the whole (a token
    spans the border), the border is found by character offsets; a token that spans it belongs to the answer.
    """

    def __init__(self, folder: Path):
        """Raises ModelError: no tokenizer in ``folder``, or one that cannot be read."""
        self._tokenizer = _load(folder)
        self._plain = not self._tokenizer.chat_template
        self._system_refused = False
        self._begin = self._end = ""
        if self._plain:
            if self._tokenizer.eos_token is None:
                raise ModelError(f"the tokenizer in {folder} has neither a chat template nor an end token; give it one of them")
            say("The tokenizer has no chat template: a plain one is used (Question: … / Answer: …).")
            self._tokenizer.chat_template = PLAIN_TEMPLATE
            bos = self._tokenizer.bos_token
            if bos and self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]:
                self._begin = bos
        self.stop_ids: tuple[int, ...]
        self._specials = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        self._end = self._missing_end()
        self.fingerprint = _fingerprint(folder, str(self._tokenizer.chat_template))
        self.stop_ids = self._find_stop_ids(folder)

    def encode(self, conversations: Sequence[Messages]) -> list[Encoded]:
        texts = [self._render_pair(messages) for messages in conversations]
        prompts = self._ids([prompt for prompt, _ in texts])
        wholes = self._ids([whole for _, whole in texts])
        return [
            (whole, len(prompt) if whole[: len(prompt)] == prompt else self._border(*text))
            for text, prompt, whole in zip(texts, prompts, wholes, strict=True)
        ]

    def encode_prompt(self, messages: Messages) -> list[int]:
        return self._ids([self._render(messages, generation=True)])[0]

    def decode(self, ids: Sequence[int], *, marks: bool = False) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not marks))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        # The templates write their own special tokens.
        return self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []

    def _render(self, messages: Messages, *, generation: bool) -> str:
        if self._system_refused:
            messages = _system_into_user(messages)
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        except Exception as error:  # templates raise what they like
            if not self._system_refused and messages[0]["role"] == "system":
                say("The chat template takes no system message: it is put before the first user message.")
                self._system_refused = True
                return self._render(messages, generation=generation)
            raise DataError(f"the chat template refuses a conversation: {error}; correct the messages or the template") from error
        return self._begin + str(text)

    def _render_pair(self, messages: Messages) -> tuple[str, str]:
        """The prompt's text and the whole text, of which the prompt is the beginning."""
        prompt = self._render(messages[:-1], generation=True)
        whole = self._render(messages, generation=False)
        if not whole.startswith(prompt):
            answer = messages[-1]["content"].strip()
            found = whole.rfind(answer)
            if found < 0:
                raise DataError(
                    "the chat template does not show the assistant's answer as it is; give the tokenizer another template"
                )
            prompt = whole[:found]
        return prompt, whole + self._end

    def _missing_end(self) -> str:
        """What must follow an answer: nothing when the template ends it with a special token, else the end token."""
        prompt, whole = self._render_pair(PROBE)
        if any(id in self._specials for id in self._ids([whole[len(prompt) :]])[0]):
            return ""
        end = self._tokenizer.eos_token
        if not end:
            raise ModelError("the chat template ends an answer with no special token, and there is no end token; define one")
        say(f"The chat template does not end an answer: {end} is added.")
        return str(end)

    def _border(self, prompt: str, whole: str) -> int:
        offsets = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return next((index for index, (_, end) in enumerate(offsets) if end > len(prompt)), len(offsets))

    def _find_stop_ids(self, folder: Path) -> tuple[int, ...]:
        """The end token, those of generation_config.json, and the special token with which the template ends an answer."""
        found = {self._tokenizer.eos_token_id} if self._tokenizer.eos_token_id is not None else set()
        try:
            ends = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            ends = None
        found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
        ids, start = self.encode([PROBE])[0]
        found.update(next(([id] for id in ids[start + 1 :] if id in self._specials), []))
        if not found:
            raise ModelError(f"the tokenizer in {folder} has no end token: an answer could never end")
        return tuple(sorted(found))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - two seconds that the built-in presets need not spend

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises OSError, ValueError, KeyError, … for the many ways a folder can be wrong
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"no usable tokenizer in {folder}: {first}; put the model's tokenizer files there") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"the tokenizer in {folder} has no fast form (tokenizer.json); convert it with transformers first")
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


def _system_into_user(messages: Messages) -> Messages:
    if messages[0]["role"] != "system":
        return messages
    first, *rest = messages
    position = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if position is None:
        return [{"role": "user", "content": first["content"]}, *rest]
    merged = {"role": "user", "content": f"{first['content']}\n\n{rest[position]['content']}"}
    return [*rest[:position], merged, *rest[position + 1 :]]


def load_tokenizer(folder: Path | None) -> Tokenizer:
    """The tokenizer in ``folder``; None means bytes."""
    return ByteTokenizer() if folder is None else ChatTokenizer(folder)
