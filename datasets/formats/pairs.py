"""From lines to preference pairs: a prompt, a chosen answer, a rejected one."""

import re
from typing import Any

from datasets.examples import kinds
from datasets.examples.schema import ExampleData, json_kind
from datasets.formats.chats import message_of_turn, messages_of_turns, with_surroundings
from datasets.formats.lines import Line, LineError, plain_text, take_text

# Names of the scores of the chosen and of the rejected answer.
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)


def from_trl(line: Line) -> ExampleData:
    """Return a pair of ``chosen`` and ``rejected``, which are texts or messages; whole
    conversations share their beginning, which is the prompt."""
    prompt, chosen, rejected = line.pop("prompt", None), line.pop("chosen"), line.pop("rejected")
    if line.get("messages") == chosen:
        line.pop("messages")  # UltraFeedback says the chosen conversation twice
    begin: list[Any] = []
    if isinstance(chosen, list) and isinstance(rejected, list):
        while len(chosen) > 1 and len(rejected) > 1 and chosen[0] == rejected[0]:
            begin.append(chosen[0])
            chosen, rejected = chosen[1:], rejected[1:]
    asked = kinds.as_messages(prompt, "user")
    if begin and asked not in (None, [], begin, begin[-1:]):
        raise LineError("prompt: is not the beginning of chosen and rejected")
    return _pair(begin or asked, chosen, rejected, line)


def from_openai(line: Line) -> ExampleData:
    given = line.pop("input", None)
    if not isinstance(given, dict):
        raise LineError("input: must be an object with messages")
    chosen, rejected = line.pop("preferred_output", None), line.pop("non_preferred_output", None)
    rest = {name: value for name, value in given.items() if name != "messages"}
    return _pair(given.get("messages"), chosen, rejected, rest | line)


def from_llama_factory_chat(line: Line) -> ExampleData:
    prompt = messages_of_turns(line.pop("conversations"), "conversations")
    chosen, rejected = ([message_of_turn(line.pop(name), name)] for name in ("chosen", "rejected"))
    return _pair(prompt, chosen, rejected, line)


def from_llama_factory(line: Line) -> ExampleData:
    (instruction,) = plain_text(line, "instruction")
    further = take_text(line, "input")
    question = f"{instruction}\n{further}" if further else instruction
    return _pair(question, line.pop("chosen"), line.pop("rejected"), line)


_TURN = re.compile(r"\n\n(Human|Assistant):")


def is_hh(line: Line) -> bool:
    return isinstance(line["chosen"], str) and line["chosen"].lstrip().startswith("Human:")


def from_hh(line: Line) -> ExampleData:
    """Return one of Anthropic's helpful and harmless pairs: a whole dialogue as one text."""
    line["chosen"], line["rejected"] = (
        _dialogue(line[name], name) for name in ("chosen", "rejected")
    )
    return from_trl(line)


def _dialogue(text: Any, name: str) -> list[Line]:
    if not isinstance(text, str):
        raise LineError(f"{name}: must be text, not {json_kind(text)}")
    before, *turns = _TURN.split(f"\n\n{text.lstrip()}")
    if before.strip() or not turns:
        raise LineError(f"{name}: does not begin with Human: or Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(turns[::2], turns[1::2], strict=True)
    ]


def _pair(prompt: Any, chosen: Any, rejected: Any, rest: Line) -> ExampleData:
    if prompt is None:
        raise LineError("prompt: is missing, and chosen and rejected do not begin alike")
    messages, tools = with_surroundings(kinds.as_messages(prompt, "user"), rest)
    return kinds.preference(
        prompt=messages,
        chosen=kinds.as_messages(chosen, "assistant"),
        rejected=kinds.as_messages(rejected, "assistant"),
        tools=tools,
        scores=_take_scores(rest),
        meta=rest,
        tagged=True,
    )


def _take_scores(rest: Line) -> Line | None:
    """Take the scores of the answers out of a line. Raise LineError."""
    found = [names for names in SCORES if any(rest.get(name) not in (None, "") for name in names)]
    if not found:
        return None
    if len(found) > 1:
        raise LineError(f"{found[0][0]} and {found[1][0]}: give one of them")
    ((of_chosen, of_rejected),) = found
    chosen, rejected = (rest.pop(name, None) for name in found[0])
    if chosen is None or rejected is None:
        raise LineError(f"{of_chosen} and {of_rejected}: give both or none")
    numbers = all(type(score) in (int, float) for score in (chosen, rejected))
    if numbers and rejected > chosen:
        raise LineError(f"{of_rejected} is higher than {of_chosen}")
    return {"chosen": chosen, "rejected": rejected}
