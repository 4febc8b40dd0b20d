"""The table of formats: what lines are recognised as, and what becomes of them.

Whatever a line could also pass for, the most specific format counts; and a line with a field that
its format does not know, but that says something about the example (a verdict, a rating, an image),
is refused: it would be left out without a word.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from datasets.examples.messages import InvalidMessages
from datasets.examples.schema import ExampleData, InvalidTrace
from datasets.formats import chats, exports, generations, glaive, pairs, traces
from datasets.formats.answers import ANSWERS
from datasets.formats.hazards import hazard_of
from datasets.formats.lines import Line, LineError
from datasets.formats.verdicts import VALIDITY, verdict_of
from datasets.models import Kind, Split

Convert = Callable[[Line], ExampleData]
TEXT = "text"  # a kind that can be asked for: a conversation of one text, all of which is learnt
KINDS = (*(kind.value for kind in Kind), TEXT)


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table.

    Attributes:
        name: what a request calls it.
        keys: what every line of it has.
        any_of: of these it has at least one.
        matches: what else tells it from others; None: the keys are enough.
        converts: how a line becomes an example, by the kind of the example. The first is taken
            where none is asked for, unless ``asked``.
        also: further fields that it knows.
        flags: fields that it knows if they are true or false.
        grouped: several lines become an example together (datasets/formats/grouping.py), as lines
            that ``converts`` takes.
        ignorable: a line is not of it where one of its keys is to be ignored.
        plain: a question and an answer, with no room for a solution apart from the answer.
        asked: a kind must be asked for.
        advice: what to do about one that cannot be imported.
    """

    name: str
    keys: frozenset[str] = frozenset()
    any_of: frozenset[str] = frozenset()
    matches: Callable[[Line], bool] | None = None
    converts: Mapping[str, Convert] = field(default_factory=dict)
    also: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    grouped: bool = False
    ignorable: bool = False
    plain: bool = False
    asked: bool = False
    advice: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """Those that it knows; every line may have an id and name its part."""
        return self.keys | self.any_of | self.also | {"id", "split"}

    def knows(self, line: Line) -> frozenset[str]:
        """Return the fields of a line that it knows."""
        flags = [name for name in self.flags if verdict_of(line.get(name)) is not None]
        return _FIELDS[self.name].union(flags) if flags else _FIELDS[self.name]

    def fits(self, line: Line) -> bool:
        if not self.keys <= line.keys() or (self.any_of and self.any_of.isdisjoint(line)):
            return False
        return self.matches is None or self.matches(line)


def _keys(*names: str) -> frozenset[str]:
    return frozenset(names)


def _has_pair(line: Line) -> bool:
    """Return whether a line has both answers of a pair, which are filled: tables fill up rows with
    nulls."""
    return all(line[name] not in (None, "", []) for name in ("chosen", "rejected"))


def _is_conversational(line: Line) -> bool:
    return isinstance(line["prompt"], list) or isinstance(line["completion"], list)


def _has_no_answer(line: Line) -> bool:
    answers = {"completion", "completions", "response", "responses", "output", "outputs"}
    return not answers & line.keys()


_CHAT = _keys(*chats.SYSTEM_FIELDS, *chats.TOOL_FIELDS, "parallel_tool_calls", "tool_choice")
_PAIR = _CHAT | _keys(
    *(name for names in pairs.SCORES for name in names),
    # UltraFeedback as Argilla has it, and the pairs of Tulu 3
    *("chosen-model", "rejected-model", "chosen_model", "rejected_model"),
)
# Of NuminaMath 1.5, which OpenR1-Math takes over.
_NUMINA = _keys(*ANSWERS, "messages", "problem_type", "question_type", *VALIDITY)
_TRACE, _CONVERSATION = Kind.TRACE.value, Kind.CONVERSATION.value
_PREFERENCE, _PROMPT = Kind.PREFERENCE.value, Kind.PROMPT.value


def _worked(known: traces.Worked) -> dict[str, Convert]:
    return {_TRACE: known.to_trace, _CONVERSATION: known.to_chat, _PROMPT: known.to_prompt}


