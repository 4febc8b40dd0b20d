"""The filter language of examples, in the grammar that all filters share (tunixrt/terms.py).

characters<4000 part:train -text:"as an AI" meta.level>=3 role:tool
"""

import math
import re
from collections.abc import Callable
from typing import Any

from datasets.cleaning.items import Item
from datasets.cleaning.paths import at
from datasets.examples.kinds import content_of, texts_of_example
from datasets.examples.messages import ROLES, Messages
from datasets.examples.words import words_of
from datasets.models import Kind, Split
from tunixrt.numbers import parse_number
from tunixrt.terms import RANGE, Language, Name, Term

TERMS_MAX = 50
_META = "meta."
_YES = {"yes": True, "true": True, "no": False, "false": False}


def _text(text: str) -> str:
    return text.casefold()


def _choice(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(f"{text!r} is unknown. There are {', '.join(known)}.")
        return text.lower()

    return read


def _number(text: str) -> float:
    return parse_number(text)


def _yes(text: str) -> bool:
    if text.lower() not in _YES:
        raise ValueError(f"{text!r} is neither yes nor no.")
    return _YES[text.lower()]


_MEASURES: dict[str, Callable[[Item], float]] = {
    "characters": lambda item: _length(texts_of_example(item.example)),
    "question_characters": lambda item: _length(texts_of_example(item.example)[:1]),
    "answer_characters": lambda item: _length(texts_of_example(item.example)[1:]),
    "words": lambda item: sum(
        len(words_of(text)) for texts in texts_of_example(item.example) for text in texts
    ),
    "messages": lambda item: len(_messages(item)),
    "steps": lambda item: len(item.example.steps),
}


def _length(parts: Any) -> int:
    return sum(len(text) for texts in parts for text in texts)


NAMES = {
    "text": Name(_text),
    "question": Name(_text),
    "answer": Name(_text),
    "final_answer": Name(_text),
    "part": Name(_choice(*Split.values)),
    "role": Name(_choice(*ROLES)),
    "tools": Name(_yes),
    "reasoning": Name(_yes),
    **{name: Name(_number, RANGE) for name in _MEASURES},
}


def _find(name: str) -> Name | None:
    if not name.lower().startswith(_META) or len(name) == len(_META):
        return None
    return Name(str, RANGE)


LANGUAGE = Language(
    NAMES,
    find=_find,
    known=f"{', '.join(sorted(NAMES))} and meta.<field>",
    pattern=re.compile(r"([A-Za-z_][\w.-]*)(:|<=|>=|<|>|=)"),
    negation=True,
)


def parse_filter(text: str) -> list[Term]:
    """Return the terms of a filter. Raise ValueError, with the character at which it is wrong."""
    terms = LANGUAGE.parse(text)
    if not terms:
        raise ValueError("This field holds no condition.")
    if len(terms) > TERMS_MAX:
        raise ValueError(f"This field has at most {TERMS_MAX} conditions, not {len(terms)}.")
    for term in terms:
        if term.name.lower().startswith(_META) and term.operator not in (":", "="):
            parse_number(term.value)
    return terms


def matches(item: Item, terms: list[Term]) -> bool:
    """Return whether all terms hold for an example."""
    return all(_holds(item, term) != term.negated for term in terms)


def _holds(item: Item, term: Term) -> bool:
    example = item.example
    match term.name:
        case "" | "text":
            return _holds_text([*_texts(item, 0), *_texts(item, 1)], term.value)
        case "question":
            return _holds_text(_texts(item, 0), term.value)
        case "answer":
            return _holds_text(_texts(item, 1), term.value)
        case "final_answer":
            return bool(example.final_answer.strip().casefold() == term.value.strip())
        case "part":
            return bool(item.split == term.value)
        case "role":
            return any(message["role"] == term.value for message in _messages(item))
        case "tools":
            return bool(("tools" in _content(item)) == term.value)
        case "reasoning":
            return bool(any("reasoning" in message for message in _messages(item)) == term.value)
    if term.name in _MEASURES:
        return _compare(_MEASURES[term.name](item), term.operator, term.value)
    found, value = at(example.meta, term.name[len(_META) :])
    return found and _meta_holds(value, term)


def _texts(item: Item, side: int) -> list[str]:
    return texts_of_example(item.example)[side]


def _holds_text(texts: list[str], part: str) -> bool:
    return any(part.casefold() in text.casefold() for text in texts)


def _content(item: Item) -> dict[str, Any]:
    return content_of(item.example)


def _messages(item: Item) -> Messages:
    content = _content(item)
    if item.example.kind == Kind.PREFERENCE:
        return [*content["prompt"], *content["chosen"], *content["rejected"]]
    messages: Messages = content["messages"]
    return messages


def _compare(value: float, operator: str, other: float) -> bool:
    match operator:
        case "<":
            return value < other
        case "<=":
            return value <= other
        case ">":
            return value > other
        case ">=":
            return value >= other
    return value == other


def _meta_holds(value: Any, term: Term) -> bool:
    """Return whether a term holds for a value of ``meta``. It holds for a list if it holds for one
    of its items. Numbers may be written as text."""
    if isinstance(value, list):
        return any(_meta_holds(item, term) for item in value if not isinstance(item, list))
    if term.operator in (":", "=") and _word(value).casefold() == term.value.casefold():
        return True
    try:
        wanted = parse_number(term.value)
        mine = math.nan if isinstance(value, bool | dict | None) else parse_number(str(value))
    except ValueError:
        return False
    return _compare(mine, term.operator, wanted)


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
