"""Parquet files become the same examples as lines of JSON; what cannot be read is said."""

import base64
import datetime
import decimal
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile

from datasets.files import parquet, parquet_program
from datasets.files.reading import ImportRefused
from datasets.imports.importers import BadLines
from datasets.imports.mapping import first_rows
from datasets.models import Dataset
from datasets.services.exports import export_lines
from datasets.tests.factory import import_upload, jsonl, make_dataset, nothing_is_stored
from tunixrt.tests.plugin import ROOT

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
encryption = pytest.importorskip("pyarrow.parquet.encryption")

pytestmark = pytest.mark.django_db
QUESTIONS = {"prompt": ["1+1?", "2+2?"], "completion": ["2", "4"]}


def written(columns: Any, **options: Any) -> bytes:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def store(content: bytes, **asked: Any) -> Dataset:
    return import_upload(file=io.BytesIO(content), **({"name": "a", "version": "v1"} | asked))


def rows(content: bytes, tmp_path: Path) -> list[Any]:
    """What the program says of each row."""
    path = tmp_path / "file.parquet"
    path.write_bytes(content)
    with path.open("rb") as file, parquet.reading(file.fileno()) as lines:
        return [json.loads(line) for line in lines]


def refusal_of(content: bytes) -> str:
    with pytest.raises(ImportRefused) as error:
        store(content)
    assert nothing_is_stored()
    return str(error.value)


def test_rows_are_what_lines_are():
    lines = [
        dict(zip(QUESTIONS, row, strict=True)) for row in zip(*QUESTIONS.values(), strict=True)
    ]
    dataset = store(written(QUESTIONS))
    assert dataset.fingerprint == store(jsonl(*lines), name="b").fingerprint
    assert dataset.provenance["bytes"] == len(written(QUESTIONS))
    assert "sha256" in dataset.provenance


TOOLS = [
    {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
    {"name": "greet", "parameters": {"type": "object", "properties": {"who": {"type": "string"}}}},
]


def test_a_tool_does_not_get_the_keys_of_other_rows():
    """ms-swift#6467"""
    chats = [
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yes"},
            ],
            "tools": [tool],
        }
        for tool in TOOLS
    ]
    dataset = store(written(pa.Table.from_pylist(chats)))
    assert dataset.fingerprint == store(jsonl(*chats), name="b").fingerprint


def test_nested_columns_become_json(tmp_path: Path):
    content = written(
        {
            "struct": pa.array([{"a": 1, "b": None}, {"a": None, "b": [{"c": "x"}, None]}, None]),
            "map": pa.array([[("k", 1.5)], [], None], pa.map_(pa.string(), pa.float64())),
            "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
            "large": pa.array(["x", None, ""], pa.large_string()),
            "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
            "nothing": pa.nulls(3),
            "json": pa.ExtensionArray.from_storage(
                pa.json_(pa.string()), pa.array(['{"z": null, "a": 1}', None, "3"])
            ),
        }
    )
    assert rows(content, tmp_path) == [
        {
            "struct": {"a": 1}, "map": {"k": 1.5}, "dictionary": "x", "large": "x",
            "fixed": [1, 2], "nothing": None, "json": {"z": None, "a": 1},
        },
        {
            "struct": {"b": [{"c": "x"}, None]}, "map": {}, "dictionary": None, "large": None,
            "fixed": None, "nothing": None, "json": None,
        },
        {
            "struct": None, "map": None, "dictionary": "x", "large": "", "fixed": [3, 4],
            "nothing": None, "json": 3,
        },
    ]  # fmt: skip


def test_values_that_json_does_not_have_are_bad_lines():
    repeated = pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    for column, said in (
        ([1.0, float("nan")], "topic: is NaN or infinite, which JSON does not have"),
        (repeated, "topic: has the key 'k' twice"),
        (not_utf8, "topic: is not valid UTF-8"),
    ):
        with pytest.raises(BadLines) as error:
            store(written(QUESTIONS | {"topic": column}))
        (problem,) = error.value.problems
        assert (problem.line, problem.reason) == (2, said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)],
            "is timestamp[us, tz=UTC], which JSON does not have: write it as",
        ),
        ([decimal.Decimal("1.5")], "is decimal128(2, 1), which JSON does not have"),
        ([b"x"], "is binary, not text: decode it as UTF-8 text, or leave it out"),
        ([{"bytes": b"x", "path": "x.png"}], "holds images or audio, which cannot be learnt"),
        ([[{"when": [datetime.date(2026, 1, 1)]}]], "is date32[day], which JSON does not have"),
        (pa.array([[(1, "x")]], pa.map_(pa.int8(), pa.string())), "has keys of type int8"),
    ],
)
def test_columns_that_cannot_be_read_are_named(values: Any, said: str):
    content = written({"prompt": ["1"], "completion": ["2"], "column x": values})
    assert refusal_of(content).startswith(f"The column 'column x' of the Parquet file {said}")


def test_a_file_that_is_cut_off_or_damaged():
    content = written(QUESTIONS)
    assert "is cut off" in refusal_of(content[:-1])
    assert "is cut off" in refusal_of(b"PAR1")
    assert "is damaged" in refusal_of(content[:-8] + b"\xff\xff\xff\x7fPAR1")
    assert "cannot be read" in refusal_of(b"PAR1" + content[40:])
    assert "cannot be read" in refusal_of(content[:4] + bytes(len(content) - 12) + content[-8:])


class Keys(encryption.KmsClient):  # type: ignore[name-defined]
    """Encrypts keys by writing them down."""

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, master: str) -> bytes:
        return base64.b64decode(wrapped)


