"""What would be left out without a word: fields beside an example that its format does not know,
and that say whether the answer is good, or what else belongs to the example.

Fields are told by the words in their names, so that ``isCorrect``, ``overall_score`` and
``rejected_response`` count as ``correct``, ``score`` and ``rejected`` do. A field that is named in
``ignore`` is kept in ``meta`` like every other.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from datasets.formats.lines import Line

_EMPTY: tuple[Any, ...] = (None, "", [], {}, "[]", "{}")
MAX_FIELDS = 1_000  # beside an example, those within objects counted
_LONGEST_NUMBER = 40  # characters
_LONGEST_NAME = 200  # characters of a name that are looked at
_ITEMS = 20  # objects of a list that are looked at
_DEPTH = 4  # levels of objects in which verdicts are looked for
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


_NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]+)?( ?/ ?[0-9]+)?")


def _words(*names: str) -> frozenset[str]:
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Hazard:
    """Words in the name of a field that say something about an example; and what to do about
    them."""

    name: str
    words: frozenset[str]
    advice: str


# Any value counts.
_HAZARDS = (
    Hazard(
        "preference data",
        _words(
            *("chosen", "rejected", "winner", "loser", "preferred", "dispreferred"),
            *("preference", "preferences", "negative", "negatives", "choice"),
        ),
        "give both answers as chosen and rejected",
    ),
    Hazard(
        "an example with tools",
        _words("tool", "tools", "functions"),
        "give them in a format that has room for them, such as messages",
    ),
    Hazard(
        "an example with images, audio or video",
        _words("image", "images", "audio", "audios", "video", "videos"),
        "only text can be learnt",
    ),
    Hazard(
        "an example with a system prompt of its own",
        _words("system", "systeminstruction"),
        "make it the first of the messages, with the role system",
    ),
    Hazard(
        "an example with further input",
        _words(
            *("input", "inputs", "context", "contexts", "documents", "history"),
            *("instruction", "instructions", "choices", "options", "apis"),
        ),
        "make it part of the prompt",
    ),
    Hazard(
        "an example with reasoning apart from the answer",
        _words("reasoning", "thinking", "thought", "thoughts", "cot", "rationale"),
        "give it as reasoning_content of a message, or make it part of the answer",
    ),
    Hazard(
        "an example with a weight",
        _words("weight", "weights", "mask", "masks"),
        "an answer that is not to be learnt has weight 0 in its message",
    ),
    Hazard(
        "an example with a rating",
        _words(
            *("reward", "rewards", "score", "scores", "rating", "ratings", "rated"),
            *("rank", "ranks", "ranking", "stars", "grade", "grades", "graded", "confidence"),
            *("accuracy",),
        ),
        "keep the lines whose answer is good enough to learn",
    ),
)
# Beside a question and an answer alone: elsewhere a solution may be what a reward compares with.
_SOLUTION = Hazard(
    "an example with a solution apart from the answer",
    _words("solution", "solutions", "explanation", "explanations"),
    "give it as solution, with question and answer, or make it part of the answer",
)
# Verdicts: these words with true, false, a number, or a word for them. Other texts are topics.
_JUDGEMENTS = _words(
    *("label", "labels", "kto", "desirable", "undesirable", "correct", "incorrect", "correctness"),
    *("right", "wrong", "good", "bad", "better", "worse", "valid", "invalid", "accepted"),
    *("accept", "passed", "pass", "failed", "success", "successful", "solved", "resolved"),
    *("verdict", "verified", "vote", "votes", "upvotes", "downvotes", "thumbs", "thumb", "like"),
    *("liked", "likes", "dislikes", "feedback", "quality", "helpful", "helpfulness", "harmless"),
    *("harmful", "honest", "truthful", "factual", "safe", "unsafe", "toxic", "toxicity"),
    *("hallucination", "hallucinated", "coherence", "complexity", "verbosity", "target"),
    *("judgement", "judgment", "annotation", "annotations", "train", "trainable", "learn"),
    *("approved", "acceptable", "best", "gold", "flagged", "dislike", "decision"),
    *("ok", "okay"),
)
# These only with true, false, or a word for them: a number is something else.
_REMARKS = _words(
    *("status", "result", "outcome", "evaluation", "review", "use", "used", "keep", "kept"),
    *("skip", "skipped", "exclude", "excluded", "include", "included", "discard", "discarded"),
    *("delete", "deleted", "loss", "satisfied"),
)
# What stands together in one word, as in ``iscorrect`` and ``thumbsdown``.
_WITHIN = re.compile(
    r"^(is|was|has)?(label|correct|incorrect|wrong|thumbs?|score|rating|reward|rejected|chosen)"
    r"|(label|correct|incorrect|thumbs?|score|rating|reward|rejected|chosen)$"
)
_MARKS = ("👍", "👎", "✅", "❌")
_VERDICTS = _words(
    *("true", "yes", "y", "t", "1", "1.0", "good", "right", "correct", "positive", "great"),
    *("desirable", "chosen", "accepted", "preferred", "up", "win", "pass", "passed", "+", "++"),
    *("false", "no", "n", "f", "0", "0.0", "-1", "-1.0", "bad", "wrong", "incorrect", "negative"),
    *("undesirable", "rejected", "down", "loss", "lose", "tie", "fail", "failed", "poor", "-"),
    *("neutral", "mixed", "👍", "👎", "✅", "❌", "✓", "✗", "satisfied", "dissatisfied"),
    *("approved", "flagged", "acceptable", "unacceptable"),
)
_VERDICT_WORDS = _words("good", "bad", "wrong", "correct", "incorrect", "poor", "rejected")
_REMARK_WORDS = 5
_ANSWERS = _words(
    *("answer", "answers", "assistant", "chat", "completion", "conversation", "generation"),
    *("message", "messages", "model", "output", "response"),
)


_WORSE = _words("bad", "wrong", "worse", "incorrect", "good", "better", "alternative", "other")
_SUFFIXES = ("_a", "_b", "_1", "_2")


def hazard_of(
    line: Line, known: frozenset[str], ignored: Collection[str] = (), *, plain: bool = False
) -> str | None:
    """Return why a line cannot be imported although its example could be, or None.

    Empty fields do not count, since tables fill up rows with nulls.

    Args:
        known: the fields that the line's format knows.
        ignored: fields that say nothing about what is learnt.
        plain: the example is a question and an answer, with no room for a solution.
    """
    if line.keys() <= known:
        return None
    beside = {
        name: value for name, value in line.items() if name not in known and name not in ignored
    }
    filled = list(islice(_flat(beside, _DEPTH), MAX_FIELDS + 1))
    if len(filled) > MAX_FIELDS:
        return f"has more than {MAX_FIELDS:,} fields beside the example; leave them out"
    unknown = dict(filled)
    if sides := _sides(unknown):
        return _refusal("preference data", sides, "give both answers as chosen and rejected")
    for hazard in (*_HAZARDS, _SOLUTION) if plain else _HAZARDS:
        if found := sorted(name for name in unknown if hazard.words & words_in_name(name)):
            return _refusal(hazard.name, found, hazard.advice)
    if judged := sorted(name for name, value in unknown.items() if _is_judgement(name, value)):
        return _refusal(
            "an example with a verdict",
            judged,
            "give prompt, completion, and true or false as label, of which pairs are made; or keep"
            " the lines whose answer is good and leave the verdict out",
        )
    return None


def words_in_name(name: str) -> frozenset[str]:
    """Return the words in a name, in lower case: ``isCorrect``, ``is-correct`` and ``IS_CORRECT``
    have the same."""
    return _words_of(name[:_LONGEST_NAME])


@lru_cache(maxsize=4096)  # the same names come line after line
def _words_of(name: str) -> frozenset[str]:
    plain = {word.lower() for word in _WORD.findall(name)}
    return frozenset(plain | {re.sub(r"[^a-z]", "", name.lower())})


def _refusal(name: str, fields: list[str], advice: str) -> str:
    # not a list of objects and each of their fields
    outer = [name for name in fields if not any(name.startswith(f"{other}.") for other in fields)]
    shown = ", ".join(outer)
    shown = shown if len(shown) <= 120 else f"{shown[:118]} …"
    return (
        f"is {name} ({shown}), which would be left out: {advice}; or name it in ignore if it"
        " says nothing about what is to be learnt"
    )


def _flat(fields: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are filled; those within objects have names with dots."""
    for name, value in fields.items():
        if isinstance(value, dict) and value and depth:
            for inner, below in _flat(value, depth - 1):
                yield f"{name}.{inner}", below
            continue
        if value not in _EMPTY:
            yield str(name), value
        if isinstance(value, list) and depth:
            for item in value[:_ITEMS]:
                for inner, below in _flat(item if isinstance(item, dict) else {}, depth - 1):
                    yield f"{name}.{inner}", below


