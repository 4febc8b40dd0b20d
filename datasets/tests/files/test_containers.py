"""Whatever examples are packed in: read, or named with what to do."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sqlite3
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import zstandard
from django.conf import LazySettings

from datasets.files.reading import (
    IN_REQUEST_UNPACKED_BYTES,
    MAX_COLUMNS,
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    ImportRefused,
    Source,
    UnpackedLimit,
)
from datasets.formats.lines import LineError
from datasets.imports.importers import BadLines
from datasets.models import Dataset, Trace
from datasets.services.exports import export_lines
from datasets.tests.factory import import_upload, jsonl, nothing_is_stored, trace_body

pytestmark = pytest.mark.django_db
LINES = jsonl(trace_body(0), trace_body(1))
ROWS = [trace_body(0), trace_body(1)]


# the same bytes in every process that collects the tests
packed = partial(gzip.compress, mtime=0)


def refusal_of(content: bytes, file_name: str = "") -> str:
    with pytest.raises(ImportRefused) as caught:
        import_upload(
            file=io.BytesIO(content), file_name=file_name, name="sums", version="v1", by=None
        )
    assert nothing_is_stored()
    assert len(str(caught.value)) <= 400
    if isinstance(caught.value, BadLines):
        return "\n".join(f"{problem.line}: {problem.reason}" for problem in caught.value.problems)
    return str(caught.value)


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, LINES)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("lines.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES))
    return file.getvalue()


def sqlite(folder) -> bytes:
    with sqlite3.connect(folder / "a.sqlite3") as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    return (folder / "a.sqlite3").read_bytes()


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (packed(packed(LINES)), "gzip", "packed twice"),
        (packed(zipped("a")), "zip", "give one file of it"),
        (bz2.compress(LINES), "bzip2", "`bunzip2`"),
        (lzma.compress(LINES), "xz", "`unxz`"),
        (b"\x04\x22\x4d\x18\x64", "LZ4", "`lz4 -d`"),
        (zipped("lines.jsonl"), "zip", "give one file of it"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "convert it"),
        (zipped("xl/workbook.xml"), "an Excel workbook", "convert it"),
        (tarred(), "tar", "give one file of it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old Excel workbook", "convert it"),
        (packed(b"PAR1\x15\x04"), "Parquet within another packing", "Unpack it"),
        (b"PARE\x15\x04\x15\n\x00", "encrypted Parquet", "without encryption"),
        (b"ARROW1\x00\x00", "Arrow (Feather)", "convert it"),
        (b"\xff\xff\xff\xff\x10\x00", "an Arrow stream", "convert it"),
        (LINES.decode().encode("utf-16"), "UTF-16", "`iconv -f UTF-16 -t UTF-8`"),
        (LINES.decode().encode("utf-16-le"), "UTF-16", "`iconv -f UTF-16LE -t UTF-8`"),
        (LINES.decode().encode("utf-16-be"), "UTF-16", "`iconv -f UTF-16BE -t UTF-8`"),
        (b"\xfe\xff" + LINES.decode().encode("utf-16-be"), "UTF-16", "one JSON object a line"),
        (LINES.decode().encode("utf-32"), "UTF-32", "one JSON object a line"),
        (b"%PDF-1.7\n", "PDF", "cannot be read"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a Git LFS pointer", "`git lfs pull`",
        ),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML or XML page", "one JSON object a line"),
        (b'<?xml version="1.0"?>', "an HTML or XML page", "one JSON object a line"),
        (b"\x00\x01\x02\n\x03", "binary", "one JSON object a line"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named_and_what_to_do(content, kind, advice):
    reason = refusal_of(content)
    assert reason.startswith(f"The file is {kind}")
    assert advice in reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.replace(b"\n", b"\r"), "end with a carriage return alone"),
        (b"- prompt: 1+1?\n  completion: '2'\n", "looks like YAML"),
        (b"---\nprompt: 1+1?\n", "looks like YAML"),
    ],
)
def test_text_of_another_form_is_named(content, words):
    assert words in refusal_of(content)


@pytest.mark.parametrize(
    "when", [(2026, 11, 30, 1, 16, 0), (2026, 11, 30, 1, 20, 20), (1985, 5, 10, 10, 10, 20)]
)
def test_a_workbook_is_known_whatever_time_it_was_saved_at(when):
    """The date of a zip's entry is binary, and may hold line feeds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("xl/workbook.xml", when), LINES)
    assert b"\n" in file.getvalue()[:30]

    assert refusal_of(file.getvalue()).startswith("The file is an Excel workbook")


