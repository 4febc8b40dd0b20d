"""Examples as the model will see them: for pages, without training anything.

The lines are those that trainings read, and so is the code: what is shown as learnt here is what a
training learns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

from runs.trainer.data.conversation import Conversation, Messages, Tools
from runs.trainer.data.dataset import parse_line
from runs.trainer.data.remarks import remarks
from runs.trainer.data.tokenizer import ChatTokenizer, Seen, Tokenizer, load_tokenizer
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
    are read without it. Raises ModelError.
    """
    if folder is None:
        return load_tokenizer(None)
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

    def see(self, tokenizer: Tokenizer) -> list[Seen]:
        """Raises DataError."""
        if not self.learnt:
            return [tokenizer.see_prompt(self.messages, tools=self.tools)]
        return tokenizer.see(Conversation(self.messages, self.learnt, self.tools))


def read_sides(raw: bytes) -> list[Side]:
    """Return the sides of a line in any training format. Raises DataError."""
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
    sides, problems = [], []
    for side in read_sides(raw):
        try:
            sides.append((side.name, side.see(tokenizer)))
        except DataError as error:
            problems.append({"side": side.name, "detail": str(error)})
    tokens = {
        name: [_Tokens(seen, cut, dropped=_is_dropped(rows, cut)) for seen in rows]
        for name, rows in sides
    }
    shown = [(name, rows[row], tokens[name][row]) for name, rows in sides if row < len(rows)]
    common = _common([seen.row.ids for _, seen, _ in shown]) if len(shown) == 2 else 0
    if common:
        # what is learnt belongs to a side
        common = min(common, *(seen.row.counted[0][0] for _, seen, _ in shown))
    blocks = []
    if common:
        blocks.append(shown[0][2].block("prompt", start, count, end=common))
    blocks += [of_side.block(name, common + start, count) for name, _, of_side in shown]
    return {
        "notes": [*tokenizer.notes, *remarks(_counts(rows for _, rows in sides))],
        "problems": problems,
        "rows": [
            {"side": name, **one.totals()} for name, of_side in tokens.items() for one in of_side
        ],
        "blocks": blocks,
    }


def _is_dropped(rows: list[Seen], cut: Cut) -> bool:
    return cut.too_long == "drop" and any(len(seen.row.ids) > cut.max_length for seen in rows)


def _common(rows: list[list[int]]) -> int:
    first, second = rows
    return next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def _counts(sides: Iterable[list[Seen]]) -> dict[str, int]:
    rows = [seen.row for side in sides for seen in side]
    return {
        "systems_moved": int(any(row.system_moved for row in rows)),
        "developers_moved": int(any(row.developer_moved for row in rows)),
        "ends_with_text": int(any(row.end_has_text for row in rows)),
        "control_texts": max((row.control_texts for row in rows), default=0),
    }


class _Tokens:
    """The tokens of a row, and what is left of them within ``max_seq_length``."""

    def __init__(self, seen: Seen, cut: Cut, *, dropped: bool):
        self._seen = seen
        self._learnt = [False] * len(seen.row.ids)
        for start, end in seen.row.counted:
            self._learnt[start:end] = [True] * (end - start)
        length = len(seen.row.ids)
        self._kept = [False] * length
        self._sequences = 0
        if not dropped:
            for start, end, learnt_from in windows(length, cut.max_length, cut.too_long):
                # a sequence in which nothing is learnt is left out; a prompt has nothing to learn
                if not seen.row.learnt or any(self._learnt[learnt_from:end]):
                    self._sequences += 1
                    self._kept[start:end] = [True] * (end - start)

    def totals(self) -> dict[str, int]:
        return {
            "tokens": len(self._learnt),
            "learnt": sum(self._learnt),
            "kept": sum(self._kept),
            "kept_learnt": sum(
                learnt and kept for learnt, kept in zip(self._learnt, self._kept, strict=True)
            ),
            "sequences": self._sequences,
        }

    def block(self, side: str, start: int, count: int, end: int | None = None) -> dict[str, Any]:
        """The tokens from ``start`` on, up to ``end`` or the end of the row."""
        end = len(self._learnt) if end is None else end
        start = min(start, end)
        stop = min(start + count, end)
        return {
            "side": side,
            "start": start,
            "more": end - stop,
            "tokens": list(islice(self._pieces(), start, stop)),
        }

    def _pieces(self) -> Iterator[dict[str, Any]]:
        """Each token with the text that it adds: none where an earlier one has shown the character
        of which it is a part; and the text before it that no token stands for."""
        seen, shown = self._seen, 0
        for index, (id, (start, end)) in enumerate(zip(seen.row.ids, seen.offsets, strict=True)):
            yield {
                "id": id,
                "skipped": seen.text[shown:start],
                "text": seen.text[max(start, shown) : end],
                "control": id in seen.control,
                "learnt": self._learnt[index],
                "kept": self._kept[index],
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
            rows = [seen.row for side in read_sides(raw) for seen in side.see(tokenizer)]
        except DataError as error:
            refused += 1
            if len(reasons) < REASONS_MAX:
                reasons.setdefault(str(error))
        else:
            length = max(len(row.ids) for row in rows)
            place = length // LENGTH_STEP * LENGTH_STEP
            counts[place] = counts.get(place, 0) + 1
            examples += 1
            longer += length > max_length
            longest = max(longest, length)
            tokens += sum(len(row.ids) for row in rows)
            learnt += sum(end - start for row in rows for start, end in row.counted)
        if number % EXAMPLES_AT_ONCE == 0:
            yield report()
            if process_time() > seconds:
                return
    yield report()
