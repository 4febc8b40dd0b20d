"""``seen.json``: the first examples as the model sees them, token by token, and which of them count
in the loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from runs.trainer.data.tokenizer import Tokenizer
from runs.trainer.data.tokens import TokenisedData

EXAMPLES = 3
TOKENS_MAX = 400  # of each; a token's text costs decoding everything before it


def first_seen(data: TokenisedData, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return ``examples``: of each the texts of its first ``tokens``, the spans of those that count
    in the loss (``learnt``), the index of the first of them (``learnt_from``), and its ``length``
    in tokens."""
    return {
        "examples": [
            _seen(data, tokenizer, int(index)) for index in data.select(held_out=False)[:EXAMPLES]
        ]
    }


def _seen(data: TokenisedData, tokenizer: Tokenizer, index: int) -> dict[str, Any]:
    piece = data.pieces[index]
    start, length = int(piece["start"]), int(piece["length"])
    ids = data.tokens[start : start + min(length, TOKENS_MAX)].tolist()
    spans = _spans(data.learnt[start : start + length])
    return {
        "tokens": token_texts(ids, tokenizer),
        "learnt": spans,
        "learnt_from": spans[0][0],
        "length": length,
    }


def _spans(mask: np.ndarray) -> list[list[int]]:
    """Return ``[start, end]`` of every run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def token_texts(ids: list[int], tokenizer: Tokenizer) -> list[str]:
    """Return what each token adds to the text. A character of several tokens is with the last of
    them."""
    texts, shown = [], 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], marks=True)
        whole = len(text.rstrip("\ufffd")) if end < len(ids) else len(text)
        texts.append(text[shown:whole])
        shown = max(shown, whole)
    return texts
