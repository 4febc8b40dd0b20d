"""Formats of JSONL lines: how a line is read, recognised and turned into a trace.

``TABLE`` is the one place where formats are told apart. Whatever a line could also pass for, the
most specific format counts: KTO data has a prompt and a completion, and half of its completions are
bad answers.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from datasets.models import Split
from datasets.schema import (
    MAX_STEPS,
    InvalidTrace,
    TraceData,
    json_kind,
    messages_problem,
    parse_trace,
)
from tunixrt.readable import is_blank

REASON_MAX_CHARACTERS = 300


class LineError(ValueError):
    """Why one line cannot be read; at most ``REASON_MAX_CHARACTERS``, whatever the line
    contains."""

    def __init__(self, reason: str):
        super().__init__(
            reason
            if len(reason) <= REASON_MAX_CHARACTERS
            else f"{reason[: REASON_MAX_CHARACTERS - 2]} …"
        )


# --- One line -------------------------------------------------------------------------------------


def parse_line(raw: bytes) -> dict[str, Any]:
    """The JSON object of one line. Raises LineError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise LineError(f"is not valid UTF-8 at byte {error.start + 1} of the line") from error
    try:
        value = orjson.loads(text)
        if not isinstance(value, dict):
            hint = (
                "; write one object a line, without a list around them"
                if isinstance(value, list)
                else ""
            )
            raise LineError(f"is {json_kind(value)}, not an object{hint}")
        # orjson is strict about everything but keys that come twice.
        json.loads(text, object_pairs_hook=_without_repeats)
    except orjson.JSONDecodeError as error:
        raise LineError(_json_reason(error, text)) from error
    except RecursionError as error:
        raise LineError("is nested too deeply") from error
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise LineError(f"has the key {repeated!r} twice")
    return result


def _json_reason(error: orjson.JSONDecodeError, text: str) -> str:
    rest = text[error.pos :].lstrip("-")
    if rest.startswith(("NaN", "Infinity")):
        return f"is not JSON: NaN and Infinity are no JSON numbers (character {error.pos + 1})"
    if error.msg.startswith("depth limit"):
        return "is nested too deeply"
    if "surrogate" in error.msg:
        return f"holds half a character, a lone surrogate (character {error.pos + 1})"
    if error.msg.startswith("number is infinity"):
        return f"holds a number too large for any reader (character {error.pos + 1})"
    return f"is not JSON: {error.msg} (character {error.pos + 1})"


# --- From a line to a trace -----------------------------------------------------------------------


_EXPORTED = frozenset({"id", "messages", "final_answer", "split"})


def _from_trace(line: dict[str, Any]) -> dict[str, Any]:
    return line


def _from_messages(line: dict[str, Any]) -> dict[str, Any]:
    *earlier, last = _messages(line.pop("messages"))
    return _example(earlier, [], last, line)


def _from_tunix_sft(line: dict[str, Any]) -> dict[str, Any]:
    """Our own export. The final answer is the end of the assistant's message, what stands before it
    are the steps."""
    if unknown := sorted(line.keys() - _EXPORTED):
        raise LineError(f"{', '.join(unknown)[:100]}: an export of this system has no such field")
    *earlier, last = _messages(line["messages"])
    final_answer = line["final_answer"]
    if final_answer is None:
        return _example(earlier, [], last, {})
    if not isinstance(final_answer, str):
        raise LineError(f"final_answer: must be text or null, not {json_kind(final_answer)}")
    if not last.endswith(f"\n{final_answer}"):
        raise LineError("final_answer: is not the end of the assistant's message")
    worked = last[: -len(final_answer) - 1]
    lines = worked.split("\n")
    steps = lines if len(lines) <= MAX_STEPS and all(line.strip() for line in lines) else [worked]
    return _example(earlier, steps, final_answer, {})


def _messages(messages: Any) -> list[Any]:
    """The messages before the answer, and the answer's text."""
    if problem := messages_problem(messages):
        raise LineError(f"messages: {problem.rstrip('.')}")
    if messages[-1]["role"] != "assistant":
        raise LineError("messages: the last message must be the assistant's")
    if is_blank(messages[-1]["content"]):
        raise LineError("messages: the assistant's answer is blank")
    return [*messages[:-1], messages[-1]["content"]]


