"""What people should know of how examples became tokens, in sentences."""

from __future__ import annotations

from collections.abc import Mapping


def remarks(counts: Mapping[str, int]) -> list[str]:
    """Return the sentences for ``counts`` of examples, under the names of tokens.py."""
    found = []
    if count := counts.get("systems_moved", 0):
        found.append(
            f"The chat template takes no system message: in {_counted(count, 'example')} it is put"
            " before the first user message."
        )
    # caches of before these were counted have neither of them
    if count := counts.get("ends_with_text", 0):
        found.append(
            f"In {_counted(count, 'example')} the chat template writes a text of its own after an"
            " answer, before the token that ends it; that text is learnt as a part of the answer."
        )
    if count := counts.get("developers_moved", 0):
        found.append(
            "The chat template knows no developer: in"
            f" {_counted(count, 'example')} developers' messages are written as system messages."
        )
    if count := counts.get("control_texts", 0):
        found.append(
            f"{_counted(count, 'text')} contain{'s' if count == 1 else ''} names of the"
            " tokenizer's control tokens, such as those that end a turn; they are read as text,"
            " not as control tokens."
        )
    return found


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
