"""The program that reads and writes Parquet. It runs in a process of its own, with a limit to its
memory: a file can be damaged, or made to unpack to much more than it is.

``read FD MEMORY`` writes a line of JSON for each row: the row as an object, or the reason why it
cannot be read as text. ``write KIND FD`` reads lines of examples and writes a file. What it refuses
is a sentence on stderr, with the exit code REFUSED. Standard library, orjson and pyarrow only.
"""

import math
import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson

REFUSED = 3
MAX_COLUMNS = 1_000
MAX_LEAVES = 20_000  # columns within columns
MAX_FOOTER_BYTES = 64 * 1024 * 1024
ROWS = 64  # that are read at once
BATCH_ROWS, BATCH_BYTES = 1_000, 8 * 1024 * 1024  # that become a row group
# What an example of each kind has, and which of it is JSON.
COLUMNS: dict[str, dict[str, bool]] = {
    "trace": {"prompt": False, "steps": True, "final_answer": False, "meta": True},
    "conversation": {"messages": True, "tools": True, "final_answer": False, "meta": True},
    "preference": {
        **dict.fromkeys(("prompt", "chosen", "rejected", "tools", "scores", "meta"), True)
    },
    "prompt": {"prompt": True, "tools": True, "final_answer": False, "meta": True},
}

Convert = Callable[[Any], Any]


class Refused(Exception):
    """The file as a whole cannot be read, in a sentence."""


class BadValue(ValueError):
    """A value that JSON does not have."""


# --- Reading --------------------------------------------------------------------------------------


