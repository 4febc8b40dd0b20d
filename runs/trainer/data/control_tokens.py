"""Control tokens, and how a text that contains their names stays text.

A tokenizer finds control tokens anywhere in what it is given: it cannot tell the template's
``<|im_end|>`` from one that a user typed. Texts without such names go through the tokenizer as it
is. The others go through its twin, a copy that knows every control token under an alias only: the
alias stands where the template writes the token, and names in texts mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from runs.trainer.errors import DataError, ModelError

REASONING_TAGS = ("<think>", "</think>")
# Added tokens that are not marked as special are control tokens if they look like one: <|user|>,
# [INST]. Those that look like tags can be mere vocabulary (<table> is, of Gemma): they are control
# tokens if the template writes them.
_BRACKETED = re.compile(r"[<\[{].*\w.*[>\]}]", re.DOTALL)
_TAG = re.compile(r"</?\w[\w-]*>")
# Aliases come from the end of the last private use area, where no font has signs.
_ALIAS_LAST = 0x10FFFD


class ControlTokens:
    """The control tokens of a tokenizer: the special tokens, and other added tokens that structure
    a conversation.

    Attributes:
        ids: id of each by name; ``all_ids`` without the names.
        ends: the names that can end an answer: all but the tags.
        tags: matches what an assistant's message may contain as tokens: reasoning tags, and tags
            that are not marked as special (``<tool_call>``).
        everywhere: whether texts must always go through the twin, because a normalizer makes
            control tokens out of other texts.
    """

    def __init__(self, tokenizer: Any, template: str):
        """Find the control tokens. ``template``: the template's source, and what it writes around
        texts."""
        added = {token.content: (id, token) for id, token in tokenizer.added_tokens_decoder.items()}
        special = {name for name, (_, token) in added.items() if token.special} | (
            set(tokenizer.all_special_tokens) & set(added)
        )
        written = {
            name
            for name in added
            if _BRACKETED.fullmatch(name)
            and (not _TAG.fullmatch(name) or name in template or name in REASONING_TAGS)
        }
        names = sorted(special | written)
        self.ids: dict[str, int] = {name: added[name][0] for name in names if name}
        tags = {name for name in self.ids if name not in special and _TAG.fullmatch(name)} | set(
            REASONING_TAGS
        )
        self.ends = frozenset(set(self.ids) - tags)
        self.tags = re.compile(f"({_alternatives(tags)})")
        self.everywhere = tokenizer.backend_tokenizer.normalizer is not None and any(
            added[name][1].normalized for name in self.ids
        )
        self._names = re.compile(_alternatives(self.ids))
        self._backend = tokenizer.backend_tokenizer
        self._aliases = {
            name: chr(_ALIAS_LAST - number) * len(name) for number, name in enumerate(self.ids)
        }
        self._alias_of_first = re.compile(
            f"[{chr(_ALIAS_LAST - len(self.ids))}-{chr(_ALIAS_LAST)}]"
        )
        self.all_ids = frozenset(self.ids.values())
        # which stands for any word that the tokenizer does not know
        self._countable = self.all_ids - {tokenizer.unk_token_id}
        self.starts_in_template = lru_cache(maxsize=4096)(self.starts)

    def found(self, text: str) -> re.Match[str] | None:
        """Return the first name of a control token in ``text``."""
        return self._names.search(text)

    def starts(self, text: str) -> tuple[int, ...]:
        """Return where the names of control tokens begin in ``text``."""
        return tuple(match.start() for match in self._names.finditer(text))

    def end_in(self, text: str) -> int | None:
        """Return where the first control token that can end an answer ends in ``text``."""
        return next(
            (match.end() for match in self._names.finditer(text) if match[0] in self.ends), None
        )

    def without_names(self, text: str) -> str:
        """Return ``text`` without the names of control tokens."""
        return self._names.sub("", text)

    def last_end_in(self, text: str) -> tuple[int, int] | None:
        """Return where the control token lies that can end an answer and has only white space after
        it."""
        found = None
        for match in self._names.finditer(text):
            if match[0] in self.ends:
                found = match.span()
        return found if found and not text[found[1] :].strip() else None

    def encode_apart(self, texts: list[list[tuple[str, bool]]]) -> list[Any]:
        """Return the encodings of texts made of parts, each ``(text, whether the template wrote
        it)``; offsets count in the joined parts.

        Raises:
            DataError: a text cannot be kept apart from control tokens.
        """
        aliased = [self._with_aliases(parts) for parts in texts]
        encodings = self._twin.encode_batch([text for text, _ in aliased], add_special_tokens=False)
        for encoding, (_, count) in zip(encodings, aliased, strict=True):
            if sum(id in self._countable for id in encoding.ids) != count:
                raise DataError(
                    "the tokenizer cannot keep the text of a message apart from its control tokens;"
                    " change the text"
                )
        return list(encodings)

    def _with_aliases(self, parts: Iterable[tuple[str, bool]]) -> tuple[str, int]:
        """Return the joined text with an alias for each control token of the template, and how many
        there are."""
        joined, count = [], 0
        for text, from_template in parts:
            if from_template:
                replaced, number = self._names.subn(lambda match: self._aliases[match[0]], text)
                joined.append(replaced)
                count += number
            elif self._alias_of_first.search(text):
                raise DataError(
                    "a message has characters of the last private use area (U+10FF00 and above);"
                    " remove them"
                )
            else:
                joined.append(text)
        return "".join(joined), count

    @cached_property
    def _twin(self) -> Any:
        from tokenizers import Tokenizer  # noqa: PLC0415 - only folders of Hugging Face need it

        content = json.loads(self._backend.to_str())
        normalizer = self._backend.normalizer
        normalized = normalizer.normalize_str if normalizer else str
        content.update(post_processor=None, truncation=None, padding=None)
        for token in content["added_tokens"]:
            alias = self._aliases.get(token["content"])
            if alias is not None:
                # An alias that a normalizer removes is found before normalizing.
                token["normalized"] = token["normalized"] and alias in normalized(alias)
                token["content"] = alias
        _rename(content["model"], self._aliases)
        try:
            twin = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises Exception itself
            raise ModelError(
                "texts cannot be kept apart from the control tokens of this kind of tokenizer:"
                f" {error}"
            ) from error
        moved = [
            name for name, id in self.ids.items() if twin.token_to_id(self._aliases[name]) != id
        ]
        if moved:
            raise ModelError(
                f"texts cannot be kept apart from the control tokens of this tokenizer: {moved[0]}"
                " has no id of its own"
            )
        return twin


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Give tokens of a model's vocabulary other names: a model must not compose a control token out
    of a text either."""
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): id for token, id in model["vocab"].items()}
    else:  # Unigram
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]


def _alternatives(words: Iterable[str]) -> str:
    """Return a pattern that matches the longest of ``words``; it branches letter by letter, because
    there can be thousands."""
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    if not branches:
        return "(?!)"
    patterns = []
    for letter, rests in branches.items():
        longer = [rest for rest in rests if rest]
        further = _alternatives(longer) if longer else ""
        patterns.append(
            re.escape(letter)
            + (f"(?:{further})?" if further and len(longer) < len(rests) else further)
        )
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"
