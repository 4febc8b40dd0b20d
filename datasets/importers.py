"""Importing files of several formats as examples and a dataset.

``import_file`` reads and checks the whole file first, into a temporary file, so that every bad line
is known before the database is touched and the database is locked for writing only as long as
writing takes.
"""

import heapq
import re
import tempfile
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import orjson
from django.conf import settings
from django.contrib.auth.models import User

from datasets import services
from datasets.formats.lines import Line, LineError, parse_line
from datasets.formats.table import FORMATS, KINDS, recognise, to_example
from datasets.models import Dataset, Kind, Split
from datasets.reading import ImportRefused, Readable, Source
from datasets.schema import NAMED_PROBLEMS, ExampleData
from datasets.tally import Fingerprint, Lengths
from tunixrt.numbers import parse_number

NAMED_LINES = 100
KEPT_MAX = 100  # names of fields that are kept in meta
HELD_OUT = "Must be a number of examples (1 or more) or a share between 0 and 1."


@dataclass(frozen=True, slots=True)
class LineProblem:
    """``line`` counts from 1 and includes empty lines."""

    line: int
    reason: str


class BadLines(ImportRefused):
    """``problems``: the first ones; ``count``: how many bad lines there are in all."""

    def __init__(self, problems: list[LineProblem], count: int):
        self.problems = problems
        self.count = count
        lines = "1 line is" if count == 1 else f"{count:,} lines are"
        super().__init__(f"{lines} not valid, so nothing was stored.", messages={})
        self.detail = self.sentence

    @property
    def extra(self) -> dict[str, Any]:
        return {
            "error_count": self.count,
            "errors": [
                {"line": problem.line, "reason": problem.reason} for problem in self.problems
            ],
        }


@dataclass
class _Staging:
    """Valid examples on their way to the database, in a temporary file: hash, part, columns; one a
    line. All are of one kind."""

    file: IO[bytes]
    kind: str = Kind.TRACE.value
    size: int = 0
    # The fields that a training does not see, in the order in which they came; the first KEPT_MAX.
    kept: dict[str, None] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    named_parts: int = 0
    # The first 64 bits of every content hash: they draw the held-out part. Eight bytes an example.
    draws: array = field(default_factory=lambda: array("Q"))
    threshold: int = -1
    _UNNAMED = "-"

    def add(self, example: ExampleData, split: str | None, *, draw: bool) -> None:
        content = [
            *(example.prompt, example.steps, example.final_answer, example.meta),
            *(example.trace_version, example.content),
        ]
        part = split or self._UNNAMED
        self.file.write(
            f"{example.content_hash} {part} ".encode()
            + orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
        )
        self.size += 1
        if len(self.kept) < KEPT_MAX:
            self.kept.update(dict.fromkeys(islice(example.meta, KEPT_MAX)))
        self.named_parts += split is not None
        self.lengths.add(example)
        if draw:
            self.draws.append(self._draw(example.content_hash))

    @staticmethod
    def _draw(content_hash: str) -> int:
        return int(content_hash[:16], 16)

    def hold_out(self, held_out: int | float) -> None:
        """Draw the held-out part: the examples with the smallest content hashes, so that the same
        data always gives the same part. Copies of one example stay together, so a few more can be
        drawn than asked for.
        """
        number = max(1, round(held_out * self.size)) if isinstance(held_out, float) else held_out
        if number >= self.size:
            reason = f"{number} of {self.size} examples held out leave none to train on."
            raise services.InvalidDataset({"held_out": [reason]})
        self.threshold = heapq.nsmallest(number, self.draws)[-1]

    def parts(self) -> Iterator[tuple[str, str, bytes]]:
        """Content hash, part and JSON of every example."""
        self.file.seek(0)
        for line in self.file:
            content_hash, part, content = line.split(b" ", 2)
            name = part.decode()
            if name == self._UNNAMED:
                name = (
                    Split.HELD_OUT
                    if self._draw(content_hash.decode()) <= self.threshold
                    else Split.TRAIN
                )
            yield content_hash.decode(), name, content

    def examples(self) -> Iterator[tuple[ExampleData, str]]:
        for content_hash, part, columns in self.parts():
            prompt, steps, final_answer, meta, version, content = orjson.loads(columns)
            example = ExampleData(
                prompt, steps, final_answer, meta, version, content_hash, len(columns),
                self.kind, content,
            )  # fmt: skip
            yield example, part

    def summary(self) -> services.Summary:
        fingerprint = Fingerprint()
        held_out_size = 0
        for content_hash, part, _ in self.parts():
            fingerprint.add(content_hash, part)
            held_out_size += part == Split.HELD_OUT
        return services.Summary(
            self.kind,
            self.size,
            held_out_size,
            self.lengths.as_stats(held_out_size),
            str(fingerprint),
        )