@pytest.mark.parametrize("lines", [b"\n\n\n", b"\n" * 300, b"{}\n" * 200])
def test_short_lines_at_the_start_are_read_whole(lines):
    """What is read ahead to tell the kind of the file is not lost, and lines keep their numbers."""
    source = Source(io.BytesIO(lines + LINES), "lines.jsonl", max_unpacked=UnpackedLimit(0, ""))

    read = list(source.examples())

    numbered = enumerate((lines + LINES).split(b"\n"), 1)
    assert read == [(number, json.loads(line)) for number, line in numbered if line]
    assert source.bytes == len(lines + LINES)
    assert source.sha256 == hashlib.sha256(lines + LINES).hexdigest()


def test_a_database_file_is_named(tmp_path):
    assert refusal_of(sqlite(tmp_path)).startswith("The file is an SQLite database.")


# --- Everything that two examples may be packed in ------------------------------------------------

ARRAY = json.dumps(ROWS).encode()
PAIR_OF_ROWS = [{"prompt": "1+1?", "completion": "2"}, {"prompt": "a\nb", "completion": "c, d"}]


def imported(content: bytes, file_name: str = "", **more):
    dataset = import_upload(
        file=io.BytesIO(content), file_name=file_name, name="sums", version="v1", by=None, **more
    )
    return [json.loads(line) for line in export_lines(dataset)]


def questions_of(content: bytes, file_name: str = ""):
    return [line["messages"][0]["content"] for line in imported(content, file_name)]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
        packed(LINES),
        packed(LINES[: len(LINES) // 2]) + packed(LINES[len(LINES) // 2 :]),
        zstandard.compress(LINES),
        zstandard.compress(LINES[:9]) + zstandard.compress(LINES[9:]),
        zstandard.ZstdCompressor(write_content_size=False).compress(LINES),
        ARRAY,
        json.dumps(ROWS, indent=2).encode(),
        b"[\n" + LINES.replace(b"}\n", b"},\n", 1) + b"]\n",
        b"\xef\xbb\xbf\n [" + ARRAY[1:] + b" \n",
        packed(ARRAY),
        json.dumps({"data": ROWS}).encode(),
        json.dumps({"version": 1, "data": ROWS}, indent=4).encode(),
    ],
)
def test_examples_are_read_whatever_they_are_packed_in(content):
    assert questions_of(content) == ["0+1=?", "1+1=?"]


def test_what_stands_beside_the_examples_of_a_document_is_named():
    import_upload(
        file=io.BytesIO(json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
        name="sums",
        version="v1",
        by=None,
    )
    assert Dataset.objects.get().provenance["left_out_beside_the_examples"] == ["version"]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "beside", [{"label": False}, {"system": "Be bad."}, {"instruction": "Add."}, {"rejected": True}]
)
def test_what_says_something_about_all_examples_of_a_document_is_refused(beside, indent):
    reason = refusal_of(json.dumps(beside | {"data": ROWS}, indent=indent).encode())
    assert "What stands beside the list 'data'" in reason or "data" in reason


def test_one_example_as_a_document():
    assert questions_of(json.dumps(ROWS[0], indent=2).encode()) == ["0+1=?"]


@pytest.mark.parametrize("piece", [1, 2, 7, 1_000])
def test_files_that_come_in_pieces_are_read_whole(piece):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, piece))

    for content in (LINES, ARRAY, packed(LINES), zstandard.compress(ARRAY)):
        source = Source(Slow(content), "", max_unpacked=UnpackedLimit(10**6, ""))
        assert [line for _, line in source.examples()] == ROWS
        assert (source.whole, source.bytes) == (True, len(content))
        assert source.sha256 == hashlib.sha256(content).hexdigest()


