"""The system under attack: what ``make serve`` starts, with logins and tokens, in a temporary
folder, on its own database."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.served import MARK, ROOT, serving
from runs.runfolder.processes import processes_with

SCRIPTED_TRAINER = ROOT / "runs" / "tests" / "scripted_trainer.py"
SHORT_SEED, LONG_SEED = 1, 2
SCRIPTS = {
    SHORT_SEED: [["say", "hello"], ["steps", 20, 0.05]],
    LONG_SEED: [["say", "hello"], ["steps", 1_000_000, 0.1]],
}
NAMES = ("honest", "mallory", "trudy", "trent", "tess")
UPLOAD_MAX_BYTES = 32 << 20
_ESTABLISHED = "01"


@dataclass(frozen=True)
class State:
    """What the system holds."""

    pss: int
    descriptors: int  # of the web server's processes
    connections: int  # clients of the web server
    files: tuple[str, ...]  # in its temporary folder
    spooled: int  # bytes of files that have no name any more: bodies on their way


@dataclass
class System:
    port: int
    mark: str
    folder: Path
    environment: dict[str, str]
    tokens: dict[str, str]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def state(self) -> State:
        pids = [process.pid for process in processes_with(MARK, self.mark)]
        web = [pid for pid in pids if b"granian" in _read(f"/proc/{pid}/cmdline")]
        return State(
            pss=sum(_pss(pid) for pid in pids),
            descriptors=sum(_count(f"/proc/{pid}/fd") for pid in web),
            connections=self._connections(),
            files=tuple(sorted(path.name for path in (self.folder / "tmp").iterdir())),
            spooled=sum(_unnamed_bytes(pid) for pid in web),
        )

    def memory_by_process(self) -> dict[str, tuple[int, int]]:
        """Return PSS in bytes by command line, and how much of it is not backed by a file."""
        found = {}
        for process in processes_with(MARK, self.mark):
            command = (
                _read(f"/proc/{process.pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")
            )
            found[f"{process.pid} {command[:60]}"] = (
                _pss(process.pid),
                _pss(process.pid, b"Pss_Anon"),
            )
        return found

    def _connections(self) -> int:
        ours = f"0100007F:{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1] == ours and row[3] == _ESTABLISHED for row in rows)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _count(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return 0


def _unnamed_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{entry}")
                total += found.st_size if stat.S_ISREG(found.st_mode) and not found.st_nlink else 0
    return total


def _pss(pid: int, kind: bytes = b"Pss") -> int:
    match = re.search(
        rb"^" + kind + rb": +(\d+) kB$", _read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE
    )
    return int(match[1]) * 1024 if match else 0


@contextlib.contextmanager
def attacked(database: str, *, real: bool, workers: int) -> Iterator[System]:
    """Start ``make serve`` with the accounts NAMES and this many web workers. ``real``: trainings
    are those of the runtime, else a script's."""
    with tempfile.TemporaryDirectory(prefix="tunixrt-attack-") as name:
        folder = Path(name)
        for part in ("tmp", "scripts"):
            (folder / part).mkdir(mode=0o700)
        for seed, script in SCRIPTS.items():
            (folder / "scripts" / f"{seed}.json").write_text(json.dumps(script))
        settings = {
            "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
            "TMPDIR": str(folder / "tmp"),
            "TUNIXRT_LOCAL_MODE": "false",
            "SECRET_KEY": "attack-" + "k" * 50,
            "ALLOWED_HOSTS": "127.0.0.1",
            "TUNIXRT_UPLOAD_MAX_BYTES": str(UPLOAD_MAX_BYTES),
            "TUNIX_WEBHOOK_ALLOW_PRIVATE": "true",
            "TUNIX_SLOTS": "2",
            "TUNIX_QUEUED_PER_ACCOUNT": "50",
            "TUNIXRT_WEB_WORKERS": str(workers),
        }
        if not real:
            settings["TUNIX_COMMAND"] = shlex.join(
                [sys.executable, "-I", "-S", str(SCRIPTED_TRAINER), str(folder / "scripts")]
            )
        with serving(folder, database, settings=settings) as served:
            made = subprocess.run(
                [sys.executable, "-m", "benchmarks.attack.accounts", *NAMES],
                cwd=ROOT, env=served.environment, check=True, capture_output=True, text=True,
            )  # fmt: skip
            yield System(
                served.port, served.mark, folder, served.environment, json.loads(made.stdout)
            )
