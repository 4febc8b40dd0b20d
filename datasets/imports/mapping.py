"""What the columns of a file mean: the shapes that rows can be given, a guess, and the first rows
as they would become."""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from datasets.examples.kinds import Part, parts_of
from datasets.examples.schema import ExampleData
from datasets.files.reading import ImportRefused, Readable, Source, unpacked_limit
from datasets.formats.lines import Line, LineError
from datasets.formats.table import TEXT, recognise, to_example
from datasets.imports.importers import ImportRequest, lacks_format, mapped
from datasets.imports.sources import parts_of as files_of
from datasets.models import Kind
from tunixrt.refusals import Refusal

ROWS = 20
COLUMNS_MAX = 100  # that are offered
CELL_MAX = 300  # characters of a cell that are shown


@dataclass(frozen=True, slots=True)
class Slot:
    """A field that a column can be chosen for. ``synonyms``: words in the names of columns that are
    meant by it."""

    name: str
    label: str
    synonyms: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Shape:
    """What rows can become: a format, and the fields of it that columns are chosen for."""

    name: str
    title: str
    format: str
    slots: tuple[Slot, ...]
    kind: str | None = None


_QUESTION = ("prompt", "question", "query", "input", "instruction", "user", "problem", "text")
_ANSWER = ("completion", "answer", "response", "output", "reply", "assistant", "target", "solution")
_REFERENCE = ("answer", "truth", "reference", "target", "label", "expected", "solution")
SHAPES = (
    Shape(
        "question_answer",
        "a question and its answer",
        "prompt_completion",
        (Slot("prompt", "Question", _QUESTION), Slot("completion", "Answer", _ANSWER)),
    ),
    Shape(
        "worked",
        "a problem, how it is worked out, and the final answer",
        "worked",
        (
            Slot("problem", "Problem", ("problem", *_QUESTION)),
            Slot("solution", "Solution", ("solution", "steps", "reasoning", "rationale", "cot")),
            Slot("answer", "Final answer", ("final", *_REFERENCE), required=False),
        ),
    ),
    Shape(
        "instruction",
        "an instruction with further input and a system prompt",
        "alpaca",
        (
            Slot("instruction", "Instruction", ("instruction", "task", *_QUESTION)),
            Slot("input", "Further input", ("input", "context", "document"), required=False),
            Slot("output", "Answer", ("output", *_ANSWER)),
            Slot("system", "System prompt", ("system",), required=False),
        ),
    ),
    Shape(
        "chat",
        "messages of a chat",
        "messages",
        (
            Slot("messages", "Messages", ("messages", "conversation", "conversations", "chat")),
            Slot("tools", "Tools", ("tools", "functions"), required=False),
        ),
    ),
    Shape(
        "pair",
        "a question, the better and the worse answer",
        "preference",
        (
            Slot("prompt", "Question", _QUESTION),
            Slot("chosen", "Better answer", ("chosen", "preferred", "better", "good", "winner")),
            Slot("rejected", "Worse answer", ("rejected", "worse", "bad", "loser")),
            Slot("score_chosen", "Score of the better", (), required=False),
            Slot("score_rejected", "Score of the worse", (), required=False),
        ),
    ),
    Shape(
        "prompt",
        "a question, with the reference answer that a reward compares with",
        "prompt",
        (
            Slot("prompt", "Question", _QUESTION),
            Slot("answer", "Reference answer", _REFERENCE, required=False),
        ),
        kind=Kind.PROMPT.value,
    ),
    Shape("text", "plain text, learnt as it is", TEXT, (Slot("text", "Text", ("text",)),), TEXT),
)
SHAPES_BY_NAME = {shape.name: shape for shape in SHAPES}


@dataclass(frozen=True, slots=True)
class Rows:
    """The first rows of a file. ``columns``: their names, in the order in which they come.
    ``unpacks``: whether the file has more bytes than its length says."""

    found: list[tuple[int, Line | LineError]]
    columns: list[str]
    unpacks: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """A row, and what it would become or why it would be refused."""

    number: int
    cells: list[tuple[str, str]]
    parts: list[Part]
    problem: str
    example: ExampleData | None = None