def test_items_of_an_array_that_cross_the_pieces_in_which_it_is_read():
    rows = [{"prompt": "é" * length, "completion": "]},"} for length in range(1, 2_000, 3)]
    content = json.dumps(rows, ensure_ascii=False).encode()
    assert [
        line
        for _, line in Source(io.BytesIO(content), "", max_unpacked=UnpackedLimit(0, "")).examples()
    ] == rows


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "The file holds no example."),
        (b"[\n\n]", "The file holds no example."),
        (ARRAY[:-1], "The JSON array is cut off or broken after item 2."),
        (ARRAY[:-2], "Item 2 of the JSON array is not JSON: it is cut off or broken."),
        (b"[{} {}]", "The JSON array is cut off or broken after item 1."),
        (b"[{},]", "Item 2 of the JSON array is not JSON"),
        (b"[{},", "Item 2 of the JSON array is not JSON"),
        (ARRAY + b"[]", "After the JSON array of 2 items comes something else"),
        (ARRAY + b"x", "After the JSON array of 2 items comes something else"),
        (b'[{"a": "\xff"}]', "The JSON array is not valid UTF-8"),
        (b'[{"a": "' + b"x" * (MAX_LINE_BYTES + 70_000), "Item 1 of the JSON array is not JSON"),
        (b"[" * 200_000, "1: is nested too deeply"),
        (b'{\n"a": 1\n', "one JSON document over several lines, which is not JSON"),
        (b'{\n"a": 1\n}\n{\n"a": 2\n}', "one JSON document over several lines, which is not"),
        (b'{\n"a": 1, "a": 2\n}', "which has the key 'a' twice"),
        (b'{\n"a": "' + b"x" * MAX_DOCUMENT_BYTES, "one JSON object of more than 67,108,864 bytes"),
        (packed(LINES)[:-9], "The gzip file is damaged or cut off"),
        (packed(LINES)[:30], "The gzip file is damaged or cut off"),
        (packed(LINES) + b"rest", "The gzip file is damaged or cut off"),
        (zstandard.compress(LINES)[:-5], "The zstd file is damaged or cut off"),
        (zstandard.compress(LINES) + b"rest", "The zstd file is damaged or cut off"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "The zstd file is damaged or cut off"),
    ],
)
def test_containers_that_are_broken(content, reason):
    assert reason in refusal_of(content)


@pytest.mark.parametrize(
    ("items", "problems"),
    [
        (b"[{}, 42, null, []]", ["1: is of no known format", "2: is a number", "3: is null"]),
        (b'[{"a": 1, "a": 2}]', ["1: has the key 'a' twice"]),
        (b'[{"a": NaN}]', ["1: is not JSON: NaN and Infinity"]),
        (b'[{"a": "\\ud800"}]', ["1: holds half a character"]),
    ],
)
def test_items_are_held_to_what_lines_are_held_to(items, problems):
    found = refusal_of(items).splitlines()
    assert all(map(str.startswith, found, problems))


def test_reading_ends_after_many_bad_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.imports.importers.BAD_LINES_MAX", 3)

    def read(content: bytes, **asked: Any) -> Dataset:
        return import_upload(file=io.BytesIO(content), name="many", version="v1", **asked)

    with pytest.raises(BadLines, match="3 lines, and perhaps more, are not valid"):
        read(LINES + b"42\n" * 9)
    with pytest.raises(BadLines, match="2 lines are not valid"):
        read(LINES + b"42\n" * 2)
    good = jsonl(*(trace_body(number) for number in range(20)))
    assert read(good + b"42\n" * 9, skip_bad=0.4).size == 20


@pytest.mark.parametrize("pack", [packed, zstandard.compress], ids=["gzip", "zstd"])
def test_what_unpacks_to_more_than_the_limit_is_refused_in_little_memory(pack, settings):
    settings.TUNIXRT_UNPACKED_MAX_BYTES = 20_000_000
    bomb = pack(b"x" * 200_000_000)
    tracemalloc.start()
    reason = refusal_of(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "unpacks to more than 20,000,000 bytes (TUNIXRT_UNPACKED_MAX_BYTES)" in reason
    assert most < 40_000_000


def test_an_array_is_read_in_little_memory():
    class Endless:
        """The items of an array that never ends within the test."""

        item = b"[" + json.dumps(ROWS[0]).encode()

        def read(self, size):
            piece, self.item = self.item[:size], self.item[size:]
            self.item = self.item or b"," + json.dumps(ROWS[0]).encode()
            return piece

    examples = Source(Endless(), "", max_unpacked=UnpackedLimit(0, "")).examples()
    tracemalloc.start()
    for _ in range(20_000):
        next(examples)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000


# --- Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'prompt,completion\n1+1?,2\n"a\nb","c, d"\n',
        b'\xef\xbb\xbfprompt;completion\r\n1+1?;2\r\n"a\nb";c, d\r\n',
        b'prompt\tcompletion\n1+1?\t2\n"a\nb"\tc, d',
        b'prompt|completion\n1+1?|2\n\n"a\nb"|c, d\n ',
        b',prompt,completion\n0,1+1?,2\n1,"a\nb","c, d"\n',
        b',prompt,completion\n7,1+1?,2\n8,"a\nb","c, d"\n',
        b'"prompt","completion","tools"\n1+1?,2,\n"a\nb","c, d",\n',
        packed(b'prompt,completion\n1+1?,2\n"a\nb","c, d"\n'),
    ],
)
def test_tables(content):
    assert [
        {name: message["content"] for name, message in zip(row, line["messages"], strict=True)}
        for row, line in zip(PAIR_OF_ROWS, imported(content), strict=True)
    ] == PAIR_OF_ROWS


