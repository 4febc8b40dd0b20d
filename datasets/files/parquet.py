"""Parquet, read and written by a program of its own (datasets/files/parquet_program.py): no other
process loads pyarrow, which is an extra, and a file that needs too much memory ends that program
alone."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

INSTALL = "pip install -e '.[parquet]'"
MAGIC = b"PAR1"
MEMORY_BYTES = 2 * 1024**3  # of addresses; the program itself takes some 300 MB of them
_PROGRAM = Path(__file__).with_name("parquet_program.py")
_REFUSED = 3
# Pools and threads would take addresses by the number of cores.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
_PIECE = 256 * 1024
_FED_BYTES = 1024 * 1024  # lines that are handed to the writer between two looks at its file


class ParquetError(ValueError):
    """Why a file cannot be read or written, in a sentence."""


def is_installed() -> bool:
    return importlib.util.find_spec("pyarrow") is not None


def _start(arguments: list[str], *, pass_fd: int, **options: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), *arguments],
        pass_fds=(pass_fd,),
        env=os.environ | _ENVIRONMENT,
        **options,  # type: ignore[call-overload]
    )


@contextmanager
def reading(descriptor: int) -> Iterator[BinaryIO]:
    """Yield the rows of a Parquet file as lines: an object each, or text that says why there is
    none. Raise ParquetError, also at the end of the lines."""
    if not is_installed():
        raise ParquetError(
            f"The file is Parquet, for which a package is not installed here: {INSTALL}"
        )
    with tempfile.TemporaryFile() as said:
        process = _start(
            ["read", str(descriptor), str(MEMORY_BYTES)],
            pass_fd=descriptor,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said.fileno(),
        )
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                yield cast(BinaryIO, lines)
                if not lines.read(1):  # all of them were read
                    _check(process, said)
        finally:
            process.kill()
            process.wait()


def _check(process: "subprocess.Popen[bytes]", said: BinaryIO) -> None:
    """Raise ParquetError unless the program has ended well."""
    if process.wait() == 0:
        return
    said.seek(0)
    words = said.read(10_000).decode(errors="replace").strip()
    if process.returncode == _REFUSED:
        raise ParquetError(words)
    last = words.splitlines()[-1][:200] if words else f"code {process.returncode}"
    raise ParquetError(
        f"The program for Parquet ended without an answer ({last}): the file is damaged, or takes"
        " too much memory to read."
    )


def write(lines: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file with these lines of examples, as they are written. Raise
    ParquetError where it cannot be completed."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as said:
        process = _start(
            ["write", kind, str(file.fileno())],
            pass_fd=file.fileno(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said.fileno(),
        )
        assert process.stdin is not None
        place = 0
        try:
            with process.stdin as fed:
                count = 0
                for line in lines:
                    fed.write(line)
                    count += len(line)
                    if count >= _FED_BYTES:
                        count = 0
                        for piece in _written(file.fileno(), place):
                            place += len(piece)
                            yield piece
            _check(process, said)
            for piece in _written(file.fileno(), place):
                place += len(piece)
                yield piece
        except BrokenPipeError:
            _check(process, said)
            raise
        finally:
            process.kill()
            process.wait()


def _written(descriptor: int, place: int) -> Iterator[bytes]:
    """Yield the content of a file from ``place`` on; its offset belongs to the other process."""
    while piece := os.pread(descriptor, _PIECE, place):
        yield piece
        place += len(piece)