@pytest.mark.parametrize("plain_footer", [True, False])
def test_an_encrypted_file(plain_footer: bool):
    properties = encryption.CryptoFactory(lambda config: Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            footer_key="footer",
            column_keys={"columns": list(QUESTIONS)},
            plaintext_footer=plain_footer,
        ),
    )
    said = refusal_of(written(QUESTIONS, encryption_properties=properties))
    assert "encrypted" in said


def test_too_many_columns():
    assert "has 1,001 columns; the limit is 1,000" in refusal_of(
        written({f"c{number}": [1] for number in range(1_001)})
    )
    with pytest.raises(parquet_program.Refused, match="has 20,001 columns"):
        parquet_program.check_schema(pa.schema([("prompt", pa.string())]), 20_001)
    again = pa.Table.from_arrays([pa.array(["1"])] * 2, names=["prompt", "prompt"])
    assert "has the column 'prompt' twice" in refusal_of(written(again))


def test_a_description_of_a_million_columns_is_not_even_read(tmp_path: Path):
    footer = parquet_program.MAX_FOOTER_BYTES + 1
    path = tmp_path / "wide.parquet"
    with path.open("wb") as file:
        file.write(b"PAR1")
        file.truncate(4 + footer)
        file.seek(0, os.SEEK_END)
        file.write(footer.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(parquet.ParquetError, match="too many columns"):
        rows(path.read_bytes(), tmp_path)


def test_a_file_that_unpacks_to_much_more_than_it_is(settings: LazySettings):
    settings.TUNIXRT_UNPACKED_MAX_BYTES = 20_000_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 100_000])
    content = written({"prompt": text, "completion": text})
    assert len(content) < 1_000_000
    assert "unpacks to more than 20,000,000 bytes (TUNIXRT_UNPACKED_MAX_BYTES)" in refusal_of(
        content
    )


def test_what_takes_too_much_memory_ends_the_program_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "MEMORY_BYTES", 600 * 2**20)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), ["x" * 20_000_000])
    said = refusal_of(written({"prompt": text, "completion": text}))
    assert "too much memory" in said


def test_a_row_that_is_too_long_is_a_bad_line():
    with pytest.raises(BadLines) as error:
        store(written({"prompt": ["1", "x" * 5_000_000], "completion": ["2", "2"]}))
    assert error.value.problems[0].reason == "is longer than 4,194,304 bytes"


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_any_number_of_rows_of_a_large_file_is_taken(rows: int):
    numbers = [str(number) for number in range(300)]
    content = written({"prompt": numbers, "completion": numbers}, row_group_size=7)
    dataset = store(content, limit=rows or None)
    assert dataset.size == (rows or 300)
    assert [
        json.loads(line)["messages"][0]["content"] for line in export_lines(dataset)
    ] == numbers[: rows or 300]


def test_a_table_without_rows():
    assert (
        refusal_of(written({"prompt": pa.array([], pa.string())})) == "The file holds no example."
    )


def test_mapping_and_parts_as_of_other_files():
    content = written({"frage": ["1", "2"], "antwort": ["a", "b"], "split": ["train", "held_out"]})
    dataset = store(content, mapping={"prompt": "frage", "completion": "antwort"})
    assert dataset.held_out_size == 1


@pytest.mark.parametrize("kind", [SimpleUploadedFile, TemporaryUploadedFile])
def test_uploads_in_memory_and_on_disk(kind: Any):
    content = written(QUESTIONS)
    if kind is SimpleUploadedFile:
        file = kind("a.parquet", content)
    else:
        file = kind("a.parquet", "", len(content), "")
        file.write(content)
        file.seek(0)
    assert len(first_rows(file, "").found) == 2
    file.seek(0)
    assert file.read() == content  # another process has not moved its place
    file.seek(0)
    dataset = import_upload(file=file, name="a", version="v1")
    assert (dataset.size, dataset.provenance["bytes"]) == (2, len(content))


def test_the_body_of_a_request(api):
    answer = api.generic(
        "POST",
        "/api/datasets/ingest?name=a&version=v1",
        written(QUESTIONS),
        content_type="application/vnd.apache.parquet",
    )
    assert (answer.status_code, answer.json()["size"]) == (201, 2)


def test_within_gzip_it_is_refused():
    import gzip  # noqa: PLC0415 - only here

    assert "Parquet within another packing" in refusal_of(gzip.compress(written(QUESTIONS)))


def test_without_the_package_the_answer_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
    assert parquet.INSTALL in refusal_of(written(QUESTIONS))
    assert "\nparquet = [\n" in (ROOT / "pyproject.toml").read_text()


class TestWriting:
    def test_nothing_is_left_when_the_reader_goes(self):
        lines = iter(list(export_lines(make_dataset(5), in_full=True)) * 100_000)
        pieces = parquet.write(lines, "trace")
        assert next(pieces)[:4] == b"PAR1"
        pieces.close()
        assert next(lines)  # it has not read all of them

    def test_a_program_that_fails_leaves_no_file_that_looks_complete(self):
        pieces: list[bytes] = []
        with pytest.raises(parquet.ParquetError, match="ended without an answer"):
            pieces.extend(parquet.write(iter([b"not JSON\n"]), "trace"))
        assert not b"".join(pieces).endswith(b"PAR1")

    def test_an_empty_dataset(self):
        content = b"".join(parquet.write(iter([]), "prompt"))
        assert pq.read_table(io.BytesIO(content)).num_rows == 0
