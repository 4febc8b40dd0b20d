"""Texts reduced to what counts when they are compared: words, without case, punctuation and
spelling of characters."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

# Scripts that put no space between words: every character is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(
    rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+"
    # signs of arithmetic: 3-2 and 3*2 are not the same, well-known and well known are
    r"|[+=<>^~×÷±√≤≥≠]|(?<=\d) ?[-−*/%](?= ?\d)|(?<![\w-])[-−](?=\d)"
)
# unicodedata sorts a run of combining characters by insertion: the time is quadratic in its length
_RUN_MAX = 1_000
_PIECE = re.compile(rf"\S{{1,{_RUN_MAX}}}|\s+")


def words_of(text: str) -> list[str]:
    """The words of a text in order: NFKC, case folded, without punctuation; signs of arithmetic
    are words. Takes linear time."""
    return [word.strip() for word in _WORD.findall(_folded(text))]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    if max(map(len, text.split()), default=0) <= _RUN_MAX:
        return unicodedata.normalize("NFKC", text).casefold()
    return "".join(
        unicodedata.normalize("NFKC", piece) for piece in _PIECE.findall(text)
    ).casefold()


def normalised(texts: Iterable[str]) -> str:
    """Texts in the form in which they are compared; a line each."""
    return "\n".join(" ".join(words_of(text)) for text in texts)


def ngrams(words: Sequence[str], length: int) -> Iterator[str]:
    """The runs of ``length`` words, each as one text. Fewer words have none."""
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
