"""Reading files of several formats as examples.

``read_parts`` reads and checks all of a file first, into a staging, so that every bad line is known
before the database is touched. datasets/imports/importing.py stores what is staged.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings
from django.contrib.auth.models import User

from datasets.examples.schema import NAMED_PROBLEMS, ExampleData
from datasets.files.folders import GROUPED, SKIPPED, STAGING
from datasets.files.reading import ImportRefused, Part, Source, unpacked_limit
from datasets.formats.grouping import GROUPINGS, Grouping
from datasets.formats.lines import Line, LineError, parse_line
from datasets.formats.table import FORMATS, KINDS, check_line, convert, recognise
from datasets.services.datasets import check_identity, check_origin
from datasets.services.refusals import InvalidDataset
from datasets.storage.staging import Filling, Staging, no_room
from datasets.storage.storing import IS_SEALED, NOT_KEPT, WAS_ERASED, Erased, Sealed
from tunixrt.numbers import parse_number

NAMED_LINES = 100
# After so many, where none may be left out, nothing more is read: a small file can unpack to twenty
# million lines of two bytes.
BAD_LINES_MAX = 100_000
TOLD_EVERY = 500  # lines
SKIP_BAD_DEFAULT = 0.01
SKIP_BAD = "Must be true (up to 1 % of the lines) or a share between 0 and 0.5."
HELD_OUT = "Must be a number of examples (1 or more) or a share between 0 and 1."


@dataclass(frozen=True, slots=True)
class LineProblem:
    """``line`` counts from 1 and includes empty lines."""

    line: int
    reason: str


class BadLines(ImportRefused):
    """``problems``: the first ones; ``count``: how many bad lines there are in all, or, with
    ``more``, were read."""

    def __init__(
        self,
        problems: list[LineProblem],
        count: int,
        *,
        of: int | None = None,
        allowed: float | None = None,
        more: bool = False,
    ):
        self.problems = problems
        self.count = count
        lines = "1 line is" if count == 1 else f"{count:,} lines are"
        if more:
            lines = f"{count:,} lines, and perhaps more, are"
        share = f" ({allowed:.2%} of {of:,} may be left out)" if allowed and of else ""
        super().__init__(f"{lines} not valid, so nothing was stored{share}.", messages={})
        self.detail = self.sentence

    @property
    def extra(self) -> dict[str, Any]:
        return {
            "error_count": self.count,
            "errors": [
                {"line": problem.line, "reason": problem.reason} for problem in self.problems
            ],
        }


class LacksMapping(Exception):
    """The first line is an object of no known format, and no mapping says what it is."""


@dataclass(frozen=True)
class ImportRequest:
    """What is asked of an import.

    Attributes:
        format: a name of FORMATS; None: recognised by the first line.
        kind: what the examples are to be, one of KINDS; None: what their format is taken for.
        mapping: by the name of a field that a format knows, the field or column of the file.
        ignore: fields that say nothing about what is to be learnt, whatever their names.
        held_out: examples to hold out from training (int), or their share (float between 0 and 1).
        limit: read no more examples than this.
        skip_bad: the share of lines that may be left out because they are not valid; None: none.
    """

    name: str
    version: str
    description: str = ""
    format: str | None = None
    kind: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    ignore: Collection[str] = ()
    held_out: int | float | None = None
    limit: int | None = None
    skip_bad: float | None = None
    licence: str = ""
    source: str = ""

    @cached_property
    def ignored(self) -> frozenset[str]:
        return frozenset(self.ignore)

    @property
    def dataset_key(self) -> str:
        return f"{self.name}-{self.version}"

    def check(self) -> None:
        """Raise InvalidDataset or DatasetExists if the request cannot be met."""
        check_identity(name=self.name, version=self.version, description=self.description)
        check_origin(licence=self.licence, source=self.source)
        if self.format is not None and self.format not in FORMATS:
            raise InvalidDataset(
                {"format": [f"{self.format!r} is unknown; known are {', '.join(FORMATS)}."[:300]]}
            )
        if self.kind is not None and self.kind not in KINDS:
            raise InvalidDataset({"kind": [f"Must be one of {', '.join(KINDS)}."]})
        check_mapping(self.mapping)
        check_held_out(self.held_out)
        check_skip_bad(self.skip_bad)
        if self.limit is not None and self.limit < 1:
            raise InvalidDataset({"limit": ["Must be at least 1."]})

    def as_json(self) -> dict[str, Any]:
        """Return what is kept of it; ``from_json`` reads it."""
        return {
            name: sorted(value) if name == "ignore" else value
            for name, value in asdict(self).items()
            if value not in (None, "", {}, ())
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "ImportRequest":
        return cls(**{name: value for name, value in kept.items() if name != "recipe"})


class Progress(Protocol):
    """Is told how far the reading is. Raises what ends it."""

    def __call__(self, *, read: int, examples: int) -> None: ...


def no_progress(*, read: int, examples: int) -> None:
    pass


def read_parts(
    parts: Iterable[Part],
    *,
    request: ImportRequest,
    folder: Path,
    by: User | None,
    progress: Progress = no_progress,
    named_lines: int | None = NAMED_LINES,
    origin: Mapping[str, Any] | None = None,
    may_wait: bool = False,
) -> Staging:
    """Read and check all examples of one or several files, into a staging in ``folder``.

    Args:
        parts: each is read once, from where it stands to its end, before the next one is asked for.
        named_lines: how many bad lines the error names; None: all.
        origin: further fields of the provenance.
        may_wait: raise LacksMapping where a mapping would help, instead of reading on.

    Raises:
        LacksMapping, BadLines, ImportRefused, InvalidDataset. OSError: no room for the
        staging.
    """
    with closing(Filling(folder / STAGING)) as filling:
        reading = _Reading(filling, request, folder / SKIPPED, named_lines, progress, may_wait)
        reading.read(parts)
        held_out = request.held_out
        if held_out is not None and filling.named_parts:
            reason = "The lines name their part themselves (field split); give one or the other."
            raise InvalidDataset({"held_out": [reason]})
        staging = filling.complete(
            held_out=None if held_out is None else _count_held_out(held_out, filling.size),
            about={
                "lines_skipped": reading.bad,
                "provenance": _provenance(reading, dict(origin or {}), by),
            },
        )
    refuse_overlap(staging)
    return staging


def refuse_overlap(staging: Staging) -> None:
    """Raise InvalidDataset if an example is in both parts, which would make the held-out part
    worthless."""
    if places := staging.in_both_parts():
        named = ", ".join(str(place + 1) for place in places)
        raise InvalidDataset(
            {"split": [f"These examples stand in both parts (counted from 1): {named}."]}
        )


def _count_held_out(held_out: int | float, size: int) -> int:
    number = max(1, round(held_out * size)) if isinstance(held_out, float) else held_out
    if number >= size:
        reason = f"{number} of {size} examples held out leave none to train on."
        raise InvalidDataset({"held_out": [reason]})
    return number


def _provenance(reading: "_Reading", origin: dict[str, Any], by: User | None) -> dict[str, Any]:
    request = reading.request
    found: dict[str, Any] = {"source": "import"} | origin
    found |= reading.files[0] if len(reading.files) == 1 else {"files": reading.files}
    found |= {
        "format": reading.format,
        "kind": request.kind,
        "mapping": dict(request.mapping),
        "ignore": sorted(request.ignore),
        "kept_in_meta": list(reading.filling.kept),
        "held_out": request.held_out,
        "limit": request.limit,
        "lines_skipped": reading.bad or None,
        "left_out": reading.grouping.left_out if reading.grouping else None,
        "imported_by": by.get_username() if by else None,
    }
    return _filled(found)


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


@dataclass
class _Reading:
    """Reads the lines of the files; the good ones go to the staging, the others to a file of their
    own where they may be left out.

    Attributes:
        format: of all lines.
        files: what the provenance says about each file.
        bad: how many lines are not valid.
    """

    filling: Filling
    request: ImportRequest
    skipped: Path
    named_lines: int | None
    progress: Progress
    may_wait: bool = False
    format: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    grouping: Grouping | None = None
    bad: int = 0
    lines: int = 0
    problems: list[LineProblem] = field(default_factory=list)
    erased: Erased = field(default_factory=Erased.read)
    sealed: Sealed = field(default_factory=Sealed.read)

    def read(self, parts: Iterable[Part]) -> None:
        """Read a part. Raise BadLines, ImportRefused."""
        self.format = self.request.format
        read = 0
        for part in parts:
            limit = unpacked_limit(in_request=part.in_request)
            source = Source(part.file, part.name, max_unpacked=limit)
            try:
                self._read_part(source, part, read)
            except ImportRefused as refusal:
                if part.total == 1:
                    raise
                raise ImportRefused(f"{part.name}: {refusal.sentence}") from refusal
            read += source.bytes
            self.files.append(_told_of(source))
            if self._is_full():
                break
        self._take_groups(read)
        self._check(read)

    def _is_full(self) -> bool:
        return self.filling.size == self.request.limit

    def _read_part(self, source: Source, part: Part, read_before: int) -> None:
        where = f"{part.name}: " if part.total > 1 else ""
        for number, found in source.examples():
            self.lines += 1
            if self.lines % TOLD_EVERY == 0:
                self.progress(read=read_before + source.bytes, examples=self.filling.size)
            try:
                if isinstance(found, LineError):
                    raise found
                self._take(found, part, number, where)
            except LineError as error:
                self._refuse(number, found, f"{where}{error}")
            if self._is_full():
                break

    def _take(self, found: Line, part: Part, number: int, where: str) -> None:
        """Take a line. Raise LineError."""
        request = self.request
        if self.may_wait and self.lines == 1 and lacks_format(found, request):
            raise LacksMapping
        line = mapped(found, request.mapping) if request.mapping else found
        self.format = self.format or recognise(line, request.kind, request.ignored)
        rest, split = check_line(line, self.format, request.kind, request.ignored)
        if part.split and split and split != part.split:
            raise LineError(f"split: is {split}, but the file is the {part.split} part")
        split = split or part.split
        if FORMATS[self.format].grouped:
            if self.grouping is None:
                self.grouping = GROUPINGS[self.format](self.skipped.with_name(GROUPED))
            with no_room():
                self.grouping.add(number, where, rest, split)
        else:
            self._add(convert(rest, self.format, request.kind), split)

    def _take_groups(self, read: int) -> None:
        """Take what lines become together."""
        if self.grouping is None or self.format is None:
            return
        size, limit = 0, settings.TUNIXRT_UNPACKED_MAX_BYTES
        with closing(self.grouping), no_room():
            for told, found in enumerate(self.grouping.examples(self.request.kind)):
                if told % TOLD_EVERY == 0:
                    self.progress(read=read, examples=self.filling.size)
                try:
                    if isinstance(found.result, LineError):
                        raise found.result
                    example = convert(found.result, self.format, self.request.kind)
                    self._add(example, found.split)
                    size += example.size
                except LineError as error:
                    self._refuse(found.number, found.content, f"{found.where}{error}")
                if size > limit:
                    raise ImportRefused(
                        f"The examples have more than {limit:,} bytes (TUNIXRT_UNPACKED_MAX_BYTES),"
                        " many of them the same messages; divide the file."
                    )
                if self._is_full():
                    break

    def _add(self, example: ExampleData, split: str | None) -> None:
        """Add an example. Raise LineError."""
        filling = self.filling
        if filling.size and example.kind != filling.kind:
            raise LineError(
                f"is a {example.kind}, the lines before are of kind {filling.kind}: a"
                " dataset has one kind"
            )
        if example in self.erased:
            raise LineError(WAS_ERASED)
        if example in self.sealed:
            raise LineError(IS_SEALED)
        filling.kind = example.kind
        filling.add(example, split)

    def _check(self, read: int) -> None:
        allowed = self.request.skip_bad
        if self.bad and not (allowed and self.bad <= allowed * self.lines):
            raise BadLines(self.problems, self.bad, of=self.lines, allowed=allowed)
        if self.format is None or not self.filling.size:
            raise ImportRefused("The file holds no example.")
        self.progress(read=read, examples=self.filling.size)

    def _refuse(self, number: int, found: Any, reason: str) -> None:
        self.bad += 1
        if self.named_lines is None or len(self.problems) < self.named_lines:
            self.problems.append(LineProblem(number, reason))
        if not self.request.skip_bad and self.bad == BAD_LINES_MAX:
            raise BadLines(self.problems, self.bad, more=True)
        if self.request.skip_bad:
            content = found.text if isinstance(found, LineError) else found
            if any(said in reason for said in NOT_KEPT):
                content = None
            with self.skipped.open("ab") as file:
                file.write(
                    json.dumps({"line": number, "reason": reason, "content": content}).encode()
                    + b"\n"
                )


def _told_of(source: Source) -> dict[str, Any]:
    told: dict[str, Any] = {"file": source.file_name[:255]}
    if source.whole:
        told |= {"bytes": source.bytes, "sha256": source.sha256}
    told |= {
        "packing": source.packing.value,
        "left_out_beside_the_examples": source.beside,
    }
    return _filled(told)


def lacks_format(line: Line, request: ImportRequest) -> bool:
    """Return whether a line is an object of no known format, and the request does not say what it
    is."""
    if request.format or request.mapping or not line:
        return False
    try:
        recognise(line, request.kind, request.ignored)
    except LineError as error:
        return str(error).startswith("is of no known format")
    return False


def mapped(line: Line, mapping: Mapping[str, str]) -> Line:
    """Return the line with its fields under the names that a format knows. Raise LineError."""
    if missing := [name for name in mapping.values() if name not in line]:
        raise LineError(f"has no {', '.join(missing)[:100]}, which the mapping names")
    taken = set(mapping.values())
    rest = {name: value for name, value in line.items() if name not in taken}
    if twice := sorted(mapping.keys() & rest.keys()):
        raise LineError(f"has {', '.join(twice)[:100]} beside the field that the mapping names")
    return {name: line[field] for name, field in mapping.items()} | rest


MAPPED_FIELDS = tuple(
    sorted({name for known in FORMATS.values() for name in known.fields} - {"id", "kind", "split"})
)


def check_mapping(mapping: Mapping[Any, Any]) -> None:
    """Raise InvalidDataset if the mapping cannot be used."""
    problems = [
        f"{str(name)[:100]!r} is no field of a format; known are {', '.join(MAPPED_FIELDS)}."
        for name in mapping
        if name not in (*MAPPED_FIELDS, "split")
    ]
    if any(not isinstance(field, str) or not field for field in mapping.values()):
        problems.append("Must give a field or column of the file, as text, for each name.")
    elif len(set(mapping.values())) < len(mapping):
        problems.append("Names a field or column of the file twice.")
    if problems:
        raise InvalidDataset({"mapping": problems[:NAMED_PROBLEMS]})


def check_held_out(held_out: int | float | None) -> None:
    """Raise InvalidDataset if the examples to hold out are not a number or a share."""
    if held_out is None:
        return
    if (isinstance(held_out, float) and 0 < held_out < 1) or (
        type(held_out) is int and held_out >= 1
    ):
        return
    raise InvalidDataset({"held_out": [HELD_OUT]})


def parse_held_out(text: str) -> int | float | None:
    """Read the examples to hold out: ``200`` → 200 examples, ``0.1`` → a tenth of them, empty or
    ``0`` → none. Raise InvalidDataset."""
    text = text.strip()
    if text in ("", "0"):
        return None
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if re.fullmatch(r"0?\.[0-9]{1,9}", text):
        held_out = float(text)
        check_held_out(held_out)
        return held_out
    problems = [HELD_OUT]
    try:
        parse_number(text)
    except ValueError as error:
        problems.insert(0, str(error))
    raise InvalidDataset({"held_out": problems})


def check_skip_bad(share: float | None) -> None:
    """Raise InvalidDataset if the lines to leave out are not a share."""
    if share is not None and not 0 < share <= 0.5:
        raise InvalidDataset({"skip_bad": [SKIP_BAD]})


def parse_skip_bad(text: str) -> float | None:
    """Read the share of lines to leave out: ``true`` → up to 1 %, ``0.05`` → up to 5 %, empty or
    ``false`` → none. Raise InvalidDataset."""
    text = text.strip().lower()
    if text in ("", "false", "0"):
        return None
    if text in ("true", "on", "1"):
        return SKIP_BAD_DEFAULT
    if not re.fullmatch(r"0?\.[0-9]{1,9}", text):
        raise InvalidDataset({"skip_bad": [SKIP_BAD]})
    check_skip_bad(float(text))
    return float(text)


def parse_mapping(text: str) -> dict[str, str]:
    """Read ``{"prompt": "frage"}`` as a mapping, empty text as none. Raise InvalidDataset."""
    if not text.strip():
        return {}
    try:
        mapping = parse_line(text.encode(errors="surrogatepass"))
    except LineError as error:
        raise InvalidDataset(
            {"mapping": [f'Must be a JSON object like {{"prompt": "question"}}; it {error}.']}
        ) from error
    check_mapping(mapping)
    return mapping


def parse_names(text: str) -> list[str]:
    """Read ``score, rank`` as names."""
    return [name for part in text.split(",") if (name := part.strip())]
