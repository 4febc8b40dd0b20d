"""Names of runs: generated where a request gives none, and what a search finds them by. The id
stays the key; names may repeat."""

import random
import re
import unicodedata

NAME_MAX_LENGTH = 128

ADJECTIVES = (
    "amber", "ample", "azure", "bold", "brave", "bright", "brisk", "calm", "candid", "clear",
    "clever", "coral", "crisp", "deep", "deft", "eager", "early", "even", "fair", "fine", "fleet",
    "fresh", "frank", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "honest",
    "humble", "jolly", "keen", "kind", "light", "lively", "loyal", "lucid", "mellow", "merry",
    "mild", "modest", "neat", "nimble", "noble", "patient", "plain", "polite", "proud", "quick",
    "quiet", "rapid", "ready", "scarlet", "serene", "silver", "smooth", "steady", "sunny", "swift",
    "tidy", "vivid", "warm",
)  # fmt: skip
NOUNS = (
    "acorn", "alder", "anchor", "arbor", "aspen", "badger", "basin", "beacon", "beaver", "birch",
    "breeze", "bridge", "brook", "canyon", "cedar", "cliff", "cloud", "clover", "comet", "coral",
    "cove", "crane", "creek", "delta", "dune", "falcon", "fern", "fjord", "forest", "garden",
    "glacier", "harbor", "hazel", "heron", "hill", "island", "juniper", "lagoon", "lake", "lantern",
    "larch", "maple", "marsh", "meadow", "meteor", "orchard", "otter", "pebble", "pine", "planet",
    "prairie", "reef", "ridge", "river", "robin", "spruce", "stone", "stream", "summit", "thicket",
    "valley", "willow", "wren", "zephyr",
)  # fmt: skip

_WORD = re.compile(r"[^\W_]+")
_ATTEMPT = re.compile(r" #\d+\Z")


def make_name() -> str:
    """Return two words and a number, such as ``brisk-otter-4127``."""
    chosen = random.choice(ADJECTIVES), random.choice(NOUNS), random.randrange(1000, 10_000)
    return "{}-{}-{}".format(*chosen)


def name_of_retry(name: str, attempt: int) -> str:
    """Return the name of the ``attempt``-th run in a chain of retries: ``brisk-otter-4127 #2``."""
    return _with_suffix(_ATTEMPT.sub("", name), f" #{attempt}")


def name_of_extension(name: str, added: int, unit: str) -> str:
    """Return the name of a run that adds so many epochs or steps: ``brisk-otter-4127 +2
    epochs``."""
    return _with_suffix(name, f" +{added} {unit}{'' if added == 1 else 's'}")


def _with_suffix(name: str, suffix: str) -> str:
    room = NAME_MAX_LENGTH - len(suffix)
    return (name if len(name) <= room else f"{name[: room - 1]}…") + suffix


# --- what a search finds a name by ----------------------------------------------------------------


def search_keys(name: str) -> set[bytes]:
    """Return the name from each of its words on, each as ``search_key`` writes it: a search goes by
    the beginning of one."""
    text = _comparable(name)
    return {text[word.start() :].encode() for word in _WORD.finditer(text)} or {text.encode()}


def search_key(text: str) -> bytes:
    """Return what the keys of the names that hold ``text``, from the beginning of a word on, begin
    with.

    Signs before the first word of ``text`` are not in it; ``begins_with_sign`` tells whether there
    are any.
    """
    comparable = _comparable(text)
    word = _WORD.search(comparable)
    return (comparable[word.start() :] if word else comparable).encode()


def holds_word(text: str) -> bool:
    """Return whether there is a letter or a digit in ``text``."""
    return _WORD.search(text) is not None


def begins_with_sign(text: str) -> bool:
    """Return whether ``text`` has signs, and then a word: ``#2``."""
    comparable = _comparable(text)
    word = _WORD.search(comparable)
    return word is not None and word.start() > 0


def name_holds(name: str, text: str) -> bool:
    """Return whether ``name`` has ``text`` in it, whatever its case."""
    return _comparable(text) in _comparable(name)


def after_key(key: bytes) -> bytes:
    """Return what lies behind every key that begins with ``key``: no UTF-8 text holds this byte."""
    return key + b"\xff"


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip().casefold())