def _is_judgement(name: str, value: Any) -> bool:
    words = words_in_name(name)
    if "kto" in words or any(mark in name for mark in _MARKS):
        return True
    if _REMARKS & words and not _is_numeric(value) and _is_verdict(value):
        return True
    return (
        bool(_JUDGEMENTS & words) or any(_WITHIN.search(word) for word in words)
    ) and _is_verdict(value)


def _is_numeric(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and _is_number(value)
    )


def _is_verdict(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_verdict(item) for item in value)
    if isinstance(value, str):
        said = value.strip().lower()
        # A short remark, not a topic or a sentence
        return (
            said in _VERDICTS
            or _is_number(value)
            or (said.count(" ") <= _REMARK_WORDS and not _VERDICT_WORDS.isdisjoint(said.split()))
        )
    return isinstance(value, bool | int | float)


def _is_number(text: str) -> bool:
    return len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text.strip()) is not None


def _sides(fields: Collection[str]) -> list[str]:
    """Return fields with answers to choose from: ``response_a`` and ``response_b``,
    ``completion_b`` beside a completion, ``bad_answer``."""
    return sorted(
        name
        for name in fields
        if (words := words_in_name(name)) & _ANSWERS
        and (words & _WORSE or name[-2:].lower() in _SUFFIXES)
    )
