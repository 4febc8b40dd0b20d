"""Examples as the model will see them: runs/trainer/look.py, in a process with limits.

Templates and tokenizers are other people's programs and data, and a page must not wait for them, or
fall, whatever they do. Few such processes exist at a time on a host.
"""

import fcntl
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from runs.services.run_requests import ModelReference, resolve_model
from runs.services.runtime import local_runtime
from runs.spec.model_folder import folder_is_there
from tunixrt.refusals import Busy, InvalidQuery, NoRoom, shorten

logger = logging.getLogger(__name__)

LOOK = Path(__file__).resolve().parents[1] / "trainer" / "look.py"
AT_ONCE = 2  # processes on this host
WAIT_SECONDS = 1.0  # for one of them to end; the thread that waits serves nothing else
CPU_SECONDS, WALL_SECONDS, MEMORY_BYTES = 15, 30, 2 * 1024**3
COUNTING_SECONDS = 8  # of the processor; then lengths are those of the examples counted so far
OUTPUT_BYTES = 32 * 1024**2
TOKENS_MAX, TOKENS_DEFAULT = 5000, 2000  # of one answer
ROWS_MAX = 10_000
# Nothing of the server's own environment, least of all its secrets.
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class CannotLook(InvalidQuery):
    """The model that was named cannot show examples."""

    def __init__(self, detail: str):
        super().__init__({"model_id": [detail]})


class TooManyLooks(Busy):
    retry_after = 5

    def __init__(self) -> None:
        super().__init__(
            "The server renders as many examples as it may at a time. Try again in a moment."
        )


def view_example(
    *,
    model_id: str,
    line: bytes,
    prompt_style: str,
    max_seq_length: int,
    too_long: str,
    row: int = 0,
    start: int = 0,
    count: int = TOKENS_DEFAULT,
) -> dict[str, Any]:
    """Return what ``view_example`` of runs/trainer/data/view.py does.

    Args:
        line: of the example's training format.

    Raises:
        CannotLook: ``model_id`` names no model whose tokenizer is here, or it failed.
        TooManyLooks: try again.
    """
    task = {
        "do": "view",
        "prompt_style": prompt_style,
        "max_length": max_seq_length,
        "too_long": too_long,
        "row": row,
        "start": start,
        "count": count,
    }
    return _look(resolve_tokenizer(model_id), task, [line])


def count_lengths(
    *, model_id: str, lines: Iterable[bytes], prompt_style: str, max_seq_length: int
) -> dict[str, Any]:
    """Return what ``count_lengths`` of runs/trainer/data/view.py counts within COUNTING_SECONDS.
    Raise as ``view_example``."""
    task = {
        "do": "lengths",
        "prompt_style": prompt_style,
        "max_length": max_seq_length,
        "seconds": COUNTING_SECONDS,
    }
    return _look(resolve_tokenizer(model_id), task, lines)


def resolve_tokenizer(model_id: str) -> ModelReference:
    """Return the model whose tokenizer is on this host. Raise CannotLook."""
    try:
        model = resolve_model(model_id)
    except ValueError as error:
        raise CannotLook(str(error)) from error
    if model.kind == "hub":
        raise CannotLook(
            model.problem
            or f"{model_id} is a hub id, and nothing is fetched for a look at examples. Give the"
            " path of a folder inside TUNIX_MODEL_ROOTS that has the tokenizer's files, or a"
            " preset."
        )
    if model.path is not None and not folder_is_there(model.path):
        raise CannotLook(f"There is no model folder {shorten(model_id, 256)}.")
    return model


def _look(model: ModelReference, task: dict[str, Any], lines: Iterable[bytes]) -> dict[str, Any]:
    folder = None if model.path is None else str(model.path)
    with _place() as place, tempfile.TemporaryFile() as given:
        try:
            given.write(json.dumps(task | {"folder": folder}).encode() + b"\n")
            given.writelines(lines)
            given.flush()
        except OSError as error:
            raise NoRoom("There is no room for a copy of the example on this host.") from error
        given.seek(0)
        output, code = _execute(given, place)
    answer = _last_answer(output)
    if answer is None:
        raise CannotLook(f"The tokenizer or chat template of {model.model_id} {_why(code, output)}")
    if "error" in answer:
        if answer["reason"] == "unexpected":
            logger.error("Rendering with %s failed: %s", model.model_id, answer["error"])
        raise CannotLook(
            f"The tokenizer or chat template of {model.model_id} takes more than"
            f" {MEMORY_BYTES // 1024**2:,} MiB of memory."
            if answer["reason"] == "memory"
            else _sentence(answer["error"])
        )
    return answer


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _why(code: int, output: bytes) -> str:
    if len(output) > OUTPUT_BYTES:
        return f"makes more than {OUTPUT_BYTES:,} bytes of one example."
    if code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return (
            f"did not finish within {CPU_SECONDS} seconds of processor time ({WALL_SECONDS} in"
            " all). It may loop for ever."
        )
    if code in (-signal.SIGABRT, -signal.SIGSEGV):
        return f"takes more than {MEMORY_BYTES // 1024**2:,} MiB of memory, or is damaged."
    return f"could not be used: the program that renders it ended with the code {code}."


def _last_answer(output: bytes) -> dict[str, Any] | None:
    """Return the last complete line; none of an output that is too long."""
    lines = [] if len(output) > OUTPUT_BYTES else output.split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else None


@contextmanager
def _place() -> Iterator[int]:
    """Yield one of the places of this host, as a locked descriptor: it is free again when this
    process and the one that renders have ended. Raise TooManyLooks."""
    folder = settings.TUNIXRT_VAR_DIR / "look"
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for number in range(AT_ONCE)
    ]
    try:
        yield _lock_one(files)
    finally:
        for file in files:
            os.close(file)


def _lock_one(files: list[int]) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        for file in files:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return file
        if time.monotonic() >= deadline:
            raise TooManyLooks
        time.sleep(0.05)


def _python() -> str:
    """Return the interpreter that trains, if it is here: it has what every kind of tokenizer
    needs."""
    ours = not settings.TUNIX_COMMAND and local_runtime().available
    return settings.TUNIX_PYTHON if ours else sys.executable


def _execute(given: IO[bytes], place: int) -> tuple[bytes, int]:
    """Return what the process writes, a little more than OUTPUT_BYTES at most, and its code."""
    limits = map(str, (CPU_SECONDS, WALL_SECONDS, MEMORY_BYTES))
    process = subprocess.Popen(
        [_python(), "-I", "-B", str(LOOK), *limits],
        stdin=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
        pass_fds=(place,),
    )
    assert process.stdout is not None
    output = b""
    try:
        with process.stdout as pipe:
            output = _read(pipe.fileno())
        if len(output) <= OUTPUT_BYTES:
            with suppress(subprocess.TimeoutExpired):
                process.wait(WALL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return output, process.returncode


def _read(pipe: int) -> bytes:
    """Read to the end, or until there is too much, or the process should have ended long ago."""
    output = bytearray()
    deadline = time.monotonic() + 2 * WALL_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(output) <= OUTPUT_BYTES and selector.select(deadline - time.monotonic()):
            if not (piece := os.read(pipe, 2**16)):
                break
            output += piece
    return bytes(output)