# The most specific first: the first that fits counts.
TABLE: tuple[Format, ...] = (
    # Our own exports.
    Format(
        "examples",
        _keys("kind", "meta", "split"),
        matches=lambda line: line["kind"] in Kind.values and "id" not in line,
        converts=dict.fromkeys(Kind.values, exports.from_examples),
        also=_keys(
            *("prompt", "steps", "final_answer", "messages", "tools", "chosen", "rejected"),
            *("scores", "trace_version"),
        ),
    ),
    Format(
        "tunix_preference",
        _keys("id", "kind", "prompt", "chosen", "rejected", "split"),
        converts={_PREFERENCE: exports.from_tunix_preference},
        also=_keys("tools", "scores", "meta"),
    ),
    Format(
        "tunix_prompts",
        _keys("id", "kind", "messages", "final_answer", "split"),
        matches=lambda line: line["kind"] == Kind.PROMPT,
        converts={_PROMPT: exports.from_tunix_prompts},
        also=_keys("tools", "meta"),
    ),
    Format(
        "tunix_sft",
        _keys("id", "messages", "final_answer", "split"),
        converts={_TRACE: exports.from_tunix_sft, _CONVERSATION: exports.from_tunix_sft},
        also=_keys("kind", "tools", "meta"),
    ),
    # Pairs.
    Format(
        "openai_preference",
        any_of=_keys("preferred_output", "non_preferred_output"),
        converts={_PREFERENCE: pairs.from_openai},
        also=_PAIR | _keys("input"),
    ),
    Format(
        "llama_factory_preference_chat",
        _keys("conversations", "chosen", "rejected"),
        converts={_PREFERENCE: pairs.from_llama_factory_chat},
        also=_PAIR,
    ),
    Format(
        "llama_factory_preference",
        _keys("instruction", "chosen", "rejected"),
        converts={_PREFERENCE: pairs.from_llama_factory},
        also=_PAIR | _keys("input"),
    ),
    Format(
        "hh",
        _keys("chosen", "rejected"),
        matches=pairs.is_hh,
        converts={_PREFERENCE: pairs.from_hh},
        also=_PAIR,
    ),
    Format(
        "preference",
        _keys("chosen", "rejected"),
        matches=_has_pair,
        converts={_PREFERENCE: pairs.from_trl},
        also=_PAIR | _keys("prompt", "messages"),
    ),
    Format(
        "both a trace and a chat",
        _keys("messages", "final_answer"),
        advice="leave one of them out",
    ),
    # Formats of other tools and datasets.
    Format(
        "xlam",
        _keys("query", "answers", "tools"),
        converts={_CONVERSATION: chats.from_xlam},
        also=_CHAT,
    ),
    Format(
        "glaive",
        _keys("system", "chat"),
        matches=glaive.is_glaive,
        converts={_CONVERSATION: glaive.from_glaive},
    ),
    Format("vertex", _keys("contents"), converts={_CONVERSATION: chats.from_vertex}, also=_CHAT),
    Format(
        "oasst",
        _keys("message_id", "parent_id", "text"),
        converts={_CONVERSATION: chats.from_messages, _PREFERENCE: pairs.from_trl},
        grouped=True,
        also=_keys(
            *("role", "rank", "deleted", "review_result", "review_count", "labels", "emojis"),
            *("detoxify", "synthetic", "model_name", "lang", "message_tree_id", "tree_state"),
            *("user_id", "created_date"),
        ),
    ),
    Format(
        "open_math",
        _keys("problem", "generated_solution"),
        converts=_worked(traces.OPEN_MATH),
        # the pass rate is of other answers to the problem, not a verdict on this one
        also=_keys(
            *(*ANSWERS, "problem_type", "problem_source", "generation_model"),
            *("pass_rate_72b_tir", "inference_mode", "used_in_kaggle"),
        ),
    ),
    Format(
        "open_r1",
        _keys("problem", "generations"),
        any_of=_keys(*generations.VERDICTS),
        converts={
            _CONVERSATION: generations.from_open_r1,
            _TRACE: traces.WORKED.to_trace,
            _PROMPT: traces.WORKED.to_prompt,
        },
        also=_NUMINA
        | _keys("solution", "is_reasoning_complete", "finish_reasons", "correctness_count"),
    ),
    Format(
        "worked",
        _keys("problem", "solution"),
        converts=_worked(traces.WORKED),
        also=_NUMINA,
    ),
    Format(
        "dolly",
        _keys("instruction", "response"),
        converts={_CONVERSATION: chats.from_dolly},
        also=_CHAT | _keys("context"),
        plain=True,
    ),
    Format(
        "alpaca",
        _keys("instruction", "output"),
        converts={_CONVERSATION: chats.from_alpaca},
        also=_CHAT | _keys("input", "history"),
        plain=True,
    ),
    Format(
        "sharegpt",
        _keys("conversations"),
        converts={_CONVERSATION: chats.from_sharegpt},
        also=_CHAT,
        flags=_keys("custom_instruction", "skip_prompt_formatting"),  # OpenHermes 2.5
    ),
    Format(
        "messages", _keys("messages"), converts={_CONVERSATION: chats.from_messages}, also=_CHAT
    ),
    Format(
        "worked_question",
        _keys("question", "solution"),
        any_of=_keys(*ANSWERS),
        matches=traces.is_worked_question,
        converts=_worked(traces.WORKED_QUESTION),
        also=_NUMINA,
        ignorable=True,
    ),
    Format(
        "gsm8k",
        _keys("question", "answer"),
        matches=traces.is_gsm8k,
        converts={_TRACE: traces.from_gsm8k, _PROMPT: traces.prompt_from_gsm8k},
        plain=True,
    ),
    Format(
        "question_answer",
        _keys("question", "answer"),
        converts={
            _TRACE: traces.from_question_answer,
            _CONVERSATION: traces.chat_of_question_answer,
            _PROMPT: traces.prompt_from_question_answer,
        },
        plain=True,
    ),
    Format(
        "kto",
        _keys("prompt", "completion", "label"),
        matches=lambda line: verdict_of(line["label"]) is not None,
        converts={
            _PREFERENCE: pairs.from_trl,
            _TRACE: traces.from_prompt_completion,
            _CONVERSATION: chats.from_prompt_completion,
        },
        grouped=True,
        also=_CHAT,
        plain=True,
    ),
    Format(
        "prompt_completion_chat",
        _keys("prompt", "completion"),
        matches=_is_conversational,
        converts={_CONVERSATION: chats.from_prompt_completion},
        also=_CHAT,
    ),
    Format(
        "prompt_completion",
        _keys("prompt", "completion"),
        converts={
            _TRACE: traces.from_prompt_completion,
            _CONVERSATION: traces.chat_of_prompt_completion,
        },
        plain=True,
    ),
    Format(
        "trace",
        _keys("prompt", "final_answer"),
        matches=lambda line: isinstance(line["prompt"], str),
        converts={_TRACE: traces.from_trace, _PROMPT: traces.prompt_from_trace},
    ),
    Format(
        "prompt",
        _keys("prompt"),
        matches=_has_no_answer,
        converts={_PROMPT: traces.from_prompt},
        also=_keys("tools", "reward_model", *traces.REFERENCES),
    ),
    Format(
        "text",
        _keys("text"),
        matches=lambda line: isinstance(line["text"], str),
        converts={TEXT: chats.from_text},
        asked=True,
        advice="to learn all of it as it is, ask for kind=text",
    ),
)

