"""From a file to the lines, items or rows in it, whatever it is packed in.

Compressed files, arrays and tables are read piece by piece: no more than one example and some
buffers are in memory. A document that holds its examples in an object is read whole, up to
``MAX_DOCUMENT_BYTES``.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import re
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, Protocol, cast

import orjson
import zstandard
from django.conf import settings

from datasets.files import parquet
from datasets.files.containers import (
    HEAD_BYTES,
    SIGNATURE_BYTES,
    Container,
    ContainerShape,
    ForeignFile,
    Packing,
    container_of,
    packing_of,
)
from datasets.formats.hazards import hazard_of
from datasets.formats.lines import Line, LineError, parse_line
from datasets.formats.table import is_known
from tunixrt.refusals import Messages, Refusal

# A trace may have MAX_TRACE_BYTES; written with escapes the same text can be several times as long.
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
# What a request may make of some kilobytes: a file of 64 kB can unpack to this, in seconds.
IN_REQUEST_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_COLUMNS = 1_000
ROW_NUMBER = "column 1"  # a first column without a name
_BOM = b"\xef\xbb\xbf"
_INK = re.compile(rb"\S")
_PIECE = 64 * 1024
# Bytes of zstd that are unpacked at once: they become 8 MB at most (a block of 128 kB takes four).
_ZSTD_PIECE = 256
csv.field_size_limit(MAX_LINE_BYTES)  # of the process; its default, 128 kB, is less than an example

Found = tuple[int, Line | LineError]


class ImportRefused(Refusal):
    """The file as a whole, or what was asked of it, cannot be imported."""

    def __init__(self, sentence: str, messages: Messages | None = None):
        super().__init__(messages={"file": [sentence]} if messages is None else messages)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class UnpackedLimit:
    """To how many bytes a file may unpack, and the advice for one with more."""

    bytes: int
    advice: str


def unpacked_limit(*, in_request: bool) -> UnpackedLimit:
    """Return the limit of this system, and of an import for which a thread of the web server is
    taken."""
    most = settings.TUNIXRT_UNPACKED_MAX_BYTES
    if in_request and most > IN_REQUEST_UNPACKED_BYTES:
        advice = "while a request waits for it. Import it with mode=async, in a process of its own"
        return UnpackedLimit(IN_REQUEST_UNPACKED_BYTES, advice)
    return UnpackedLimit(most, "(TUNIXRT_UNPACKED_MAX_BYTES); divide it")


@dataclass(frozen=True)
class Part:
    """One file of those that become a dataset.

    Attributes:
        split: of all its examples, where the request says it.
        total: how many files there are.
        in_request: a thread of the web server reads it.
    """

    file: Readable
    name: str
    split: str | None = None
    total: int = 1
    in_request: bool = False


class _Stream(io.RawIOBase):
    """Bytes of a file of which the first were read already; counts and hashes all of them."""

    def __init__(self, file: Readable):
        self._file = file
        self._hash = hashlib.sha256()
        self._start = b""
        self.bytes = 0

    def start(self, size: int) -> bytes:
        """Return the first ``size`` bytes, or all of them; they are read again later."""
        while len(self._start) < size and (piece := self._read(size - len(self._start))):
            self._start += piece
        return self._start

    def _read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._count(piece)
        return piece

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.bytes += len(piece)

    @contextmanager
    def on_disk(self) -> Iterator[int]:
        """Yield a descriptor of the whole file, its own or that of a copy. Count and hash at the
        end what was not read yet."""
        if (found := self._regular_file()) is not None:
            # With a place of its own: another process moves it.
            descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield descriptor
                while piece := os.pread(descriptor, _PIECE, self.bytes):
                    self._count(piece)
            finally:
                os.close(descriptor)
            return
        with tempfile.TemporaryFile() as copy:
            copy.write(self._start)
            while piece := self._read(_PIECE):
                copy.write(piece)
            copy.flush()
            yield copy.fileno()

    def _regular_file(self) -> int | None:
        """Return the descriptor of the file, if it is a regular one that was read from its
        beginning."""
        file = cast(BinaryIO, self._file)
        try:
            descriptor = file.fileno()
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if is_regular and file.tell() == self.bytes and sys.platform == "linux":
                return descriptor
        except (AttributeError, OSError, ValueError):
            pass
        return None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._start:
            piece, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        else:
            piece = self._read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Source:
    """The examples of a file as JSON objects, with their numbers.

    Attributes:
        bytes, sha256: of the file as it came.
        whole: whether it was read to its end.
        packing: what it is compressed with, or none.
        unpacks: whether it has more bytes than its length says: so has Parquet, too.
        beside: fields that stand beside the list of examples in a document.
    """

    def __init__(self, file: Readable, file_name: str, *, max_unpacked: UnpackedLimit):
        self._packed = _Stream(file)
        self.file_name = file_name
        self._max_unpacked = max_unpacked
        self.whole = False
        self.packing = Packing.NONE
        self.unpacks = False
        self.beside: list[str] = []

    @property
    def bytes(self) -> int:
        return self._packed.bytes

    @property
    def sha256(self) -> str:
        return self._packed.sha256

    def examples(self) -> Iterator[Found]:
        """Yield number and object, or the reason why there is none; blank lines are left out.

        The number is that of the line (from 1), of an array's item, or of the line at which a
        table's row begins. Raise ImportRefused for a file that cannot be read as a whole.
        """
        try:
            start = self._packed.start(SIGNATURE_BYTES)
            if start.startswith(parquet.MAGIC):
                self.unpacks = True
                yield from self._parquet()
                self.whole = True
                return
            self.packing = packing_of(start)
            stream = self._packed
            if self.packing is not Packing.NONE:
                self.unpacks = True
                stream = _Stream(
                    _Unpacked(
                        cast(BinaryIO, io.BufferedReader(self._packed, _PIECE)),
                        self.packing,
                        self._max_unpacked,
                    )
                )
            container = self._container(stream)
        except ForeignFile as error:
            raise ImportRefused(str(error)) from error
        if container is None:
            self.whole = True
            return
        file = cast(BinaryIO, io.BufferedReader(stream, _PIECE))
        match container.shape:
            case ContainerShape.LINES:
                yield from self._lines(file)
            case ContainerShape.ARRAY:
                yield from _array(file)
            case ContainerShape.DOCUMENT:
                yield from self._document(file)
            case ContainerShape.TABLE:
                yield from _table(file, container.delimiter)
        self.whole = True

    def _container(self, stream: _Stream) -> Container | None:
        """Return what holds the examples; None where there is only white space."""
        size = HEAD_BYTES
        head = stream.start(size)
        while not (lines := list(islice(_filled_lines(head), 2))) and len(head) == size:
            size *= 2
            if size > MAX_LINE_BYTES:
                return Container(ContainerShape.LINES)
            head = stream.start(size)
        if not lines:
            return None
        first, second = lines[0], lines[1] if len(lines) > 1 else None
        return container_of(
            head,
            first,
            complete=first.endswith(b"\n") or len(head) < size,
            second=second,
            file_name=self.file_name,
        )

    def _lines(self, file: BinaryIO) -> Iterator[Found]:
        numbered = _numbered_lines(file)
        first, second = next(numbered, None), next(numbered, None)
        if first is None:
            return
        if (
            second is None
            and isinstance(first[1], dict)
            and (inside := self._examples_in(first[1]))
        ):
            yield from enumerate(inside, start=1)
            return
        yield from chain([first], [second] if second else [], numbered)

    def _parquet(self) -> Iterator[Found]:
        """Yield the rows of a Parquet file, numbered from 1."""
        with self._packed.on_disk() as descriptor:
            try:
                with parquet.reading(descriptor) as lines:
                    bounded = _Bounded(lines, "Parquet", self._max_unpacked)
                    yield from _numbered_lines(cast(BinaryIO, bounded), parse=_row)
            except parquet.ParquetError as error:
                raise ImportRefused(str(error)) from error

    def _document(self, file: BinaryIO) -> Iterator[Found]:
        """Yield the examples of one object over several lines: an example, or an object with one
        list of them."""
        raw = file.read(MAX_DOCUMENT_BYTES + 1).removeprefix(_BOM)
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise ImportRefused(
                f"The file is one JSON object of more than {MAX_DOCUMENT_BYTES:,} bytes; give the"
                " examples as an array, or one object a line."
            )
        value = _parsed(raw)
        if isinstance(value, LineError):
            raise ImportRefused(
                f"The file is one JSON document over several lines, which {value}."
                " `jq -c .` writes an object on one line."
            )
        inside = self._examples_in(value)
        yield from enumerate(inside or [value], start=1)

    def _examples_in(self, document: Line) -> list[Line | LineError]:
        """Return the examples in an object that is not an example itself: those of its only list of
        objects. Raise ImportRefused where a field beside the list says something about them."""
        if is_known(document):
            return []
        lists = [
            name
            for name, value in document.items()
            if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        ]
        if len(lists) != 1:
            return []
        beside = {name: value for name, value in document.items() if name != lists[0]}
        if hazard := hazard_of(beside, frozenset()):
            raise ImportRefused(
                f"What stands beside the list {lists[0][:40]!r} {hazard}. Write it into each"
                " example, or give the list alone."
            )
        self.beside = [str(name)[:100] for name in list(beside)[:100]]
        return list(document[lists[0]])


def _filled_lines(head: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, with their line ends."""
    head = head.removeprefix(_BOM)
    end = 0
    while found := _INK.search(head, end):
        start = head.rfind(b"\n", 0, found.start()) + 1
        end = head.find(b"\n", found.start()) + 1 or len(head)
        yield head[start:end]