def import_file(
    *,
    file: Readable,
    name: str,
    version: str,
    description: str = "",
    format: str | None = None,
    kind: str | None = None,
    mapping: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
    held_out: int | float | None = None,
    limit: int | None = None,
    file_name: str = "",
    named_lines: int | None = NAMED_LINES,
    by: User | None,
) -> Dataset:
    """Store the examples of a file and a dataset of them: all of them or nothing.

    Args:
        file: read once, from where it stands to its end.
        format: a name of FORMATS; None: recognised by the first line.
        kind: what the examples are to be, one of KINDS; None: what their format is taken for.
        mapping: by the name of a field that a format knows, the field or column of the file.
        ignore: fields that say nothing about what is to be learnt, whatever their names.
        held_out: examples to hold out from training (int), or their share (float between 0 and 1).
        limit: read no more examples than this.
        file_name: where the data came from, for the provenance.
        named_lines: how many bad lines the error names; None: all.

    Raises:
        BadLines, ImportRefused, services.InvalidDataset, services.DatasetExists. OSError: no room
        for the temporary file.
    """
    services.check_identity(name=name, version=version, description=description)
    if format is not None and format not in FORMATS:
        raise services.InvalidDataset(
            {"format": [f"{format!r} is unknown; known are {', '.join(FORMATS)}."[:300]]}
        )
    if kind is not None and kind not in KINDS:
        raise services.InvalidDataset({"kind": [f"Must be one of {', '.join(KINDS)}."]})
    mapping = dict(mapping or {})
    check_mapping(mapping)
    check_held_out(held_out)
    if limit is not None and limit < 1:
        raise services.InvalidDataset({"limit": ["Must be at least 1."]})
    source = Source(file, file_name, max_unpacked=settings.TUNIXRT_UNPACKED_MAX_BYTES)
    wanted = _Wanted(format, kind, mapping, frozenset(ignore), limit)
    with tempfile.TemporaryFile(prefix="tunixrt-import-") as staged:
        staging = _Staging(staged)
        found = _read(source, staging, wanted, draw=held_out is not None, named_lines=named_lines)
        if held_out is not None:
            if staging.named_parts:
                reason = (
                    "The lines name their part themselves (field split); give one or the other."
                )
                raise services.InvalidDataset({"held_out": [reason]})
            staging.hold_out(held_out)
        provenance: dict[str, Any] = {"source": "import", "file": file_name[:255], "format": found}
        if source.whole:
            provenance |= {"bytes": source.bytes, "sha256": source.sha256}
        provenance |= {
            "packing": source.packing.value,
            "left_out_beside_the_examples": source.beside,
            "kind": kind,
            "mapping": mapping,
            "ignore": sorted(ignore),
            "kept_in_meta": list(staging.kept),
            "held_out": held_out,
            "limit": limit,
            "imported_by": by.get_username() if by else None,
        }
        return services.store_dataset(
            name=name,
            version=version,
            description=description,
            examples=staging.examples(),
            summary=staging.summary(),
            provenance={
                key: value for key, value in provenance.items() if value not in (None, "", {}, [])
            },
            by=by,
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked of an import; see import_file."""

    format: str | None
    kind: str | None
    mapping: dict[str, str]
    ignore: frozenset[str]
    limit: int | None


def _read(
    source: Source, staging: _Staging, wanted: _Wanted, *, draw: bool, named_lines: int | None
) -> str:
    """Read and check every line; the good ones go to the staging. Returns the format. Raises
    BadLines, ImportRefused."""
    problems: list[LineProblem] = []
    count = 0
    format = wanted.format
    for number, found in source.examples():
        try:
            if isinstance(found, LineError):
                raise found
            line = _mapped(found, wanted.mapping) if wanted.mapping else found
            format = format or recognise(line, wanted.kind, wanted.ignore)
            example, split = to_example(line, format, wanted.kind, wanted.ignore)
            if staging.size and example.kind != staging.kind:
                raise LineError(
                    f"is a {example.kind}, the lines before are of kind {staging.kind}: a dataset"
                    " has one kind"
                )
        except LineError as error:
            count += 1
            if named_lines is None or len(problems) < named_lines:
                problems.append(LineProblem(number, str(error)))
            continue
        staging.kind = example.kind
        staging.add(example, split, draw=draw)
        if staging.size == wanted.limit:
            break
    if count:
        raise BadLines(problems, count)
    if format is None or not staging.size:
        raise ImportRefused("The file holds no example.")
    return format


def _mapped(line: Line, mapping: dict[str, str]) -> Line:
    """The line with its fields under the names that a format knows. Raises LineError."""
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
    """Raises InvalidDataset."""
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
        raise services.InvalidDataset({"mapping": problems[:NAMED_PROBLEMS]})


def check_held_out(held_out: int | float | None) -> None:
    """Raises InvalidDataset."""
    if held_out is None:
        return
    if (isinstance(held_out, float) and 0 < held_out < 1) or (
        type(held_out) is int and held_out >= 1
    ):
        return
    raise services.InvalidDataset({"held_out": [HELD_OUT]})


def parse_held_out(text: str) -> int | float | None:
    """``200`` → 200 examples, ``0.1`` → a tenth of them, empty or ``0`` → none. Raises
    InvalidDataset."""
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
    raise services.InvalidDataset({"held_out": problems})


def parse_mapping(text: str) -> dict[str, str]:
    """``{"prompt": "frage"}`` as a mapping, empty text as none. Raises InvalidDataset."""
    if not text.strip():
        return {}
    try:
        mapping = parse_line(text.encode(errors="surrogatepass"))
    except LineError as error:
        raise services.InvalidDataset(
            {"mapping": [f'Must be a JSON object like {{"prompt": "question"}}; it {error}.']}
        ) from error
    check_mapping(mapping)
    return mapping


def parse_names(text: str) -> list[str]:
    """``score, rank`` as names."""
    return [name for part in text.split(",") if (name := part.strip())]