def test_a_table_of_one_column_is_told_by_its_name():
    assert imported(b"text\nhello\nworld\n", "a.CSV", kind="text")[1]["messages"] == [
        {"role": "assistant", "content": "world"}
    ]


def test_a_table_of_one_column_without_such_a_name_is_no_table():
    assert refusal_of(b"text\nhello\nworld\n").startswith("1: is not JSON: ")


def test_columns_without_a_name_are_kept_but_the_numbers_of_rows():
    import_upload(
        file=io.BytesIO(b",prompt,completion,\n0,a,b,False\nx,c,d,wrong\n"),
        name="sums",
        version="v1",
        by=None,
    )
    assert [trace.meta for trace in Trace.objects.order_by("prompt")] == [
        {"column 4": "False"},
        {"column 1": "x", "column 4": "wrong"},
    ]


def test_cells_that_hold_chats():
    messages = json.dumps([{"role": "user", "content": "1+1?"}]).replace('"', '""')
    content = f'prompt,chosen,rejected\n"{messages}",2,"[1, 2]"\n'.encode()
    (line,) = imported(content)
    assert line["prompt"] == [{"role": "user", "content": "1+1?"}]
    assert line["rejected"][0]["content"] == "[1, 2]"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"prompt,completion\nx\n", "2: has 1 columns where the header has 2"),
        (b'prompt,completion\n"x\ny",z\na,b,c\n', "4: has 3 columns where the header has 2"),
        (b"prompt,completion\nx,\n", "2: completion: must be text, not null"),
        (b"a,b\nx,y\n", "2: is of no known format: its keys are a, b; a mapping says which"),
        (b"prompt,prompt\nx,y\n", "The table has the column 'prompt' twice."),
        (b'prompt,completion\n"x,y\n', "The table cannot be read from line 2 on"),
        (b'prompt,completion\n"x" z,y\n', "The table cannot be read from line 2 on"),
        (b"prompt,completion\nx,\xff\n", "The table is not valid UTF-8 near line 2"),
        (b'prompt,completion\n"' + b"x" * (MAX_LINE_BYTES + 1), "The table cannot be read from"),
        (",".join(f"c{n}" for n in range(MAX_COLUMNS + 1)).encode(), "has more than 1,000 columns"),
        (b"prompt,completion\n", "The file holds no example."),
    ],
)
def test_tables_that_are_refused(content, reason):
    assert reason in refusal_of(content)


def test_a_table_of_a_million_columns_is_refused():
    header = b",".join(b"%d" % number for number in range(1_000_000))
    assert refusal_of(header + b"\n", "a.csv") == (
        "The table has more than 1,000 columns, which is the limit."
    )


@pytest.mark.parametrize(
    "first",
    [
        b"{",
        b"[1]",
        b'[{"prompt": "p"}]',
        b"42",
        b"null",
        b'"a, b"',
        b"a, b",
        b"# a, comment",
        b"[1, 2",
        b'{"prompt": "p",',
    ],
)
def test_json_lines_with_a_bad_first_line_are_json_lines(first):
    reasons = refusal_of(first + b"\n" + LINES)
    assert reasons.startswith("1: is ")
    assert "\n" not in reasons


def test_numbers_of_lines_count_what_is_blank():
    assert refusal_of(b"\n \n" + LINES + b"\n\n{\n").startswith("7: is not JSON")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_alone_are_skipped_in_pieces(end: bytes):
    """Twenty million of them took a thread of the server for ten seconds."""
    count = 1_000_000
    content = LINES + end * count + b"{" + end
    source = Source(io.BytesIO(content), "", max_unpacked=UnpackedLimit(0, ""))

    *good, (number, problem) = source.examples()

    assert len(good) == 2
    assert isinstance(problem, LineError)
    assert number == LINES.count(b"\n") + count + 1


@pytest.mark.parametrize("pack", [packed, zstandard.ZstdCompressor().compress])
def test_what_a_request_may_unpack_is_limited(settings: LazySettings, pack: Callable[..., bytes]):
    bomb = pack(LINES + b"\n" * IN_REQUEST_UNPACKED_BYTES)
    reason = refusal_of(bomb)
    assert "unpacks to more than 67,108,864 bytes while a request waits for it." in reason
    assert "mode=async" in reason
    settings.TUNIXRT_UNPACKED_MAX_BYTES = 1000
    assert "1,000 bytes (TUNIXRT_UNPACKED_MAX_BYTES)" in refusal_of(bomb)
