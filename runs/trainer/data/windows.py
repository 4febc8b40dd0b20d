"""What becomes of a row that is longer than ``max_seq_length``."""

from __future__ import annotations

from collections.abc import Iterator

# What an example longer than max_seq_length is counted as.
TOO_LONG = {"drop": "dropped", "truncate": "truncated", "split": "split"}


def windows(length: int, max_length: int, too_long: str) -> Iterator[tuple[int, int, int]]:
    """Yield the sequences that a row of ``length`` tokens becomes: start, end, and the token from
    which on it is learnt.

    ``truncate`` keeps the beginning. ``split`` makes windows of ``max_length``; each but the first
    begins with a quarter of a window that the one before has learnt already, as context, so that
    every answer token is learnt exactly once.
    """
    if length <= max_length or too_long == "truncate":
        yield 0, min(length, max_length), 0
        return
    context = max_length // 4
    for start in range(0, length - context, max_length - context):
        yield start, min(start + max_length, length), start + (context if start else 0)
