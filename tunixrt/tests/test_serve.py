"""`make serve` in a terminal of its own: Ctrl-C stops it, and so does the end of the terminal."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from runs.runfolder.processes import Process, processes_with, send_signal
from runs.tests.launching import PATIENCE, wait_for
from runs.tests.ports import HeldPort
from runs.tests.programs import MARK
from tunixrt.tests.plugin import ROOT


class Terminal:
    """A terminal and the session in it, whose first program is a shell that runs `make serve`, or
    `make serve` itself."""

    def __init__(self, folder: Path, port: HeldPort, *, in_shell: bool):
        self.mark = str(uuid.uuid4())
        self.screen, inside = pty.openpty()
        self.said = ""
        # the environment is there: the tests run in it
        self.url = port.url
        make = ["make", "--old-file=environment", "serve", f"FULL={shlex.quote(sys.executable)}"]
        # tests that nohup started, or a script in the background, would hand on that they ignore
        # the end of a terminal
        afresh = ["env", "--default-signal=HUP,INT,QUIT"]
        self.process = subprocess.Popen(
            [
                "setsid",
                "--ctty",
                *afresh,
                *(["bash", "-ic", '"$@"; true', "bash"] if in_shell else []),
                *make,
            ],
            cwd=ROOT,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={
                **os.environ,
                MARK: self.mark,
                "DATABASE_URL": "",
                "TUNIXRT_VAR_DIR": str(folder),
                "TUNIX_OUTPUT_ROOT": str(folder / "output"),
                "TUNIXRT_BIND": port.address,
            },
        )
        os.close(inside)

    def come_up(self) -> None:
        """Until both programs are at work: a server that is told to stop while it starts takes
        longer for it."""
        self.read_until("tunixrt is at http://127.", "attending ")
        wait_for(self.answers, "the server")

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False, timeout=PATIENCE).is_success
        except httpx.TransportError:
            return False

    def read_until(self, *words: str) -> None:
        while not all(word in self.said for word in words):
            try:
                self.said += os.read(self.screen, 65536).decode(errors="replace")
            except OSError:  # EIO: nothing has it open any more
                raise AssertionError(f"it ended: {self.said}") from None

    def press(self, key: str) -> None:
        os.write(self.screen, key.encode())

    def close(self) -> None:
        os.close(self.screen)
        self.screen = -1

    def wait(self) -> None:
        """Until nothing is left that was started in it."""
        try:
            wait_for(
                lambda: not processes_with(MARK, self.mark),
                "the end of all that was started in the terminal",
            )
        except AssertionError as error:
            raise AssertionError(
                f"{error}; left: {[told(process) for process in processes_with(MARK, self.mark)]}"
            ) from None
        self.process.wait()


def told(process: Process) -> str:
    """Return what a process is and what it does, for the message of a test that waits for its
    end."""
    place = Path(f"/proc/{process.pid}")
    try:
        command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        state = [
            line
            for line in (place / "status").read_text().splitlines()
            if line.startswith(("State", "Sig", "Shd"))
        ]
        threads = [(task / "wchan").read_text() for task in (place / "task").iterdir()]
    except OSError as error:
        return f"{process.pid}: {error}"
    return f"{process.pid}, child of {process.parent}: {command} {state} {threads}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture
def terminal(folder: Path, port: HeldPort, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(folder, port, in_shell=request.param == "shell")
    yield opened
    while left := processes_with(MARK, opened.mark):
        for process in left:
            send_signal(process, signal.SIGKILL)
    if opened.screen >= 0:
        opened.close()
    with suppress(ChildProcessError):
        opened.process.wait()


@pytest.mark.parametrize("terminal", ["shell", "command"], indirect=True)
def test_it_stops_with_its_terminal(terminal: Terminal):
    """Its programs lived on and held the port."""
    terminal.come_up()

    terminal.close()

    terminal.wait()


@pytest.mark.parametrize("terminal", ["command"], indirect=True)
def test_it_stops_on_ctrl_c(terminal: Terminal):
    terminal.come_up()

    terminal.press("\x03")

    with suppress(AssertionError):
        # to its end: a terminal holds only so much that nobody reads
        terminal.read_until("nothing says this")
    terminal.wait()