class _Unpacked:
    """What a compressed file holds, up to ``limit``. Raises ImportRefused."""

    def __init__(self, file: BinaryIO, packing: Packing, limit: UnpackedLimit):
        self._pieces = _gunzip(file) if packing is Packing.GZIP else _unzstd(file)
        self._packing = packing
        self._left = b""
        self._limit = limit
        self._count = 0

    def read(self, size: int, /) -> bytes:
        while not self._left:
            try:
                self._left = next(self._pieces)
            except StopIteration:
                return b""
            except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
                raise ImportRefused(
                    f"The {self._packing.value} file is damaged or cut off: {error}."
                ) from error
            self._count += len(self._left)
            _check_unpacked(self._count, self._limit, self._packing.value)
        piece, self._left = self._left[:size], self._left[size:]
        return piece


class _Bounded:
    """Lines of no more bytes in all than ``limit``. Raises ImportRefused."""

    def __init__(self, file: BinaryIO, kind: str, limit: UnpackedLimit):
        self._file = file
        self._kind = kind
        self._limit = limit
        self._count = 0

    def readline(self, size: int) -> bytes:
        line = self._file.readline(size)
        self._count += len(line)
        _check_unpacked(self._count, self._limit, self._kind)
        return line


def _check_unpacked(count: int, limit: UnpackedLimit, kind: str) -> None:
    if count > limit.bytes:
        raise ImportRefused(
            f"The {kind} file unpacks to more than {limit.bytes:,} bytes {limit.advice}."
        )


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while piece := unpacked.read(_PIECE):
            yield piece


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Decompress frame by frame: the reader of the library takes a frame that is cut off for a
    whole one."""
    packed = file.read(_ZSTD_PIECE)
    while packed:
        frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        while not frame.eof:
            if not packed:
                raise EOFError("it ends within a frame")
            if piece := frame.decompress(packed):
                yield piece
            packed = frame.unused_data or file.read(_ZSTD_PIECE)


# --- JSON Lines -----------------------------------------------------------------------------------


def _numbered_lines(
    file: BinaryIO, parse: Callable[[bytes], Line | LineError] | None = None
) -> Iterator[Found]:
    parse = parse or _parsed
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if number == 1:
            raw = raw.removeprefix(_BOM)
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(content) > MAX_LINE_BYTES:
            while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
                pass
            yield number, LineError(f"is longer than {MAX_LINE_BYTES:,} bytes")
        elif content.strip():
            yield number, parse(content)
        elif isinstance(file, io.BufferedReader):
            number += _skip_line_ends(file)


def _skip_line_ends(file: io.BufferedReader) -> int:
    """Skip line ends in pieces; return how many lines they end. Line by line, twenty kilobytes
    that unpack to nothing else kept a thread of the server for ten seconds."""
    lines = 0
    while ends := len(buffer := file.peek()) - len(buffer.lstrip(b"\r\n")):
        lines += buffer.count(b"\n", 0, ends)
        file.read(ends)
    return lines


def _row(raw: bytes) -> Line | LineError:
    """Return a row of Parquet, or the error that says why there is none."""
    row = orjson.loads(raw)
    return LineError(row) if isinstance(row, str) else row


def _parsed(raw: bytes) -> Line | LineError:
    try:
        return parse_line(raw)
    except LineError as error:
        error.text = raw.decode(errors="replace")
        return error


# --- JSON documents -------------------------------------------------------------------------------


def _array(file: BinaryIO) -> Iterator[Found]:
    """Yield the items of an array. Raise ImportRefused where it is broken: what comes after that
    cannot be known."""
    decoder = json.JSONDecoder()
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    text, place, number, ended = "", 0, 0, False

    def more() -> None:
        nonlocal text, place, ended
        piece = file.read(max(_PIECE, len(text) - place))  # twice as much each time
        try:
            text, place, ended = text[place:] + decode(piece, not piece), 0, not piece
        except UnicodeDecodeError as error:
            raise ImportRefused(
                f"The JSON array is not valid UTF-8 after item {number:,}."
            ) from error

    def skip() -> str:
        """Return the next character that is not white space; empty at the end."""
        nonlocal place
        while True:
            while place < len(text) and text[place] in " \t\r\n":
                place += 1
            if place < len(text) or ended:
                return text[place : place + 1]
            more()

    if skip() != "[":
        raise ImportRefused("The file does not begin with a JSON array.")
    place += 1
    if skip() != "]":
        while True:
            skip()
            number += 1
            while True:
                try:
                    _, end = decoder.raw_decode(text, place)
                except (ValueError, RecursionError):
                    end, broken = len(text), True
                else:
                    broken = False
                if end < len(text) or ended:
                    break
                if len(text) - place > MAX_LINE_BYTES:
                    raise ImportRefused(
                        f"Item {number:,} of the JSON array is not JSON, or longer than"
                        f" {MAX_LINE_BYTES:,} characters."
                    )
                more()
            if broken:
                raise ImportRefused(
                    f"Item {number:,} of the JSON array is not JSON: it is cut off or broken."
                )
            yield number, _parsed(text[place:end].encode(errors="surrogatepass"))
            place = end
            separator = skip()
            place += 1
            if separator == "]":
                break
            if separator != ",":
                raise ImportRefused(f"The JSON array is cut off or broken after item {number:,}.")
    else:
        place += 1
    if skip():
        raise ImportRefused(
            f"After the JSON array of {number:,} items comes something else; give one array, or"
            " one object a line."
        )


# --- Tables ---------------------------------------------------------------------------------------

# columns in which a cell may hold JSON, as tables of chats do
_STRUCTURED = {
    *("messages", "conversations", "contents", "prompt", "completion", "chosen", "rejected"),
    *("tools", "functions", "history", "input", "steps", "meta"),
}


def _table(file: BinaryIO, delimiter: str) -> Iterator[Found]:
    rows = csv.reader(_text_lines(file), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in rows:
            number, start = start, rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = _header(row)
                continue
            if len(row) != len(header):
                yield (
                    number,
                    LineError(f"has {len(row):,} columns where the header has {len(header):,}"),
                )
                continue
            cells = {
                name: _cell(name, text)
                for name, text in zip(header, row, strict=True)
                if name != ROW_NUMBER or not text.strip().isdigit()
            }
            yield number, cells
    except csv.Error as error:
        raise ImportRefused(f"The table cannot be read from line {start:,} on: {error}.") from error
    except UnicodeDecodeError as error:
        raise ImportRefused(
            f"The table is not valid UTF-8 near line {rows.line_num + 1:,}; save it as UTF-8."
        ) from error


def _text_lines(file: BinaryIO) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    while raw := file.readline(MAX_LINE_BYTES):
        yield decode(raw)


def _header(row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    if len(names) > MAX_COLUMNS:
        # How many more is not known: a long header is not read to its end.
        raise ImportRefused(f"The table has more than {MAX_COLUMNS:,} columns, which is the limit.")
    # The first column without a name numbers the rows, as tables of pandas have it.
    names = [
        name or (f"column {place}" if place > 1 else ROW_NUMBER)
        for place, name in enumerate(names, 1)
    ]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ImportRefused(f"The table has the column {repeated[:100]!r} twice.")
    return names


def _cell(name: str, text: str) -> Any:
    """Return the text of a cell; an empty one is null. Read JSON of chats as such."""
    if not text:
        return None
    if name in _STRUCTURED and text.startswith(("[", "{")):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(item, dict | list) for item in items):
            return value
    return text
