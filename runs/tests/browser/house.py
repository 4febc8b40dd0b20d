"""A house of its own: web server and attendant as `make serve` starts them, with a database and
folders that nobody else uses.

Django is not asked here: what is in the house comes by its pages and its API, from this machine and
so in local mode.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from runs.runfolder import names
from runs.tests.launching import HOUR, PATIENCE, TRAINER, wait_for
from runs.tests.ports import HeldPort
from runs.tests.programs import ROOT, Program, end_keeper

STOP_SECONDS = 20.0
ENDED = ("completed", "failed", "timeout", "cancelled")


class House:
    """Up once made; ``close`` ends every process. Keywords are environment variables."""

    def __init__(self, folder: Path, *, database_url: str = "", **environment: str):
        """``folder`` holds everything; ``database_url`` names the database, by default SQLite in
        the folder."""
        self.output_root = folder / "output"
        self.scripts = folder / "scripts"
        self.models = folder / "models"
        self.data = folder / "data"
        for path in (self.output_root, self.scripts, self.models, self.data):
            path.mkdir(exist_ok=True)
        self.port = HeldPort()
        self.url = self.port.url
        self.environment = {
            "TUNIXRT_VAR_DIR": str(folder / "var"),
            "TUNIX_OUTPUT_ROOT": str(self.output_root),
            "TUNIX_MODEL_ROOTS": str(self.models),
            "TUNIX_DATA_ROOTS": str(self.data),
            "TUNIXRT_BIND": self.port.address,
            "DATABASE_URL": database_url,
            "TUNIX_SYNC_TIMEOUT_SECONDS": str(HOUR),
            "TUNIX_COMMAND": shlex.join(
                [sys.executable, "-I", "-S", str(TRAINER), str(self.scripts)]
            ),
            **environment,
        }
        self._seeds = count(1)
        self._programs: list[Program] = []
        self.manage("migrate", "--verbosity", "0")
        for line in (ROOT / "Procfile").read_text().splitlines():
            name, _, command = line.partition(":")
            words = shlex.split(command)
            # without the interpreter, and the shell's part
            arguments = words[words.index("manage.py") :][:2]
            self._programs.append(Program(arguments, folder / f"{name}.log", **self.environment))
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        try:
            wait_for(self.answers, "the server")
        except BaseException:
            self.close()
            raise

    def whole_environment(self) -> dict[str, str]:
        """What a program of the house is started with."""
        return os.environ | self.environment

    def manage(self, *arguments: str, **environment: str) -> str:
        """Run a management command; what it printed."""
        command = [sys.executable, "manage.py", *arguments]
        environ = self.whole_environment() | environment
        return subprocess.run(
            command, cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def answers(self) -> bool:
        for program in self._programs:
            assert program.process.poll() is None, program.said()
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.client.close()
        for program in self._programs:
            program.process.terminate()
        for program in self._programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(STOP_SECONDS)
            program.kill()
        self.port.close()
        for record in self.output_root.rglob(names.KEEPER):
            end_keeper(record.parent)

    # --- what is in it

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON of the API's answer, which must be a good one."""
        response = self.client.request(method, path, **options)
        assert response.is_success, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def add_dataset(self, name: str, *, size: int = 3, version: str = "v1") -> str:
        """Upload made-up additions; the dataset's key."""
        lines = (
            json.dumps({"prompt": f"{number} + 1 = ?", "completion": str(number + 1)}) + "\n"
            for number in range(size)
        )
        file = {"file": (f"{name}.jsonl", "".join(lines))}
        key = self.ask(
            "POST", "/api/datasets/ingest", files=file, data={"name": name, "version": version}
        )["dataset_key"]
        return str(key)

    def keep_draft(self, name: str) -> str:
        """Upload a table of which no format is known, on the page; the import's id."""
        self.client.get("/datasets/new")
        answer = self.client.post(
            "/datasets/new",
            files={"file": (f"{name}.csv", "frage,antwort\n1 + 1?,2\n2 + 1?,3\n")},
            data={
                "name": name,
                "version": "v1",
                "csrfmiddlewaretoken": self.client.cookies["csrftoken"],
            },
        )
        assert answer.status_code == 302, f"{answer.status_code}: {answer.text}"
        return answer.headers["Location"].split("/")[3]

    def import_later(self, name: str, lines: str, **query: str) -> str:
        """Have a file imported by a process of its own; the import's id."""
        asked = {"name": name, "version": "v1", "mode": "async"} | query
        answer = self.ask(
            "POST",
            "/api/datasets/ingest",
            params=asked,
            content=lines,
            headers={"Content-Type": "application/jsonl"},
        )
        return str(answer["id"])

    def script(self, *actions: list[Any]) -> int:
        """What the training of a run with the returned seed does (scripted_trainer.py)."""
        seed = next(self._seeds)
        (self.scripts / f"{seed}.json").write_text(json.dumps(actions))
        return seed

    def submit(self, dataset_key: str, *actions: list[Any], **fields: Any) -> str:
        """Put a local run into the queue, whose training does so; the run's id."""
        body = {
            "dataset_key": dataset_key,
            "model_id": "preset:tiny-llama",
            "dry_run": False,
            "seed": self.script(*actions),
        }
        return str(
            self.ask("POST", "/api/tunix/run", params={"mode": "async"}, json=body | fields)[
                "run_id"
            ]
        )

    def run_dry(self, dataset_key: str, **fields: Any) -> str:
        """Do a dry run; the run's id."""
        body = {"dataset_key": dataset_key, "model_id": "preset:tiny-llama"} | fields
        return str(self.ask("POST", "/api/tunix/run", json=body)["run_id"])

    def status(self, run_id: str) -> str:
        return str(self.ask("GET", f"/api/tunix/runs/{run_id}/status")["status"])

    def wait(self, run_id: str, *statuses: str, patience: float = PATIENCE) -> str:
        """Until the run is in one of ``statuses``, by default at its end; ``patience`` in
        seconds."""
        until = time.monotonic() + patience
        while (status := self.status(run_id)) not in (statuses or ENDED):
            assert time.monotonic() < until, f"{run_id} is still {status}"
            time.sleep(0.02)
        return status

    def tell(self, run_id: str, name: str) -> None:
        """Let a training that waits for the file ``name``, now or as soon as it runs, go on."""
        folder = self.output_root / run_id
        wait_for(folder.is_dir, f"the folder of {run_id}")
        (folder / name).touch()
