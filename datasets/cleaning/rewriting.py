"""Operations that change examples: fields moved, texts masked, long answers shortened, reasoning
made part of the answer."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PlainValidator, WithJsonSchema

from datasets.cleaning.items import Item, Spoilt, Work, build, fields_of
from datasets.cleaning.masking import KINDS, mask
from datasets.cleaning.operation import Operation, StepReport
from datasets.cleaning.paths import at
from datasets.examples.kinds import texts_of_example
from datasets.examples.schema import json_kind
from datasets.models import Kind
from tunixrt.reading import Errors
from tunixrt.refusals import Refusal

CHARACTERS_MAX = 10_000_000
FIELDS_MAX = 50


# --- lengths --------------------------------------------------------------------------------------


class Length(Operation):
    """Leave out examples that are too short or too long, or shorten long ones.

    Of a conversation whole exchanges go, from the end; when one is left, the text of its last
    answer is cut at a space. Of a trace without steps the answer is cut. Other examples cannot be
    shortened without saying something else, and are left out.
    """

    title: ClassVar = "Drop or shorten by length"
    operation: Literal["length"] = "length"
    of: Literal["example", "question", "answer"] = Field(
        "example", description="The text whose characters count."
    )
    min: int | None = Field(None, ge=0, le=CHARACTERS_MAX, description="Characters.")
    max: int | None = Field(None, ge=1, le=CHARACTERS_MAX, description="Characters.")
    longer: Literal["drop", "truncate"] = Field(
        "drop", description="What happens to longer examples."
    )

    def problems(self) -> Errors:
        if self.min is None and self.max is None:
            return {"min": ["Give min, max or both."]}
        if self.min is not None and self.max is not None and self.min > self.max:
            return {"min": [f"{self.min:,} is more than max, {self.max:,}."]}
        if self.longer == "truncate" and (self.of == "question" or self.max is None):
            return {"longer": ["Answers can be shortened: give max, and of=example or answer."]}
        return {}

    def _measure(self, item: Item) -> int:
        given, learnt = texts_of_example(item.example)
        counted = {"example": [*given, *learnt], "question": given, "answer": learnt}[self.of]
        return sum(map(len, counted))

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        for item in items:
            length = self._measure(item)
            if self.min is not None and length < self.min:
                report.leave_out(item, "too short", f"{length:,} characters")
            elif self.max is None or length <= self.max:
                yield item
            elif self.longer == "drop":
                report.leave_out(item, "too long", f"{length:,} characters")
            elif self._shorten(item):
                report.change(item, "shortened", f"{length:,} → {self._measure(item):,} characters")
                yield item
            else:
                report.leave_out(item, "too long and cannot be shortened", f"{length:,} characters")

    def _shorten(self, item: Item) -> bool:
        """Replace the example by a shorter one, if that can be done."""
        fields = fields_of(item.example)
        if item.example.kind == Kind.CONVERSATION:
            messages = fields["messages"]
            ends = [
                place
                for place, message in enumerate(messages, start=1)
                if message["role"] == "assistant" and "tool_calls" not in message
            ]
            # the lengths grow with the messages, so that one pass finds the last that fits
            lengths = self._lengths_up_to(messages)
            fit = [end for end in ends if lengths[end - 1] <= (self.max or 0)]
            if fit:
                fields["messages"] = messages[: fit[-1]]
                if _replaces(item, fields | {"final_answer": None}):
                    return True
            if not ends:
                return False
            messages = messages[: ends[0]]
            last = messages[-1]
            room = (self.max or 0) - (lengths[ends[0] - 1] - len(last["content"]))
            cut = _cut(last["content"], room)
            fields["messages"] = [*messages[:-1], last | {"content": cut}]
            return bool(cut) and _replaces(item, fields | {"final_answer": None})
        if item.example.kind == Kind.TRACE and not item.example.steps:
            answer = item.example.final_answer
            room = (self.max or 0) - (len(item.example.prompt) if self.of == "example" else 0)
            fields["final_answer"] = _cut(answer, room)
            return bool(fields["final_answer"]) and _replaces(item, fields)
        return False

    def _lengths_up_to(self, messages: list[dict[str, Any]]) -> list[int]:
        """Return what ``_measure`` gives for the messages up to each one."""
        lengths, total = [], 0
        for message in messages:
            given, learnt = texts_of_example(_Measured(message))
            counted = {"example": [*given, *learnt], "answer": learnt}[self.of]
            total += sum(map(len, counted))
            lengths.append(total)
        return lengths


class _Measured:
    """One message as a conversation of its own."""

    kind, prompt, steps, final_answer, meta = Kind.CONVERSATION.value, "", (), "", ()

    def __init__(self, message: dict[str, Any]):
        self.content = orjson.dumps({"messages": [message]}).decode()


def _cut(text: str, room: int) -> str:
    """Return ``text`` cut to ``room`` characters, at the last space if there is one in the second
    half."""
    if room <= 0:
        return ""
    cut = text[:room]
    space = max(cut.rfind(" "), cut.rfind("\n"))
    return (cut[:space] if space > room // 2 else cut).rstrip()


def _replaces(item: Item, fields: dict[str, Any]) -> bool:
    """Put the example that ``fields`` make into ``item``, if it is valid."""
    try:
        item.example = build(item.example.kind, fields)
    except Spoilt:
        return False
    return True


# --- masks ----------------------------------------------------------------------------------------


def _kinds(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"This field must be a list of {', '.join(KINDS)}.")
    for kind in value:
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{str(kind)[:100]!r} is unknown; known are {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in value]


MaskKinds = Annotated[
    list[str],
    PlainValidator(_kinds),
    WithJsonSchema({"type": "array", "minItems": 1, "items": {"enum": list(KINDS)}}),
]


class Mask(Operation):
    """Replace e-mail addresses, keys and the like in all texts, also in meta, by their kind:
    ``[EMAIL]``."""

    title: ClassVar = "Mask personal data and keys"
    operation: Literal["mask"] = "mask"
    kinds: MaskKinds = Field(["email", "key", "iban"], description="What is replaced.")

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        total: Counter[str] = Counter()
        for item in items:
            found: Counter[str] = Counter()
            fields = mask(fields_of(item.example), self.kinds, found)
            if not found:
                yield item
                continue
            total += found
            report.notes["replaced"] = dict(total)
            try:
                item.example = build(item.example.kind, fields)
            except Spoilt as error:
                report.leave_out(
                    _without_text(item), "not valid without what is masked", str(error)
                )
                continue
            named = ", ".join(f"{kind} {count:,}" for kind, count in found.items())
            report.change(item, "masked", named, text=_first_masked(fields))
            yield item


def _without_text(item: Item) -> Item:
    """Return the item without its text, since a report must not repeat what was to be masked."""
    example = item.example
    masked = type(example)(
        "", [], "", {}, example.trace_version, example.content_hash, 0, example.kind, ""
    )
    return Item(masked, item.split, item.parent, item.position)


def _first_masked(value: Any) -> str:
    """Return the text around the first mask in a value of JSON."""
    if isinstance(value, str):
        places = [place for mark in _MARKS if (place := value.find(mark)) >= 0]
        return value[max(0, min(places) - 100) :][:300] if places else ""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := _first_masked(part))), "")


_MARKS = tuple(f"[{kind.upper()}]" for kind in KINDS)


# --- reasoning ------------------------------------------------------------------------------------


class InlineReasoning(Operation):
    """Make the reasoning of answers part of their text, between ``<think>`` and ``</think>``: for
    models whose chat template does not write reasoning."""

    title: ClassVar = "Write reasoning into the answers"
    operation: Literal["inline_reasoning"] = "inline_reasoning"

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        for item in items:
            fields = fields_of(item.example)
            count = sum(
                _inline(message)
                for name in ("messages", "prompt", "chosen", "rejected")
                for message in fields.get(name, ())
                if isinstance(message, dict)
            )
            if not count:
                yield item
                continue
            try:
                item.example = build(item.example.kind, fields)
            except Spoilt as error:
                report.leave_out(item, "not valid with its reasoning as text", str(error))
                continue
            report.change(item, "reasoning written into the answer", f"{count:,} answers")
            yield item


def _inline(message: dict[str, Any]) -> bool:
    """Move the reasoning of a message into its content, if there is any."""
    reasoning = message.pop("reasoning", "").strip()
    if reasoning:
        message["content"] = f"<think>\n{reasoning}\n</think>\n\n{message['content']}"
    return bool(reasoning)


# --- fields ---------------------------------------------------------------------------------------

_TARGETS = "a field of meta (meta.name), final_answer, system, or null to drop it"


def _fields(value: Any) -> dict[str, str | None]:
    if not isinstance(value, dict) or not value:
        raise ValueError(
            'This field must be an object such as {"meta.src": "meta.source", "meta.answer":'
            ' "final_answer", "meta.junk": null}.'
        )
    if len(value) > FIELDS_MAX:
        raise ValueError(f"This field has at most {FIELDS_MAX} entries, not {len(value):,}.")
    targets: set[str] = set()
    for source, target in value.items():
        if not isinstance(source, str) or not source.startswith("meta.") or not source[5:]:
            raise ValueError(f"{str(source)[:100]!r} must be a field of meta, such as meta.source.")
        if "\x00" in source or (isinstance(target, str) and "\x00" in target):
            raise ValueError("A name holds a NUL character.")
        if target is None:
            continue
        if not isinstance(target, str):
            raise ValueError(f"{source[:100]}: must become {_TARGETS}, not {json_kind(target)}.")
        name = target.removeprefix("meta.")
        is_meta = target.startswith("meta.") and name and "." not in name
        if not is_meta and target not in ("final_answer", "system"):
            raise ValueError(f"{source[:100]}: must become {_TARGETS}, not {target[:100]!r}.")
        if target in targets:
            raise ValueError(f"{target[:100]} is named twice.")
        targets.add(target)
    return dict(value)


Fields = Annotated[
    dict[str, str | None],
    PlainValidator(_fields),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "null"]}}),
]


class FieldTaken(Refusal):
    code = "field_taken"


class MapFields(Operation):
    """Rename fields of meta, drop them, or make them the final answer or the system message."""

    title: ClassVar = "Map fields"
    operation: Literal["map_fields"] = "map_fields"
    fields: Fields = Field(
        description=f"The name of a field of meta, and what becomes of it: {_TARGETS}. Examples"
        " without the field stay as they are."
    )
    taken: Literal["refuse", "overwrite", "keep"] = Field(
        "refuse",
        description="If the target is there already: refuse the whole recipe, overwrite it, or keep"
        " it and leave the example as it is.",
    )

    def apply(self, items: Iterator[Item], work: Work, report: StepReport) -> Iterator[Item]:
        for item in items:
            fields = fields_of(item.example)
            try:
                changed = self._map(fields, item, report)
                if changed:
                    item.example = build(item.example.kind, fields)
            except Spoilt as error:
                report.leave_out(item, "not valid with the fields mapped", str(error))
                continue
            if changed:
                report.change(item, "fields mapped", ", ".join(changed))
            yield item

    def _map(self, fields: dict[str, Any], item: Item, report: StepReport) -> list[str]:
        """Change ``fields``; return the names of what was changed. Raise Spoilt, FieldTaken."""
        meta = orjson.loads(orjson.dumps(fields["meta"]))
        values: dict[str, Any] = {}
        for source in self.fields:
            found, value = at(meta, source[5:])
            if found:
                values[source] = value
        # all go before any comes, so that two names can be exchanged
        for source in values:
            _remove(meta, source[5:])
        for source, value in values.items():
            target = self.fields[source]
            if target is None:
                continue
            if self._is_taken(fields, meta, target):
                if self.taken == "refuse":
                    raise FieldTaken(
                        f"{report.place(item)} has {target[:100]} already. Choose what becomes of"
                        " it (taken: overwrite or keep)."
                    )
                if self.taken == "keep":
                    return []
            _put(fields, meta, target, value, item.example.kind)
        fields["meta"] = meta
        return [source[:100] for source in values]

    @staticmethod
    def _is_taken(fields: dict[str, Any], meta: dict[str, Any], target: str) -> bool:
        if target == "final_answer":
            return bool(fields.get("final_answer"))
        if target == "system":
            return any(
                message["role"] in ("system", "developer")
                for name in ("messages", "prompt")
                for message in fields.get(name, ())
                if isinstance(message, dict)
            )
        return target.removeprefix("meta.") in meta


def _remove(meta: dict[str, Any], path: str) -> None:
    """Remove the field that ``at`` finds."""
    while path not in meta:
        name, _, path = path.partition(".")
        meta = meta[name]
    del meta[path]


def _put(fields: dict[str, Any], meta: dict[str, Any], target: str, value: Any, kind: str) -> None:
    if target.startswith("meta."):
        meta[target.removeprefix("meta.")] = value
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise Spoilt(f"{target}: must be text or a number, not {json_kind(value)}.")
    if target == "final_answer":
        if kind == Kind.PREFERENCE:
            raise Spoilt("A preference pair has no final answer.")
        fields["final_answer"] = value
        return
    if kind == Kind.TRACE:
        raise Spoilt("A trace has no system message.")
    name = "prompt" if kind == Kind.PREFERENCE else "messages"
    rest = [message for message in fields[name] if message["role"] not in ("system", "developer")]
    fields[name] = [{"role": "system", "content": value}, *rest]