def first_rows(file: Readable, file_name: str) -> Rows:
    """Return the first rows of a file. Raise ImportRefused."""
    source = Source(file, file_name, max_unpacked=unpacked_limit(in_request=True))
    found = list(islice(source.examples(), ROWS))
    names = [name for _, row in found if not isinstance(row, LineError) for name in row]
    return Rows(found, list(dict.fromkeys(names))[:COLUMNS_MAX], source.unpacks)


def rows_of(source: Mapping[str, Any], folder: Path) -> Rows:
    """Return the first rows of what an import reads (``Import.source``): of its first file with any
    rows. Raise ImportRefused, also where the files are gone, and InvalidPath."""
    rows = Rows([], [])
    try:
        with closing(files_of(source, folder)) as parts:
            for part in parts:
                rows = first_rows(part.file, part.name)
                if rows.found:
                    break
    except FileNotFoundError as error:
        raise ImportRefused("The file is not kept any more. Import it again.") from error
    return rows


def lacks_mapping(source: Mapping[str, Any], folder: Path, request: ImportRequest) -> bool:
    """Return whether ``needs_mapping`` is true of what an import reads. A file that cannot be read
    needs none: its import says why."""
    if request.format or request.mapping:
        return False
    try:
        return needs_mapping(rows_of(source, folder), request)
    except Refusal:
        return False


def needs_mapping(rows: Rows, request: ImportRequest) -> bool:
    """Return whether the rows are objects of no known format, so that a mapping would say what they
    are."""
    if not rows.found or isinstance(first := rows.found[0][1], LineError):
        return False
    return lacks_format(first, request)


def guess(columns: Sequence[str]) -> tuple[Shape, dict[str, str]]:
    """Return the shape for whose required fields most columns have fitting names, and the
    mapping."""
    return max(
        ((shape, fitting(shape, columns)) for shape in SHAPES),
        key=lambda found: _share_filled(*found),
    )


def _share_filled(shape: Shape, mapping: Mapping[str, str]) -> tuple[bool, int]:
    required = [slot.name for slot in shape.slots if slot.required]
    filled = sum(name in mapping for name in required)
    return filled == len(required), filled


def fitting(shape: Shape, columns: Sequence[str]) -> dict[str, str]:
    """Return the columns whose names fit the fields of a shape."""
    mapping: dict[str, str] = {}
    for slot in shape.slots:
        free = [column for column in columns if column not in mapping.values()]
        words = {column: set(re.findall(r"[a-z]+", column.lower())) for column in free}
        for synonym in slot.synonyms:
            if found := next((column for column in free if synonym in words[column]), None):
                mapping[slot.name] = found
                break
    return mapping


def shaped(
    request: ImportRequest, shape: Shape, mapping: Mapping[str, str], ignore: Sequence[str]
) -> ImportRequest:
    """Return the request with what the columns mean."""
    return replace(
        request, format=shape.format, kind=shape.kind, mapping=dict(mapping), ignore=tuple(ignore)
    )


def preview(rows: Rows, request: ImportRequest) -> list[Preview]:
    """Return the rows as they would become."""
    return [_preview(number, row, request) for number, row in rows.found]


def _preview(number: int, row: Line | LineError, request: ImportRequest) -> Preview:
    if isinstance(row, LineError):
        return Preview(number, [], [], str(row))
    cells = cells_of(row)
    try:
        line = mapped(row, request.mapping) if request.mapping else row
        name = request.format or recognise(line, request.kind, frozenset(request.ignore))
        example, _ = to_example(line, name, request.kind, frozenset(request.ignore))
    except LineError as error:
        return Preview(number, cells, [], str(error))
    return Preview(number, cells, parts_of(example), "", example)


def cells_of(row: Line) -> list[tuple[str, str]]:
    """Return the names of the columns of a row, and the beginning of each value, as text."""
    return [(name, _cell(value)) for name, value in islice(row.items(), COLUMNS_MAX)]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= CELL_MAX else f"{text[:CELL_MAX]}…"