_FIELDS = {known.name: known.fields for known in TABLE}
_FEW = 32  # keys of a line that are remembered
# What can be imported, by name.
FORMATS = {known.name: known for known in TABLE if known.converts}


def recognise(line: Line, kind: str | None = None, ignored: Collection[str] = ()) -> str:
    """Return the name of a line's format. Raise LineError, also for a format that cannot be
    imported."""
    found = _find(line, ignored)
    if found is None:
        keys = ", ".join(sorted(line)[:10]) or "none"
        raise LineError(f"is of no known format: its keys are {keys}"[:200] + _way_out(line))
    _check(found, line, kind, ignored)
    return found.name


def is_known(line: Line) -> bool:
    """Return whether a line is of any format in the table."""
    return _find(line) is not None


def _find(line: Line, ignored: Collection[str] = ()) -> Format | None:
    for known in _with_keys(tuple(line)) if len(line) <= _FEW else TABLE:
        if known.fits(line) and not (
            (known.grouped or known.ignorable) and known.keys.intersection(ignored)
        ):
            return known
    return None


@lru_cache(maxsize=1024)  # the same keys come line after line
def _with_keys(keys: tuple[str, ...]) -> tuple[Format, ...]:
    """Return the formats that lines with these keys can be of."""
    return tuple(
        known
        for known in TABLE
        if known.keys.issubset(keys) and (not known.any_of or not known.any_of.isdisjoint(keys))
    )


