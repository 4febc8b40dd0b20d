"""Examples as the model will see them: for pages, without training anything.

The lines are those that trainings read, and so is the code: what is shown as learnt here is what a
training learns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

from runs.spec.model_folder import FolderProblem, check_tokenizer
from runs.trainer.data.conversation import Conversation, Messages, Tools
from runs.trainer.data.dataset import parse_line
from runs.trainer.data.remarks import remarks
from runs.trainer.data.tokenizer import (
    ChatTokenizer,
    Encoded,
    Seen,
    Tokenizer,
    load_tokenizer,
)
from runs.trainer.data.windows import windows
from runs.trainer.errors import DataError, ModelError

EXAMPLES_AT_ONCE = 50  # that are counted between two reports
LENGTH_STEP = 16
REASONS_MAX = 5  # sentences for examples that the template refuses
# Names of the sides of a pair; everything else has one side without a name.
CHOSEN, REJECTED = "chosen", "rejected"


def open_tokenizer(folder: Path | None, *, prompt_style: str) -> Tokenizer:
    """Open the tokenizer of a model folder; None means bytes.

    Where the files alone tell what the training program reads, or where it is not installed, they
    are read without it. Raise ModelError.
    """
    if folder is None:
        return load_tokenizer(None)
    try:
        check_tokenizer(folder)
    except FolderProblem as error:
        raise ModelError(f"no usable tokenizer in {folder}: {error}") from error
    from runs.trainer.data.tokenizer_file import (  # noqa: PLC0415 - the presets need no tokenizers
        TokenizerFile,
        takes_file_as_it_is,
    )

    as_it_is = takes_file_as_it_is(folder)
    if not as_it_is and find_spec("transformers") is not None:
        return load_tokenizer(folder, prompt_style=prompt_style)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"the tokenizer in {folder} has no tokenizer.json, without which only the training"
            " runtime can read it; look at it on a host that has the runtime, or save the tokenizer"
            " with transformers first"
        )
    tokenizer = ChatTokenizer(folder, prompt_style=prompt_style, tokenizer=TokenizerFile(folder))
    if not as_it_is:
        tokenizer.notes.insert(
            0,
            "The tokenizer was read from tokenizer.json, because the training runtime is not"
            " installed on this host. Its settings name a class with rules of its own: a training"
            " may cut some texts into other tokens.",
        )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Side:
    """What is rendered of an example: all of it, or one answer of a pair.

    Attributes:
        learnt: positions of the messages that are learnt; none of a prompt.
    """

    name: str
    messages: Messages
    learnt: tuple[int, ...]
    tools: Tools | None

    def see(self, tokenizer: Tokenizer) -> Iterator[Seen]:
        """Yield the rows with their texts. Raise DataError."""
        if not self.learnt:
            return iter([tokenizer.see_prompt(self.messages, tools=self.tools)])
        return tokenizer.see(Conversation(self.messages, self.learnt, self.tools))


def read_sides(raw: bytes) -> list[Side]:
    """Return the sides of a line in any training format. Raise DataError."""
    try:
        value = json.loads(raw)
        kind = value.get("kind")
        if kind == "preference":
            return [_side_of_pair(value, name) for name in (CHOSEN, REJECTED)]
        if kind == "prompt":
            # A prompt has nothing to learn; the answer makes it a conversation that can be read.
            answer = {"role": "assistant", "content": "a"}
            read = _read(value, [*value["messages"], answer])
            return [Side("", read.messages[:-1], (), read.tools)]
        read = parse_line(raw, 2, 0).conversation
        return [Side("", read.messages, read.learnt, read.tools)]
    except ValueError as error:
        raise DataError(f"the example cannot be trained with: {error}") from error


def _side_of_pair(value: dict[str, Any], name: str) -> Side:
    prompt = value["prompt"]
    read = _read(value, [*prompt, *value[name]])
    learnt = tuple(position for position in read.learnt if position >= len(prompt))
    return Side(name, read.messages, learnt, read.tools)


def _read(value: dict[str, Any], messages: list[Any]) -> Conversation:
    line = {"kind": "conversation", "messages": messages, "tools": value.get("tools")}
    return parse_line(json.dumps(line).encode(), 2, 0).conversation


# --- One example ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of longer rows, see the parameters of these names."""

    max_length: int
    too_long: str


def view_example(
    tokenizer: Tokenizer, raw: bytes, *, cut: Cut, row: int, start: int, count: int
) -> dict[str, Any]:
    """Return an example as JSON.

    Args:
        row: which row of each side is shown, from 0.
        start: the first token that is shown; of each side of a pair, after what both begin with.
        count: tokens that are shown at most.
    """
    problems = []
    sides: dict[str, list[_Row]] = {}
    shown: dict[str, _Tokens] = {}
    for side in read_sides(raw):
        try:
            rows, seen = _read_rows(side.see(tokenizer), row)
        except DataError as error:
            problems.append({"side": side.name, "detail": str(error)})
            continue
        sides[side.name] = rows
        dropped = cut.too_long == "drop" and any(one.length > cut.max_length for one in rows)
        for one in rows:
            one.cut(cut, dropped=dropped)
        if seen is not None:
            shown[side.name] = _Tokens(seen, rows[row])
    all_rows = [one for rows in sides.values() for one in rows]
    return {
        "notes": [*tokenizer.notes, *remarks(_counts(all_rows))],
        "problems": problems,
        "rows": [{"side": name, **one.totals()} for name, rows in sides.items() for one in rows],
        "blocks": _blocks(shown, start, count),
    }


