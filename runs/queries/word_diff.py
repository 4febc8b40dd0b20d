"""Which words differ between two outputs."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

# On each side. With so few, the worst pair of texts costs a tenth of a second (difflib can need
# time that grows with the cube of the words).
WORDS_MAX = 400
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True)
class Piece:
    """A stretch of a text. ``changed``: the other text has something else there."""

    text: str
    changed: bool


@dataclass(frozen=True)
class WordDiff:
    """Two texts in pieces. ``whole`` is False where only their first words were compared; the
    others stand in the last piece, unmarked."""

    first: list[Piece]
    second: list[Piece]
    whole: bool = True


def word_diff(first: str, second: str) -> WordDiff:
    """Compare two texts word by word, without regard to white space."""
    words, others = _WORD.findall(first), _WORD.findall(second)
    rest = "".join(words[WORDS_MAX:]), "".join(others[WORDS_MAX:])
    words, others = words[:WORDS_MAX], others[:WORDS_MAX]
    matcher = SequenceMatcher(None, [one.strip() for one in words], [one.strip() for one in others])
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        changed = tag != "equal"
        _add(left, words[start:end], changed)
        _add(right, others[other_start:other_end], changed)
    for pieces, text in zip((left, right), rest, strict=True):
        _add(pieces, [text], changed=False)
    return WordDiff(left, right, whole=rest == ("", ""))


def _add(pieces: list[Piece], words: list[str], changed: bool) -> None:
    if text := "".join(words):
        pieces.append(Piece(text, changed))
