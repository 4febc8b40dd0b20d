"""What kind of file an upload is, told from its beginning, never from its name. What cannot be read
is refused by name."""

import csv
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath

import orjson

# As much of a file's beginning is looked at, unless it is one line of JSON.
HEAD_BYTES = 64 * 1024
_LONGEST_NAME = 100  # of a column; longer text is prose


class Packing(Enum):
    """What a file is compressed with."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"


class ContainerShape(Enum):
    """How a file holds its examples."""

    LINES = "JSON Lines"
    ARRAY = "JSON array"
    DOCUMENT = "JSON document"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Container:
    """``delimiter``: of a table."""

    shape: ContainerShape
    delimiter: str = ""


class ForeignFile(ValueError):
    """The kind of a file that cannot be read, and what to do, in sentences."""


JSON_LINES = "Give it as JSON Lines: one JSON object a line, UTF-8."
_CONVERT = f"It cannot be imported yet: convert it. {JSON_LINES}"

# (where, what stands there, kind of file, what to do)
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\xfe\x00\x00", "UTF-32", JSON_LINES),
    (0, b"\x00\x00\xfe\xff", "UTF-32", JSON_LINES),
    (0, b"\xff\xfe", "UTF-16", f"{JSON_LINES} `iconv -f UTF-16 -t UTF-8` converts it."),
    (0, b"\xfe\xff", "UTF-16", f"{JSON_LINES} `iconv -f UTF-16 -t UTF-8` converts it."),
    (0, b"{\x00", "UTF-16", f"{JSON_LINES} `iconv -f UTF-16LE -t UTF-8` converts it."),
    (0, b"\x00{", "UTF-16", f"{JSON_LINES} `iconv -f UTF-16BE -t UTF-8` converts it."),
    (0, b"\x1f\x8b", "gzip", f"It is packed twice: unpack it first (`gunzip`). {JSON_LINES}"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", f"It is packed twice: unpack it first. {JSON_LINES}"),
    (0, b"BZh", "bzip2", f"Unpack it first (`bunzip2`). {JSON_LINES}"),
    (0, b"\xfd7zXZ\x00", "xz", f"Unpack it first (`unxz`). {JSON_LINES}"),
    (0, b"\x04\x22\x4d\x18", "LZ4", f"Unpack it first (`lz4 -d`). {JSON_LINES}"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip", f"Unpack it first. {JSON_LINES}"),
    (30, b"[Content_Types].xml", "an Excel workbook or another Office document (zip)", _CONVERT),
    (30, b"_rels/.rels", "an Excel workbook or another Office document (zip)", _CONVERT),
    (30, b"xl/", "an Excel workbook (zip)", _CONVERT),
    (0, b"PK\x03\x04", "zip", f"Unpack it first (`unzip`) and give one file of it. {JSON_LINES}"),
    (257, b"ustar", "tar", f"Unpack it first (`tar -x`) and give one file of it. {JSON_LINES}"),
    (
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Excel workbook or another Office document",
        _CONVERT,
    ),
    (0, b"PAR1", "Parquet within another packing", "Unpack it first: Parquet is packed itself."),
    (0, b"PARE", "encrypted Parquet", "Write it without encryption."),
    (0, b"ARROW1", "Arrow (Feather)", _CONVERT),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", _CONVERT),
    (0, b"ORC", "ORC", _CONVERT),
    (0, b"Obj\x01", "Avro", _CONVERT),
    (0, b"\x89HDF\r\n", "HDF5", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (0, b"%PDF-", "PDF", "Examples cannot be read from it."),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, not the data",
        "Fetch the data first (`git lfs pull`).",
    ),
)
SIGNATURE_BYTES = max(place + len(signature) for place, signature, _, _ in _SIGNATURES)
_MARKUP = re.compile(rb"<(!doctype html|html|\?xml)", re.IGNORECASE)
_ARRAY = re.compile(rb"\[\s*(\{|$)")


def packing_of(start: bytes) -> Packing:
    """Return what the file with these first bytes is compressed with."""
    if start.startswith(b"\x1f\x8b"):
        return Packing.GZIP
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return Packing.ZSTD
    return Packing.NONE


def container_of(
    start: bytes, first: bytes, *, complete: bool, second: bytes | None, file_name: str = ""
) -> Container:
    """Return how an unpacked file holds its examples.

    Args:
        start: at least the first ``SIGNATURE_BYTES`` bytes of the file, byte order mark included.
        first: the first line that is not blank, or its beginning where not ``complete``.
        second: the second line that is not blank, or its beginning; None: there is none, or the
            first one is too long.

    Raise ForeignFile.
    """
    for place, signature, kind, advice in _SIGNATURES:
        if start.startswith(signature, place):
            raise ForeignFile(f"The file is {kind}. {advice}")
    first = first.strip()
    if _MARKUP.match(first):
        raise ForeignFile(
            "The file is an HTML or XML page, perhaps an error or login page in place of the data."
            f" {JSON_LINES}"
        )
    if b"\x00" in first and not first.startswith(b"{"):
        raise ForeignFile(f"The file is binary, of a kind that is not known here. {JSON_LINES}")
    value = _parsed(first) if complete else None
    second = None if second is None else second.strip()
    if value is None and b"\r" in first:
        raise ForeignFile(
            "The lines of the file end with a carriage return alone, as on old Macintosh systems."
            f" {JSON_LINES} `tr '\\r' '\\n'` converts it."
        )
    if value is None and first.startswith((b"- ", b"---")):
        raise ForeignFile(f"The file looks like YAML. {JSON_LINES}")
    if isinstance(value, list) and second is None:
        return Container(ContainerShape.ARRAY)
    if value is None and _ARRAY.match(first):
        return Container(ContainerShape.ARRAY)
    if value is None and first.startswith(b"{") and second is not None and second.startswith(b'"'):
        return Container(ContainerShape.DOCUMENT)
    if value is None and not first.startswith((b"{", b"[")):
        return _table(first, second, file_name) or Container(ContainerShape.LINES)
    return Container(ContainerShape.LINES)


def _parsed(line: bytes) -> object:
    """Return the value of a line of JSON, or None if it is not JSON (or null)."""
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _table(header: bytes, second: bytes | None, file_name: str) -> Container | None:
    """Return the container of a table if the first line looks like its header. csv.Sniffer would
    take letters for delimiters."""
    if second is not None and second.startswith(b"{") and _parsed(second) is not None:
        return None  # JSON Lines with a bad first line
    text = header[:HEAD_BYTES].decode(errors="replace").removeprefix("\ufeff")
    delimiter = max(",;\t|", key=lambda delimiter: len(_columns(text, delimiter)))
    if len(_columns(text, delimiter)) < 2 and PurePath(file_name).suffix.lower() not in (
        ".csv",
        ".tsv",
    ):
        return None
    return Container(ContainerShape.TABLE, delimiter)


def _columns(header: str, delimiter: str) -> list[str]:
    try:
        columns = [
            column.strip()
            for column in next(csv.reader([header], delimiter=delimiter), [])
            if column.strip()
        ]
    except csv.Error:  # a field larger than the module reads
        return []
    return columns if all(len(column) <= _LONGEST_NAME for column in columns) else []