class _Row:
    """How many tokens a row has, which are learnt, and which are left within ``max_seq_length``."""

    def __init__(self, seen: Encoded):
        self.length = len(seen.ids)
        self.flags = replace(seen, ids=[], learnt=[])
        self.learnt = bytearray(self.length)
        for start, end in seen.counted:
            self.learnt[start:end] = b"\1" * (end - start)
        self.first_learnt = self.learnt.find(1)
        self.kept = bytearray(self.length)
        self.sequences = 0

    def cut(self, cut: Cut, *, dropped: bool) -> None:
        """Find out what is left."""
        if dropped:
            return
        for start, end, learnt_from in windows(self.length, cut.max_length, cut.too_long):
            # a sequence in which nothing is learnt is left out; a prompt has nothing to learn
            if self.first_learnt < 0 or self.learnt.find(1, learnt_from, end) >= 0:
                self.sequences += 1
                self.kept[start:end] = b"\1" * (end - start)

    def totals(self) -> dict[str, int]:
        both = int.from_bytes(self.learnt) & int.from_bytes(self.kept)
        return {
            "tokens": self.length,
            "learnt": self.learnt.count(1),
            "kept": self.kept.count(1),
            "kept_learnt": both.bit_count(),
            "sequences": self.sequences,
        }


def _read_rows(found: Iterable[Seen], number: int) -> tuple[list[_Row], Seen | None]:
    """Return all rows, and the one that is to be shown: the texts of all could take gigabytes."""
    rows: list[_Row] = []
    shown = None
    for seen in found:
        if len(rows) == number:
            shown = seen
        rows.append(_Row(seen.row))
    return rows, shown


def _counts(rows: list[_Row]) -> dict[str, int]:
    """Return the counts of one example, and of the texts in it, for ``remarks``."""
    flags = [row.flags for row in rows]
    return {
        "systems_moved": int(any(row.system_moved for row in flags)),
        "developers_moved": int(any(row.developer_moved for row in flags)),
        "ends_with_text": int(any(row.end_has_text for row in flags)),
        "control_texts": max((row.control_texts for row in flags), default=0),
    }


def _blocks(shown: dict[str, _Tokens], start: int, count: int) -> list[dict[str, Any]]:
    common = 0
    blocks = []
    if len(shown) == 2:
        one, other = shown.values()
        common = one.common_with(other)
        if common:
            blocks.append(one.block("prompt", start, count, end=common))
    blocks += [tokens.block(name, common + start, count) for name, tokens in shown.items()]
    return blocks


class _Tokens:
    """The tokens of a row with their texts."""

    def __init__(self, seen: Seen, row: _Row):
        self._seen, self._row = seen, row

    def common_with(self, other: _Tokens) -> int:
        """Return how many tokens both begin with, before what is learnt of either."""
        ids, others = self._seen.row.ids, other._seen.row.ids
        most = min(self._row.first_learnt, other._row.first_learnt)
        return next((index for index in range(most) if ids[index] != others[index]), most)

    def block(self, side: str, start: int, count: int, end: int | None = None) -> dict[str, Any]:
        """Return the tokens from ``start`` on, up to ``end`` or the end of the row."""
        end = self._row.length if end is None else end
        start = min(start, end)
        stop = min(start + count, end)
        return {
            "side": side,
            "start": start,
            "more": end - stop,
            "tokens": list(islice(self._pieces(), start, stop)),
        }

    def _pieces(self) -> Iterator[dict[str, Any]]:
        """Yield each token with the text that it adds, none where an earlier one has shown the
        character of which it is a part; and the text before it that no token stands for."""
        seen, row, shown = self._seen, self._row, 0
        for index, (id, (start, end)) in enumerate(zip(seen.row.ids, seen.offsets, strict=True)):
            yield {
                "id": id,
                "skipped": seen.text[shown:start],
                "text": seen.text[max(start, shown) : end],
                "control": id in seen.control,
                "learnt": bool(row.learnt[index]),
                "kept": bool(row.kept[index]),
            }
            shown = max(shown, end)


# --- Lengths --------------------------------------------------------------------------------------


def count_lengths(
    tokenizer: Tokenizer, lines: Iterable[bytes], *, max_length: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Count the tokens of examples; yield what has been counted so far, again and again, until this
    process has used ``seconds`` of the processor.

    ``lengths`` has ``[tokens, examples]`` in ascending steps of ``step``; an example counts by its
    longest row.
    """
    counts: dict[int, int] = {}
    examples = refused = longer = 0
    reasons: dict[str, None] = {}
    tokens = learnt = longest = 0

    def report() -> dict[str, Any]:
        return {
            "examples": examples,
            "refused": refused,
            "reasons": list(reasons),
            "longer": longer,
            "tokens": tokens,
            "learnt": learnt,
            "longest": longest,
            "lengths": sorted(counts.items()),
            "step": LENGTH_STEP,
            "notes": tokenizer.notes,
        }

    for number, raw in enumerate(lines, start=1):
        try:
            rows = [
                (len(seen.row.ids), sum(end - start for start, end in seen.row.counted))
                for side in read_sides(raw)
                for seen in side.see(tokenizer)
            ]
        except DataError as error:
            refused += 1
            if len(reasons) < REASONS_MAX:
                reasons.setdefault(str(error))
        else:
            length = max(length for length, _ in rows)
            place = length // LENGTH_STEP * LENGTH_STEP
            counts[place] = counts.get(place, 0) + 1
            examples += 1
            longer += length > max_length
            longest = max(longest, length)
            tokens += sum(length for length, _ in rows)
            learnt += sum(counted for _, counted in rows)
        if number % EXAMPLES_AT_ONCE == 0:
            yield report()
            if process_time() > seconds:
                return
    yield report()
