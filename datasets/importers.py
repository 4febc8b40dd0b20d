"""Reading JSONL files of several formats as traces.

``import_file`` reads and checks the whole file first, into a temporary file, so that every bad line
is known before the database is touched and the database is locked for writing only as long as
writing takes.
"""

import hashlib
import heapq
import re
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any, Protocol

import orjson
from django.contrib.auth.models import User

from datasets import services
from datasets.containers import HEAD_BYTES, SIGNATURE_BYTES, foreign_kind
from datasets.formats import FORMATS, LineError, parse_line, recognise, to_trace
from datasets.models import Dataset, Split
from datasets.schema import TraceData
from datasets.tally import Fingerprint, Lengths
from tunixrt.numbers import parse_number
from tunixrt.refusals import Messages, Refusal

# A trace may have MAX_TRACE_BYTES; written with escapes the same text can be several times as long.
MAX_LINE_BYTES = 4 * 1024 * 1024
NAMED_LINES = 100
HELD_OUT = "Must be a number of examples (1 or more) or a share between 0 and 1."

_BOM = b"\xef\xbb\xbf"


class ImportRefused(Refusal):
    """The file as a whole, or what was asked of it, cannot be imported."""

    def __init__(self, sentence: str, messages: Messages | None = None):
        super().__init__(messages={"file": [sentence]} if messages is None else messages)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


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


class LineReader(Protocol):
    def readline(self, size: int, /) -> bytes: ...


class _Source:
    """Lines of a file with their numbers, never more than two of them in memory; counts and hashes
    what it reads."""

    def __init__(self, file: LineReader, file_name: str):
        self._file = file
        self._file_name = file_name
        self._hash = hashlib.sha256()
        self._ahead = b""  # read to tell the kind of the file, not yet taken as a line
        self.bytes = 0
        self.whole = False

    def _look_ahead(self) -> bytes:
        """The first bytes of the file, whatever lines they are: a binary file has line feeds
        anywhere."""
        while len(self._ahead) < SIGNATURE_BYTES and (part := self._file.readline(SIGNATURE_BYTES)):
            self._ahead += part
        return self._ahead

    def _readline(self, limit: int) -> bytes:
        if end := self._ahead.find(b"\n") + 1:
            part, self._ahead = self._ahead[:end], self._ahead[end:]
        else:
            part, self._ahead = self._ahead + self._file.readline(limit - len(self._ahead)), b""
        self._hash.update(part)
        self.bytes += len(part)
        return part

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Line number and bytes without the line's end, blank lines left out; None for a line that
        is too long.

        Raises ImportRefused for a file of another kind, before the first line.
        """
        start = self._look_ahead()
        lines = self._lines()
        first, second = next(lines, None), next(lines, None)
        if first is None:
            return
        number, content, beginning = first
        if reason := foreign_kind(
            start,
            beginning if content is None else content,
            complete=content is not None,
            second=second and second[1],
            file_name=self._file_name,
        ):
            raise ImportRefused(reason)
        yield number, content
        for number, content, _ in chain([second] if second else [], lines):
            yield number, content

    def _lines(self) -> Iterator[tuple[int, bytes | None, bytes]]:
        """The same; of a line that is too long the third is its beginning."""
        number = 0
        while raw := self._readline(MAX_LINE_BYTES + 2):
            number += 1
            if number == 1:
                raw = raw.removeprefix(_BOM)
            content = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > MAX_LINE_BYTES:
                while not raw.endswith(b"\n") and (raw := self._readline(1 << 20)):
                    pass
                yield number, None, content[:HEAD_BYTES]
            elif content.strip():
                yield number, content, b""
        self.whole = True

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@dataclass
class _Staging:
    """Valid examples on their way to the database, in a temporary file: hash, part, trace; one a
    line."""

    file: IO[bytes]
    size: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    named_parts: int = 0
    # The first 64 bits of every content hash: they draw the held-out part. Eight bytes an example.
    draws: array = field(default_factory=lambda: array("Q"))
    threshold: int = -1
    _UNNAMED = "-"

    def add(self, trace: TraceData, split: str | None, *, draw: bool) -> None:
        content = [trace.prompt, trace.steps, trace.final_answer, trace.meta, trace.trace_version]
        part = split or self._UNNAMED
        self.file.write(
            f"{trace.content_hash} {part} ".encode()
            + orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
        )
        self.size += 1
        self.named_parts += split is not None
        self.lengths.add(trace)
        if draw:
            self.draws.append(self._draw(trace.content_hash))

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

    def examples(self) -> Iterator[tuple[TraceData, str]]:
        for content_hash, part, content in self.parts():
            prompt, steps, final_answer, meta, version = orjson.loads(content)
            yield (
                TraceData(prompt, steps, final_answer, meta, version, content_hash, len(content)),
                part,
            )

    def summary(self) -> services.Summary:
        fingerprint = Fingerprint()
        held_out_size = 0
        for content_hash, part, _ in self.parts():
            fingerprint.add(content_hash, part)
            held_out_size += part == Split.HELD_OUT
        return services.Summary(
            self.size, held_out_size, self.lengths.as_stats(held_out_size), str(fingerprint)
        )


def import_file(
    *,
    file: LineReader,
    name: str,
    version: str,
    description: str = "",
    format: str | None = None,
    held_out: int | float | None = None,
    limit: int | None = None,
    file_name: str = "",
    named_lines: int | None = NAMED_LINES,
    by: User | None,
) -> Dataset:
    """Store the examples of a JSONL file as traces and a dataset: all of them or nothing.

    Args:
        file: read once, from where it stands to its end.
        format: a name of FORMATS; None: recognised by the first line.
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
    check_held_out(held_out)
    if limit is not None and limit < 1:
        raise services.InvalidDataset({"limit": ["Must be at least 1."]})
    source = _Source(file, file_name)
    with tempfile.TemporaryFile(prefix="tunixrt-import-") as staged:
        staging = _Staging(staged)
        found = _read(
            source, staging, format, draw=held_out is not None, limit=limit, named_lines=named_lines
        )
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
            provenance={key: value for key, value in provenance.items() if value not in (None, "")},
            by=by,
        )


def _read(
    source: _Source,
    staging: _Staging,
    format: str | None,
    *,
    draw: bool,
    limit: int | None,
    named_lines: int | None,
) -> str:
    """Read and check every line; the good ones go to the staging. Returns the format. Raises
    BadLines, ImportRefused."""
    problems: list[LineProblem] = []
    count = 0
    for number, raw in source.lines():
        try:
            if raw is None:
                raise LineError(f"is longer than {MAX_LINE_BYTES:,} bytes")
            line = parse_line(raw)
            format = format or recognise(line)
            trace, split = to_trace(line, format)
        except LineError as error:
            count += 1
            if named_lines is None or len(problems) < named_lines:
                problems.append(LineProblem(number, str(error)))
            continue
        staging.add(trace, split, draw=draw)
        if staging.size == limit:
            break
    if count:
        raise BadLines(problems, count)
    if format is None or not staging.size:
        raise ImportRefused("The file holds no example.")
    return format


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
