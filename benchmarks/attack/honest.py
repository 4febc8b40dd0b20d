"""An honest user, in a process of its own: asks ``/healthz`` and the list ten times a second
each, and has runs executed."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from benchmarks.attack.system import SHORT_SEED
from benchmarks.served import send

RATE = 10.0  # requests a second of each path
LANES = 20
TIMEOUT_SECONDS = 5.0
RUN_SECONDS = 300.0  # a run that has not ended by then is stuck
PATHS = ("/healthz", "/api/tunix/runs")
DATASET = "honest-v1"


@dataclass(frozen=True)
class Sample:
    """One request: when it was due (monotonic seconds), and how many milliseconds later it was
    answered."""

    path: str
    due: float
    milliseconds: float
    problem: str = ""


@dataclass
class Findings:
    samples: list[Sample] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)  # what became of each: "training: completed"
    problems: list[str] = field(default_factory=list)


class HonestClient:
    """Call ``finish`` to have what was found. ``make_runs`` starts the runs, once."""

    def __init__(self, port: int, token: str):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._begin, self._stop = context.Event(), context.Event()
        self._process = context.Process(
            target=_work, args=(theirs, port, token, self._begin, self._stop), daemon=True
        )
        self._process.start()
        theirs.close()

    def make_runs(self) -> None:
        self._begin.set()

    def finish(self) -> Findings:
        self._stop.set()
        found: Findings = self._pipe.recv()
        self._process.join()
        return found


def ask(port: int, token: str, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON of one answer, on a connection of its own. Raise RuntimeError for any status
    but 2xx."""
    data = None if body is None else json.dumps(body).encode()
    return _send(port, token, method, path, data, "application/json", TIMEOUT_SECONDS)


def upload(port: int, token: str, name: str, version: str, lines: bytes) -> None:
    path = f"/api/datasets/ingest?name={name}&version={version}"
    _send(port, token, "POST", path, lines, "application/x-ndjson", 20 * TIMEOUT_SECONDS)


def _send(
    port: int, token: str, method: str, path: str, data: bytes | None, kind: str, seconds: float
) -> Any:
    headers = {"Authorization": f"Token {token}", "Content-Type": kind}
    return json.loads(send(port, method, path, data, headers=headers, seconds=seconds))


def make_dataset(port: int, token: str, key: str) -> None:
    name, version = key.rsplit("-", 1)
    lines = "\n".join(
        json.dumps({"prompt": f"{number} + 1 =", "completion": str(number + 1)})
        for number in range(50)
    )
    upload(port, token, name, version, lines.encode())


def _work(pipe: Pipe, port: int, token: str, begin: Any, stop: Any) -> None:
    found = Findings()
    began = time.monotonic()
    threads = [
        threading.Thread(target=_sample, args=(found, port, token, path, began, lane, stop))
        for path in PATHS
        for lane in range(LANES)
    ]
    runs = threading.Thread(target=_make_runs, args=(found, port, token, begin, stop))
    for thread in (*threads, runs):
        thread.start()
    for thread in (*threads, runs):
        thread.join()
    pipe.send(found)


def _sample(
    found: Findings, port: int, token: str, path: str, began: float, lane: int, stop: Any
) -> None:
    """Ask on one of LANES connections, so that a request goes out when it is due although others
    wait for their answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    number = lane
    while not stop.is_set():
        due = began + number / RATE
        number += LANES
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        problem = ""
        try:
            connection.request("GET", path, headers={"Authorization": f"Token {token}"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                problem = f"answered {response.status}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            connection.close()
        milliseconds = 1000 * (time.monotonic() - due)
        if not problem and milliseconds > 1000 * TIMEOUT_SECONDS:
            problem = f"answered after {milliseconds:,.0f} ms"
        found.samples.append(Sample(path, due, milliseconds, problem))
    connection.close()


def _make_runs(found: Findings, port: int, token: str, begin: Any, stop: Any) -> None:
    while not begin.wait(0.1):
        if stop.is_set():
            return
    body = {
        "dataset_key": DATASET,
        "model_id": "preset:tiny-llama",
        "num_epochs": 1,
        "max_seq_length": 128,
        "seed": SHORT_SEED,
    }
    for what, fields in (("dry run", {"dry_run": True}), ("training", {"dry_run": False})):
        try:
            run_id = ask(port, token, "POST", "/api/tunix/run?mode=async", body | fields)["run_id"]
            status = _wait_for_end(
                lambda run_id=run_id: ask(port, token, "GET", f"/api/tunix/runs/{run_id}/status")[
                    "status"
                ]
            )
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            found.problems.append(f"the {what} of the honest client: {error}")
            continue
        found.runs.append(f"{what}: {status}")
        if status != "completed":
            found.problems.append(f"the {what} of the honest client is {status}")


def _wait_for_end(look: Callable[[], str]) -> str:
    give_up = time.monotonic() + RUN_SECONDS
    while (status := look()) in ("pending", "running", "cancelling") and time.monotonic() < give_up:
        time.sleep(0.2)
    return status