def _check(found: Format, line: Line, kind: str | None, ignored: Collection[str]) -> None:
    """Raise LineError if a line that is of this format cannot be imported."""
    if found.converts and (
        hazard := hazard_of(line, found.knows(line), ignored, plain=found.plain)
    ):
        raise LineError(hazard)
    if not found.converts or (found.asked and kind is None):
        detail = ", ".join(sorted(found.keys | (found.any_of & line.keys())))
        name = "plain text" if found.name == TEXT else found.name
        raise LineError(f"is {name} ({detail}), which is not imported as it is: {found.advice}")


def _way_out(line: Line) -> str:
    """Return what may be meant by a line of no known format."""
    lists = [
        name
        for name, value in line.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if len(lists) == 1:
        return f"; if the examples stand in {lists[0][:40]!r}, write them one a line"
    return "; a mapping says which of them is what" if line else ""


def to_example(
    line: Line, format_name: str, kind: str | None = None, ignored: Collection[str] = ()
) -> tuple[ExampleData, str | None]:
    """Return the example of a line, and the part that the line names itself. Raise LineError, as
    ``check_line`` does, and for a line that becomes an example together with others."""
    rest, split = check_line(line, format_name, kind, ignored)
    if FORMATS[format_name].grouped:
        raise LineError("becomes an example together with other lines")
    return convert(rest, format_name, kind), split


def check_line(
    line: Line, format_name: str, kind: str | None = None, ignored: Collection[str] = ()
) -> tuple[Line, str | None]:
    """Return the line without the part that it names, and that part.

    ``kind`` is what the example is to be; None: what its format is taken for. ``ignored``: fields
    that say nothing about what is to be learnt. Raise LineError, also where the line is of a more
    specific format than the one it is taken for.
    """
    known = FORMATS[format_name]
    found = _find(line, ignored)
    if found is not known:
        if found is not None:
            _check(found, line, kind, ignored)
        if missing := sorted(known.keys - line.keys()):
            raise LineError(f"is no {format_name} line: {', '.join(missing)} is missing")
        if found is not None and TABLE.index(found) < TABLE.index(known):
            raise LineError(f"is a {found.name} line, not a {format_name} line")
    _check(known, line, kind, ignored)
    split = line.get("split")
    if "split" in line and split not in Split.values:
        raise LineError(f'split: must be "train" or "held_out", not {split!r}'[:200])
    _converter(known, kind)
    return {name: value for name, value in line.items() if name != "split"}, split


def convert(line: Line, format_name: str, kind: str | None) -> ExampleData:
    """Return the example of a line that was checked, or of several of them together. Raise
    LineError."""
    try:
        example = _converter(FORMATS[format_name], kind)(line)
        if kind not in (None, TEXT, example.kind):
            raise LineError(f"is a {example.kind}, not a {kind}")
        return example
    except InvalidTrace as error:
        raise LineError(str(error).rstrip(".")) from error
    except InvalidMessages as error:
        raise LineError(str(error)) from error


def _converter(known: Format, kind: str | None) -> Convert:
    if kind is None:
        return next(iter(known.converts.values()))
    if kind not in known.converts:
        kinds = " or ".join(known.converts)
        raise LineError(f"is a {known.name} line, which becomes a {kinds}, not a {kind}")
    return known.converts[kind]
