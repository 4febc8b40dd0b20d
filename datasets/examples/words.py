"""Texts reduced to what counts when they are compared: words, without case, punctuation and
spelling of characters."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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
# unicodedata sorts a run of combining characters by insertion: the time is quadratic in its length.
# A piece ends before a character that none before it is composed with: no mark, no vowel of Hangul.
_RUN_MAX = 1_000
_PIECE = re.compile(
    rf".{{1,{_RUN_MAX}}}(?=[\s!-/:-@]|[^\W\u1160-\u11ff]|\Z)|.{{1,{_RUN_MAX}}}", re.DOTALL
)


def words_of(text: str) -> list[str]:
    """Return the words of a text in order: NFKC, case folded, without punctuation; signs of
    arithmetic are words. Take linear time."""
    return [word.strip() for word in _WORD.findall(_folded(text))]


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else _in_form("NFKC", text).casefold()


def composed(text: str) -> str:
    """Return the text in one form of Unicode (NFC). Take linear time."""
    return text if text.isascii() else _in_form("NFC", text)


def _in_form(form: Literal["NFC", "NFKC"], text: str) -> str:
    if max(map(len, text.split()), default=0) <= _RUN_MAX:
        return unicodedata.normalize(form, text)
    return "".join(unicodedata.normalize(form, piece) for piece in _PIECE.findall(text))


def normalised(texts: Iterable[str]) -> str:
    """Return texts in the form in which they are compared; a line each."""
    return "\n".join(" ".join(words_of(text)) for text in texts)


def ngrams(words: Sequence[str], length: int) -> Iterator[str]:
    """Yield the sequences of ``length`` words, each as one text; none if there are fewer words."""
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


# --- Words to search for --------------------------------------------------------------------------

SEARCH_WORD_MAX = 40  # characters of a word that are compared
# Fewer are the beginning of too many words: an index has to read the places of all of them.
BEGINNING_MIN = 3
_TO_SPACES = bytes(
    ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else 32 for code in range(256)
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_PARTS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")


class _Spaces(dict[int, int]):
    """Maps every character but letters, digits and their marks to a space; filled when needed."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LNM" else 32
        return self[code]


_SPACES = _Spaces()


@dataclass(frozen=True, slots=True)
class SearchWord:
    """A word to search for; ``is_prefix``: any word that begins with it."""

    text: str
    is_prefix: bool = False


def distinct_words(text: str) -> list[str]:
    """Return the words of a text that a search finds, each once: folded, letters and digits alone.
    Take linear time.

    In scripts without spaces between words, every character and every pair of neighbours is a word.
    """
    if text.isascii():
        words = list(dict.fromkeys(text.encode().translate(_TO_SPACES).decode().split()))
        if max(map(len, words), default=0) <= SEARCH_WORD_MAX:
            return words
    else:
        folded = _folded(text).translate(_SPACES)
        words = folded.split()
        if _HAS_UNSPACED.search(folded):
            words = [part for word in words for part in _parts(word)]
    return list(dict.fromkeys(word[:SEARCH_WORD_MAX] for word in words))


def _parts(word: str) -> Iterator[str]:
    for part in _PARTS.findall(word):
        if _HAS_UNSPACED.match(part):
            yield from part
            yield from map("".join, pairwise(part))
        else:
            yield part


def search_words(text: str) -> list[SearchWord]:
    """Return the words that a search asks for; one that ends with ``*`` is the beginning of a word.
    Characters that are neither letters nor digits separate words and have no other meaning. Raise
    ValueError with a sentence."""
    found: dict[SearchWord, None] = {}
    for asked in text.split():
        words = [SearchWord(word) for word in distinct_words(asked)]
        if words and asked.endswith("*") and not _HAS_UNSPACED.search(words[-1].text):
            beginning = words[-1].text
            if len(beginning) < BEGINNING_MIN:
                raise ValueError(f"Give at least {BEGINNING_MIN} letters or digits before *.")
            words[-1] = SearchWord(beginning, is_prefix=True)
        found.update(dict.fromkeys(words))
    if not found:
        raise ValueError("Give at least one letter or digit.")
    return list(found)
