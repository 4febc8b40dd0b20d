"""What a name must not hold: characters that cannot be seen, or that change how the text around
them reads."""

import unicodedata
from itertools import chain

_JOINERS = (  # zero width non-joiner and joiner: spelling in some scripts, and parts of emoji
    "\u200c\u200d"
)
# Not shown although their category does not say so: fillers, variation selectors and the like
# (Default_Ignorable_Code_Point of The Unicode Standard, without category Cf), and the empty Braille
# pattern.
_FILLERS = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0)
_RANGES = (
    range(0x180B, 0x1810),
    range(0xFE00, 0xFE10),
    range(0xFFF0, 0xFFF9),
    range(0xE0000, 0xE1000),
)
_NOT_SHOWN = frozenset(chain(_FILLERS, *_RANGES))


def name_problem(text: str) -> str | None:
    """Return why ``text`` cannot be shown as a name, as the end of a sentence that begins with it;
    or None."""
    for place, character in enumerate(text):
        if not _is_fit(text, place):
            named = f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
            return (
                f"must not hold {named}, which cannot be seen or changes how the text around it"
                " reads"
            )
    if text and not any(is_seen(character) for character in text):
        return "must hold a character that can be seen"
    return None


def is_blank(text: str) -> bool:
    """Return whether ``text`` holds nothing but white space and characters of no width, which
    ``str.strip`` leaves."""
    first = text[:1]
    if first.isascii() and first.isalnum():  # most texts
        return False
    return all(
        character.isspace()
        or unicodedata.category(character) == "Cf"
        or ord(character) in _NOT_SHOWN
        for character in text
    )


def _is_fit(text: str, place: int) -> bool:
    if text[place] in _JOINERS:
        return _is_spelling(text, place)
    return unicodedata.category(text[place]) not in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def _is_spelling(text: str, place: int) -> bool:
    """Return whether the joiner or non-joiner at ``place`` has an effect: after a virama, between
    Arabic letters, in an emoji."""
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if before and unicodedata.combining(before) == 9:
        return True
    if not before or not after:
        return False
    if {unicodedata.bidirectional(before), unicodedata.bidirectional(after)} <= {"AL", "NSM"}:
        return True
    is_emoji = before == "\ufe0f" or unicodedata.category(before) in ("So", "Sk")
    return is_emoji and text[place] == "\u200d" and unicodedata.category(after) in ("So", "Sm")


def is_seen(character: str) -> bool:
    """Return whether a character can be seen: no white space, no filler, nothing of no width."""
    return unicodedata.category(character)[0] not in "CZ" and ord(character) not in _NOT_SHOWN