def _from_prompt_completion(line: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = _texts(line, "prompt", "completion")
    return _example([{"role": "user", "content": prompt}], [], completion, line)


# A calculator mark of GSM8K (https://github.com/openai/grade-school-math), as in `48/2 =
# <<48/2=24>>24 clips`.
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKER = "####"


def _from_gsm8k(line: dict[str, Any]) -> dict[str, Any]:
    question, answer = _texts(line, "question", "answer")
    steps, marker, final = answer.partition(_MARKER)
    if not marker:
        way_out = "to learn all of it, name the fields prompt and completion"
        raise LineError(f"answer: has no line `{_MARKER} <final answer>` as GSM8K has; {way_out}")
    if steps and not steps.endswith("\n"):
        raise LineError(f"answer: `{_MARKER}` must stand at the start of a line")
    final = _THOUSANDS.sub("", final.strip())
    if not final:
        raise LineError(f"answer: nothing follows `{_MARKER}`")
    if "\n" in final or _MARKER in final:
        raise LineError(f"answer: the line `{_MARKER} <final answer>` must be the last one")
    lines = [step.strip() for step in _CALCULATION.sub("", steps).split("\n")]
    return _example(
        [{"role": "user", "content": question}], [step for step in lines if step], final, line
    )


def _texts(line: dict[str, Any], *fields: str) -> list[str]:
    texts = [line.pop(name) for name in fields]
    for name, text in zip(fields, texts, strict=True):
        if not isinstance(text, str):
            raise LineError(f"{name}: must be text, not {json_kind(text)}")
        if is_blank(text):
            raise LineError(f"{name}: must not be blank")
    return texts


def _example(
    earlier: list[dict[str, str]], steps: list[str], final_answer: str, rest: dict[str, Any]
) -> dict[str, Any]:
    """The trace of a conversation; fields that the format does not know are kept in ``meta``."""
    questions = [message["content"] for message in earlier if message["role"] == "user"]
    if not questions:
        raise LineError("messages: there is no message of the user before the answer")
    meta = dict(rest)
    if len(earlier) > 1:
        meta["messages"] = earlier
    elif "messages" in meta:
        raise LineError("messages: this format has no such field")
    return {
        "prompt": questions[-1],
        "steps": [
            {"i": number, "type": "reasoning", "content": step} for number, step in enumerate(steps)
        ],
        "final_answer": final_answer,
        "meta": meta,
    }


# --- Telling formats apart ------------------------------------------------------------------------

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table.

    Attributes:
        name: what it is called: by a request (``format``) or, where it cannot be imported, in the
            refusal.
        keys: what every line of it has.
        any_of: of these it has at least one.
        matches: what else tells it from others, in words where it can say so; None: the keys are
            enough.
        convert: how a line becomes a trace; None: it cannot be imported yet.
        advice: what to do about one that cannot be imported.
    """

    name: str
    keys: frozenset[str] = frozenset()
    any_of: frozenset[str] = frozenset()
    matches: Callable[[Line], str | bool] | None = None
    convert: Callable[[Line], dict[str, Any]] | None = None
    advice: str = ""

    def fits(self, line: Line) -> bool:
        if not self.keys <= line.keys() or (self.any_of and self.any_of.isdisjoint(line)):
            return False
        return self.matches is None or bool(self.matches(line))

    def refusal(self, line: Line) -> str:
        found = self.matches(line) if self.matches is not None else None
        detail = (
            found
            if isinstance(found, str)
            else ", ".join(sorted(self.keys | (self.any_of & line.keys())))
        )
        return f"is {self.name} ({detail}), which cannot be imported yet: {self.advice}"


def _keys(*names: str) -> frozenset[str]:
    return frozenset(names)


def _beside(name: str, fields: frozenset[str], advice: str) -> Format:
    """Return the format of an example that could be imported if one of ``fields`` were not there:
    it would be left out silently.

    Empty fields do not count, since tables fill up rows with nulls. ``fields`` are in lower case;
    those of a line may be in any.
    """

    def filled(line: Line) -> str:
        if not _holds_example(line):
            return ""
        return ", ".join(
            sorted(
                field
                for field, value in line.items()
                if field.lower() in fields and value not in (None, "", [], {}, "[]", "{}")
            )
        )

    return Format(name, matches=filled, advice=advice)


def _holds_example(line: Line) -> bool:
    return "messages" in line or "prompt" in line or "question" in line


_JUDGEMENTS = _keys(
    "label",
    "labels",
    "kto_tag",
    "desirable",
    "is_desirable",
    "is_correct",
    "correct",
    "correctness",
    "is_good",
    "preferred",
    "is_preferred",
    "thumbs_up",
)
# The texts that stand for true and false; other texts in a label are topics.
_VERDICTS = _keys(
    *("true", "yes", "y", "t", "1", "1.0", "good", "right", "correct", "positive"),
    *("desirable", "chosen", "accepted", "preferred"),
    *("false", "no", "n", "f", "0", "0.0", "-1", "-1.0", "bad", "wrong", "incorrect", "negative"),
    *("undesirable", "rejected"),
)


def _label(line: Line) -> str:
    """Return the fields that say whether the answer is good.

    A label in other words is a topic. An empty one says nothing: tables fill up rows with nulls,
    and a file with verdicts in other rows is refused for those.
    """
    if not _holds_example(line):
        return ""
    judged = sorted(
        name
        for name, value in line.items()
        if (plain := name.strip().lower().replace("-", "_")) in _JUDGEMENTS
        and (plain == "kto_tag" or _is_verdict(value))
    )
    if not judged:
        return ""
    return ", ".join(
        [*(name for name in ("prompt", "completion") if "completion" in line), *judged]
    )


def _is_verdict(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_verdict(item) for item in value)
    if isinstance(value, str):
        return value.strip().lower() in _VERDICTS
    return value in (True, False, -1)


def _has_pair(line: Line) -> str:
    """Chosen and rejected answers that are filled in: tables fill up rows with nulls."""
    return ", ".join(
        name for name in ("chosen", "rejected") if line.get(name) not in (None, "", [])
    )


def _is_hh(line: Line) -> bool:
    return isinstance(line["chosen"], str) and line["chosen"].lstrip().startswith("Human:")


def _has_no_answer(line: Line) -> bool:
    answers = {
        "completion",
        "completions",
        "final_answer",
        "response",
        "responses",
        "output",
        "outputs",
    }
    return not answers & line.keys()


# Fields of a message beside role and content, and what they are called.
_MESSAGE_FIELDS = {
    "tool_calls": "tool calls",
    "function_call": "tool calls",
    "tool_call_id": "tool results",
    "weight": "weights",
    "reasoning_content": "reasoning apart from the answer",
    "reasoning": "reasoning apart from the answer",
    "thinking": "reasoning apart from the answer",
    "images": "images",
    "audio": "audio",
    "name": "names of speakers",
}


def _feature_of_messages(line: Line) -> str:
    """What the messages have that plain ones have not, and where; empty: nothing."""
    messages = line["messages"]
    if not isinstance(messages, list):
        return ""
    for number, message in enumerate(messages, start=1):
        if isinstance(message, dict) and (feature := _feature_of_message(message)):
            return f"{feature} in message {number}"
    return ""


def _feature_of_message(message: Line) -> str:
    for field, feature in _MESSAGE_FIELDS.items():
        if message.get(field) not in (None, "", [], {}):
            return feature
    if message.get("role") in ("developer", "tool", "function", "observation"):
        return f"the role {message['role']}"
    content = message.get("content")
    if not isinstance(content, list):
        return ""
    kinds = [str(part.get("type")) for part in content if isinstance(part, dict)]
    return next(
        (f"a part of type {kind[:40]}" for kind in kinds if kind != "text"), "content in parts"
    )


def _is_conversational(line: Line) -> bool:
    return isinstance(line["prompt"], list) or isinstance(line["completion"], list)


_ANSWERED = "prompt and completion, or as messages"
_PAIRS = f"to learn the chosen answers alone, write them as {_ANSWERED}"
_WORKED = (
    "write them as question and answer of GSM8K, whose last line is `#### <final answer>`, or as"
    " prompt and completion"
)
_PLAIN = f"write it as {_ANSWERED}"


# The most specific first: the first that fits counts.
TABLE: tuple[Format, ...] = (
    # Pairs and labels: some of these answers are bad ones.
    Format(
        "preference data of OpenAI",
        any_of=_keys("preferred_output", "non_preferred_output"),
        advice=_PAIRS,
    ),
    Format(
        "preference data of UltraFeedback",
        _keys("prompt", "chosen", "rejected", "messages"),
        advice=_PAIRS,
    ),
    Format(
        "preference data of LLaMA-Factory",
        _keys("conversations", "chosen", "rejected"),
        advice=_PAIRS,
    ),
    Format(
        "preference data of LLaMA-Factory",
        _keys("instruction", "chosen", "rejected"),
        advice=_PAIRS,
    ),
    Format(
        "preference data of Anthropic HH",
        _keys("chosen", "rejected"),
        matches=_is_hh,
        advice=_PAIRS,
    ),
    Format("preference data", any_of=_keys("chosen", "rejected"), matches=_has_pair, advice=_PAIRS),
    Format(
        "KTO data",
        matches=_label,
        advice=(
            "to learn the good answers alone, keep the lines whose label is true and leave the"
            " label out"
        ),
    ),
    # Our own export.
    Format("tunix_sft", _EXPORTED, convert=_from_tunix_sft),
    Format(
        "both a trace and a chat",
        _keys("messages", "final_answer"),
        advice=(
            "leave one of them out; the conversation before a trace's prompt goes into"
            " meta.messages"
        ),
    ),
    # Formats of other tools and datasets.
    Format("function calls of xLAM", _keys("query", "answers", "tools"), advice=_PLAIN),
    Format("a chat of Vertex", _keys("contents"), advice=_PLAIN),
    Format(
        "a message of OASST",
        _keys("message_id", "parent_id", "text"),
        advice=f"write each conversation as {_ANSWERED}",
    ),
    Format("OpenMathReasoning", _keys("problem", "generated_solution"), advice=_WORKED),
    Format("OpenR1-Math", _keys("problem", "solution", "generations"), advice=_WORKED),
    Format("worked mathematics", _keys("problem", "solution"), advice=_WORKED),
    Format("Dolly", _keys("instruction", "response"), advice=_PLAIN),
    Format("Alpaca", _keys("instruction", "output"), advice=_PLAIN),
    Format("ShareGPT", _keys("conversations"), advice="write it as messages of role and content"),
    # What would be left out of the training in silence.
    _beside(
        "an example with tools",
        _keys(
            "tools",
            "functions",
            "function_call",
            "tool_calls",
            "tool_choice",
            "parallel_tool_calls",
        ),
        "leave the field out to train without them",
    ),
    _beside(
        "an example with images, audio or video",
        _keys("image", "images", "audio", "audios", "video", "videos"),
        "only text can be learnt",
    ),
    _beside(
        "an example with a system prompt of its own",
        _keys("system", "system_prompt", "systeminstruction"),
        "make it the first of the messages, with the role system",
    ),
    _beside(
        "an example with further input",
        _keys("input", "context", "documents", "history"),
        "make it part of the prompt",
    ),
    _beside(
        "an example with reasoning apart from the answer",
        _keys("reasoning", "reasoning_content", "thinking", "chain_of_thought", "cot", "rationale"),
        "make it part of the answer, or leave the field out",
    ),
    _beside("an example with a weight", _keys("weight", "sample_weight"), "leave the field out"),
    _beside(
        "an example with a rating",
        _keys("reward", "rewards", "score", "scores", "rating", "ratings"),
        "keep the lines whose answer is good enough to learn, and leave the field out",
    ),
    Format(
        "a chat with more than text",
        _keys("messages"),
        matches=_feature_of_messages,
        advice="only plain text of system, user and assistant is read",
    ),
    Format(
        "a prompt and completion made of messages",
        _keys("prompt", "completion"),
        matches=_is_conversational,
        advice="write both as one list, messages",
    ),
    # What can be imported.
    Format("messages", _keys("messages"), convert=_from_messages),
    Format("gsm8k", _keys("question", "answer"), convert=_from_gsm8k),
    Format("prompt_completion", _keys("prompt", "completion"), convert=_from_prompt_completion),
    Format("trace", _keys("prompt", "final_answer"), convert=_from_trace),
    # What has no answer to learn.
    Format(
        "a prompt without an answer to learn",
        _keys("prompt"),
        matches=_has_no_answer,
        advice="to learn an answer, name it completion",
    ),
    Format(
        "plain text",
        _keys("text"),
        matches=lambda line: isinstance(line["text"], str),
        advice=_PLAIN,
    ),
)

# What can be imported, by name.
FORMATS = {known.name: known for known in TABLE if known.convert is not None}


def recognise(line: Line) -> str:
    """The name of a line's format. Raises LineError, also for a format that cannot be imported."""
    found = _find(line)
    if found is None:
        keys = ", ".join(sorted(line)[:10]) or "none"
        raise LineError(f"is of no known format: its keys are {keys}"[:200] + _way_out(line))
    if found.convert is None:
        raise LineError(found.refusal(line))
    return found.name


def _find(line: Line) -> Format | None:
    return next((known for known in TABLE if known.fits(line)), None)


def _way_out(line: Line) -> str:
    """What may be meant by a line of no known format."""
    lists = [
        name
        for name, value in line.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if len(lists) == 1:
        return f"; if the examples stand in {lists[0][:40]!r}, write them one a line"
    return ""


def to_trace(line: Line, format_name: str) -> tuple[TraceData, str | None]:
    """The trace of a line, and the part that the line names itself.

    Raises LineError, also where the line is of a more specific format than the one it is taken for.
    """
    known = FORMATS[format_name]
    found = _find(line)
    if found is not None and found.convert is None:
        raise LineError(found.refusal(line))
    if missing := sorted(known.keys - line.keys()):
        raise LineError(f"is no {format_name} line: {', '.join(missing)} is missing")
    if found is not None and found.keys > known.keys:
        raise LineError(f"is a {found.name} line, not a {format_name} line")
    assert known.convert is not None
    split = line.get("split")
    if "split" in line and split not in Split.values:
        raise LineError(f'split: must be "train" or "held_out", not {split!r}'[:200])
    rest = {
        key: value for key, value in line.items() if key != "split" or format_name == "tunix_sft"
    }
    try:
        return parse_trace(known.convert(rest)), split
    except InvalidTrace as error:
        raise LineError(str(error).rstrip(".")) from error
