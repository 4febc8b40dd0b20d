"""The kind of a file that is not JSON Lines is named, with what to do."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile

import pytest

from datasets.importers import MAX_LINE_BYTES, BadLines, ImportRefused, _Source, import_file
from datasets.tests.factory import jsonl, nothing_is_stored, trace_body

pytestmark = pytest.mark.django_db
LINES = jsonl(trace_body(0), trace_body(1))
ROWS = [trace_body(0), trace_body(1)]


def refusal_of(content: bytes, file_name: str = "") -> str:
    with pytest.raises(ImportRefused) as caught:
        import_file(
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
        (gzip.compress(LINES), "gzip", "`gunzip`"),
        (bz2.compress(LINES), "bzip2", "`bunzip2`"),
        (lzma.compress(LINES), "xz", "`unxz`"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "Zstandard (zstd)", "`zstd -d`"),
        (b"\x04\x22\x4d\x18\x64", "LZ4", "`lz4 -d`"),
        (zipped("lines.jsonl"), "zip", "give one file of it"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "convert it"),
        (zipped("xl/workbook.xml"), "an Excel workbook", "convert it"),
        (tarred(), "tar", "give one file of it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old Excel workbook", "convert it"),
        (b"PAR1\x15\x04\x15\n\x00", "Parquet", "convert it"),
        (b"PARE\x15\x04\x15\n\x00", "encrypted Parquet", "convert it"),
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
        (json.dumps(ROWS).encode(), "a JSON array", "`jq -c '.[]'`"),
        (json.dumps(ROWS, indent=2).encode(), "a JSON array", "`jq -c '.[]'`"),
        (b"[\n" + LINES.replace(b"}\n", b"},\n") + b"]\n", "a JSON array", "`jq -c '.[]'`"),
        (b"\xef\xbb\xbf\n [ {\n}]", "a JSON array", "`jq -c '.[]'`"),
        (json.dumps(ROWS * (MAX_LINE_BYTES // 100)).encode(), "a JSON array", "`jq -c '.[]'`"),
        (b"[]", "a JSON array", "one JSON object a line"),
        (
            json.dumps(ROWS[0], indent=2).encode(),
            "one JSON document over several lines", "`jq -c .`",
        ),
        (
            json.dumps({"data": ROWS}, indent=4).encode(),
            "one JSON document over several lines", "`jq -c .`",
        ),
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


@pytest.mark.parametrize("lines", [b"\n\n\n", b"\n" * 300, b"a\n" * 200])
def test_short_lines_at_the_start_are_read_whole(lines):
    """What is read ahead to tell the kind of the file is not lost, and lines keep their numbers."""
    source = _Source(io.BytesIO(lines + LINES), "lines.jsonl")

    read = list(source.lines())

    numbered = enumerate((lines + LINES).split(b"\n"), 1)
    assert read == [(number, line) for number, line in numbered if line]
    assert source.bytes == len(lines + LINES)
    assert source.sha256 == hashlib.sha256(lines + LINES).hexdigest()


def test_a_database_file_is_named(tmp_path):
    assert refusal_of(sqlite(tmp_path)).startswith("The file is an SQLite database.")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b'prompt,completion\n"2+2?",4\n', "prompt, completion"),
        (b"\xef\xbb\xbfprompt;completion\r\n\"a\nb\";c\r\n", "prompt, completion"),
        (b"prompt\tcompletion\nx\ty\n", "prompt, completion"),
        (b"prompt|completion\nx|y\n", "prompt, completion"),
        (b'"prompt","a,b"\nx,y\n', "prompt, a,b"),
        (b",prompt,completion\n0,x,y\n", "prompt, completion"),
        (",".join("abcdefg").encode(), "a, b, c, d, e …"),
        (",".join(["x" * 100] * 1_000).encode(), "x" * 40),
    ],
)  # fmt: skip
def test_a_table_is_named_with_its_columns(content, columns):
    assert refusal_of(content).startswith(f"The file looks like CSV with the columns {columns}")


def test_a_table_of_one_column_is_told_by_its_name():
    assert refusal_of(b"text\nhello\nworld\n", "a.CSV").startswith(
        "The file looks like CSV with the columns text."
    )
    assert refusal_of(b"text\nhello\nworld\n").startswith("1: is not JSON: ")


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
