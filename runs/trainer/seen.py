"""``seen.json``: the first examples as the model sees them, token by token, and from which token on they count in the loss."""

from __future__ import annotations

from typing import Any

from runs.trainer.tokenizer import Tokenizer
from runs.trainer.tokens import TokenisedData

EXAMPLES = 3
TOKENS_MAX = 400  # of each; a token's text costs decoding everything before it


def first_seen(data: TokenisedData, tokenizer: Tokenizer) -> dict[str, Any]:
    """``examples``: of each the texts of its first ``tokens``, the index of the first that counts in the loss (``learnt_from``),
    and its ``length`` in tokens."""
    return {"examples": [_seen(data, tokenizer, int(index)) for index in data.select(held_out=False)[:EXAMPLES]]}


def _seen(data: TokenisedData, tokenizer: Tokenizer, index: int) -> dict[str, Any]:
    piece = data.pieces[index]
    start, length = int(piece["start"]), int(piece["length"])
    ids = data.tokens[start : start + min(length, TOKENS_MAX)].tolist()
    return {"tokens": texts_of(ids, tokenizer), "learnt_from": int(piece["answer"]), "length": length}


def texts_of(ids: list[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text. A character of several tokens is with the last of them."""
    texts, shown = [], 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], marks=True)
        whole = len(text.rstrip("\ufffd")) if end < len(ids) else len(text)
        texts.append(text[shown:whole])
        shown = max(shown, whole)
    return texts