def check_frame(file: BinaryIO) -> None:
    """Raise Refused unless a file begins and ends as Parquet does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    file.seek(0)
    if end[-4:] == b"PARE":
        raise Refused("The Parquet file is encrypted. Write it without encryption.")
    if size < 12 or end[-4:] != b"PAR1":
        raise Refused("The Parquet file is cut off: its end is missing. Copy it again.")
    footer = int.from_bytes(end[:4], "little")
    if footer > size - 12:
        raise Refused("The Parquet file is damaged: its description is longer than the file.")
    if footer > MAX_FOOTER_BYTES:
        raise Refused(
            f"The Parquet file has a description of {footer:,} bytes; the limit is"
            f" {MAX_FOOTER_BYTES:,}. It has too many columns or row groups."
        )


def open_parquet(file: BinaryIO) -> Any:
    import pyarrow  # noqa: PLC0415 - after the limit of memory is set
    import pyarrow.parquet  # noqa: PLC0415 - as above

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    return pyarrow.parquet.ParquetFile(
        file, pre_buffer=False, buffer_size=1024 * 1024, arrow_extensions_enabled=True
    )


def check_schema(schema: Any, leaves: int) -> None:
    """Raise Refused for columns that cannot be read."""
    names = list(schema.names)
    if len(names) > MAX_COLUMNS or leaves > MAX_LEAVES:
        raise Refused(
            f"The Parquet file has {max(len(names), leaves):,} columns; the limit is"
            f" {MAX_COLUMNS:,}, and {MAX_LEAVES:,} with those within columns."
        )
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise Refused(f"The Parquet file has the column {repeated[:100]!r} twice.")
    for field in schema:
        if problem := type_problem(field.type):
            raise Refused(f"The column {field.name[:100]!r} of the Parquet file {problem}.")


def type_problem(kind: Any) -> str | None:
    """Return why values of a type cannot be read, as the end of a sentence, or None."""
    from pyarrow import types  # noqa: PLC0415 - as above

    if isinstance(kind, extension_type()):
        return None if kind.extension_name == "arrow.json" else type_problem(kind.storage_type)
    if types.is_dictionary(kind):
        return type_problem(kind.value_type)
    if types.is_map(kind):
        if not is_text(kind.key_type):
            return f"has keys of type {kind.key_type}: write the keys as text"
        return type_problem(kind.item_type)
    if is_list(kind):
        return type_problem(kind.value_type)
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if set(names) >= {"bytes", "path"}:
            return "holds images or audio, which cannot be learnt: leave it out"
        return next((problem for field in kind if (problem := type_problem(field.type))), None)
    if types.is_null(kind) or types.is_boolean(kind) or is_text(kind):
        return None
    if types.is_integer(kind) or types.is_floating(kind):
        return None
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return f"is {kind}, not text: decode it as UTF-8 text, or leave it out"
    return f"is {kind}, which JSON does not have: write it as text, or leave it out"


def extension_type() -> Any:
    import pyarrow  # noqa: PLC0415 - as above

    return pyarrow.BaseExtensionType


def is_text(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415 - as above

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def is_list(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415 - as above

    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def converter(kind: Any) -> Convert | None:
    """Return the function that makes JSON of a Python value of a type; None: nothing needs to be
    done."""
    from pyarrow import types  # noqa: PLC0415 - as above

    if isinstance(kind, extension_type()):
        return from_json if kind.extension_name == "arrow.json" else converter(kind.storage_type)
    if types.is_dictionary(kind):
        return converter(kind.value_type)
    if types.is_floating(kind):
        return finite
    if types.is_map(kind):
        return map_converter(converter(kind.item_type))
    if is_list(kind):
        inner = converter(kind.value_type)
        return None if inner is None else list_converter(inner)
    if types.is_struct(kind):
        return struct_converter({field.name: converter(field.type) for field in kind})
    return None


def from_json(value: Any) -> Any:
    try:
        return orjson.loads(value)
    except ValueError as error:
        raise BadValue("is not JSON, as its type says") from error


def finite(value: Any) -> Any:
    if not math.isfinite(value):
        raise BadValue("is NaN or infinite, which JSON does not have")
    return value


def list_converter(inner: Convert) -> Convert:
    return lambda values: [None if value is None else inner(value) for value in values]


def map_converter(inner: Convert | None) -> Convert:
    def convert(pairs: Any) -> Any:
        found = {}
        for name, value in pairs:
            if name in found:
                raise BadValue(f"has the key {name[:100]!r} twice")
            found[name] = value if inner is None or value is None else inner(value)
        return found

    return convert


def struct_converter(fields: dict[str, Convert | None]) -> Convert:
    """Return the converter of a struct. All rows share its fields: those that a row does not have
    are null in it, and are left out, so that the schema of a tool does not get the keys of all
    other tools."""

    def convert(value: Any) -> Any:
        found = {}
        for name, item in value.items():
            if item is not None:
                inner = fields[name]
                found[name] = item if inner is None else inner(item)
        return found

    return convert


def read_rows(parquet: Any) -> Iterator[Any]:
    """Yield each row as an object, or as text why it cannot be read."""
    schema = parquet.schema_arrow
    converters = [converter(field.type) for field in schema]
    names = list(schema.names)
    for batch in parquet.iter_batches(batch_size=ROWS, use_threads=False):
        columns = [column_values(column) for column in batch.columns]
        for place in range(batch.num_rows):
            row: dict[str, Any] = {}
            for name, values, convert in zip(names, columns, converters, strict=True):
                try:
                    value = values(place)
                    row[name] = value if convert is None or value is None else convert(value)
                except (BadValue, UnicodeDecodeError) as error:
                    said = error if isinstance(error, BadValue) else "is not valid UTF-8"
                    yield f"{name[:100]}: {said}"
                    break
            else:
                yield row


def column_values(column: Any) -> Callable[[int], Any]:
    """Return a function that gives the Python values of a column by place, one at a time where they
    cannot be read at once."""
    try:
        return column.to_pylist().__getitem__
    except UnicodeDecodeError:
        return lambda place: column[place].as_py()


def read(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as file:
        check_frame(file)
        parquet = open_parquet(file)
        check_schema(parquet.schema_arrow, parquet.metadata.num_columns)
        for row in read_rows(parquet):
            try:
                line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:
                line = orjson.dumps("is nested too deeply", option=orjson.OPT_APPEND_NEWLINE)
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


# --- Writing --------------------------------------------------------------------------------------


def write(kind: str, descriptor: int) -> None:
    import pyarrow  # noqa: PLC0415 - as above
    import pyarrow.parquet  # noqa: PLC0415 - as above

    pyarrow.set_cpu_count(1)
    columns = {"kind": False, "split": False} | COLUMNS[kind]
    schema = pyarrow.schema(
        [
            (name, pyarrow.json_(pyarrow.string()) if is_json else pyarrow.string())
            for name, is_json in columns.items()
        ]
    )
    with (
        os.fdopen(descriptor, "wb") as file,
        pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for lines in batches(sys.stdin.buffer):
            examples = [orjson.loads(line) for line in lines]
            arrays = [
                array_of([example.get(name) for example in examples], is_json, schema.field(name))
                for name, is_json in columns.items()
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


def array_of(values: list[Any], is_json: bool, field: Any) -> Any:
    import pyarrow  # noqa: PLC0415 - as above

    if not is_json:
        return pyarrow.array(values, pyarrow.string())
    texts = [None if value is None else orjson.dumps(value).decode() for value in values]
    return pyarrow.ExtensionArray.from_storage(field.type, pyarrow.array(texts, pyarrow.string()))


def batches(lines: BinaryIO) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# --- The program ----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    # Python's own traceback, but for what the file is to blame for
    try:
        match arguments:
            case ["read", descriptor, memory]:
                resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
                return read_or_refuse(int(descriptor))
            case ["write", kind, descriptor]:
                write(kind, int(descriptor))
                return 0
    except BrokenPipeError:
        os._exit(1)  # who reads has gone; nothing is to be flushed
    raise SystemExit("read FD MEMORY or write KIND FD")


def read_or_refuse(descriptor: int) -> int:
    import pyarrow  # noqa: PLC0415 - as above

    try:
        read(descriptor)
        return 0
    except Refused as error:
        said = str(error)
    except (MemoryError, pyarrow.ArrowMemoryError):
        said = "To read the Parquet file takes too much memory: write it with smaller row groups."
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        reason = " ".join(str(error).split())[:200]
        said = f"The Parquet file cannot be read: {reason}. It may be encrypted or damaged."
    sys.stdout.buffer.flush()
    sys.stderr.write(said)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
