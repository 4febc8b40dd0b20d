"""``make serve`` as its user starts it, on a port, in a folder and on a database of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import without_our_settings
from runs.runfolder.processes import processes_with, send_signal
from runs.tests.ports import HeldPort
from tunixrt.tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
MARK = "TUNIXRT_BENCHMARK"  # in the environment of all that is started here
START_SECONDS = 300.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """``mark`` is the value of ``MARK`` in the environment of its processes."""

    port: int
    mark: str
    environment: dict[str, str]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def serving(
    folder: Path, database: str, *, checkout: Path = ROOT, settings: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run ``make serve`` of ``checkout`` with its data and its log in ``folder``, from its first
    answer on; then stop it as Ctrl-C does. Raise TimeoutError if it does not answer."""
    with contextlib.ExitStack() as stack:
        held = HeldPort()
        stack.callback(held.close)
        mark = uuid.uuid4().hex
        environment = without_our_settings()
        environment |= {
            MARK: mark,
            "TUNIXRT_ENV_FILE": "/dev/null",
            "TUNIXRT_VAR_DIR": str(folder / "var"),
            "TUNIXRT_BIND": f"127.0.0.1:{held.number}",
        }
        environment |= settings or {}
        if database == "postgresql":
            data = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="tunixrt-benchmark-postgres-")
                )
            )
            data.chmod(0o755)
            server = PostgresServer(data, durable=True)
            stack.callback(server.remove)
            server.create()
            server.start()
            environment["DATABASE_URL"] = server.url()
        served = Served(held.number, mark, environment, folder / "log")
        with served.log.open("wb") as output:
            process = subprocess.Popen(
                # -o: the environment is there; an older checkout may ask for another
                [
                    "make",
                    "-o",
                    "environment",
                    "serve",
                ],
                cwd=checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            give_up = time.monotonic() + START_SECONDS
            while not _answers(served.port):
                if time.monotonic() > give_up or process.poll() is not None:
                    raise TimeoutError(f"make serve does not answer:\n{served.said()[-3000:]}")
                time.sleep(0.2)
            yield served
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _end(mark)
            process.wait()


def send(
    port: int,
    method: str,
    path: str,
    data: bytes | None = None,
    *,
    headers: Mapping[str, str],
    seconds: float = 60.0,
) -> bytes:
    """Return the body of the answer. Raise RuntimeError for a status of 400 and more, OSError,
    HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, data, dict(headers))
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path} was answered {response.status}: {answer[:500]!r}")
    return answer


def _answers(port: int) -> bool:
    try:
        send(port, "GET", "/healthz", headers={})
    except (OSError, http.client.HTTPException, RuntimeError):
        return False
    return True


def _end(mark: str) -> None:
    give_up = time.monotonic() + STOP_SECONDS
    while (left := processes_with(MARK, mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    for process in left:
        command = (
            Path(f"/proc/{process.pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
        )
        print(f"process {process.pid} had to be killed: {command}", file=sys.stderr)
        send_signal(process, signal.SIGKILL)
