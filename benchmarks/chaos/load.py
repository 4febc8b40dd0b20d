"""Clients of the HTTP API: they submit hundreds of runs, some twice at the same moment, and cancel,
retry, delete at random.

One of them does nothing but retry, with and without checkpoints, so that chains of retries come
about.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from benchmarks.chaos.house import ROOT, House, ask, write_plan

KINDS = {
    "complete": 30, "relay": 24, "fail": 10, "signal": 6, "timeout": 9, "stubborn": 6, "family": 10,
    "broken": 8, "silent": 4,
}  # fmt: skip
DRY_SHARE, SYNC_SHARE, TWICE_SHARE, NAMED_SHARE, AUTO_SHARE = 0.3, 0.15, 0.2, 0.6, 0.4
REAL_STEPS, REAL_AUTO_RETRY = 60, 3
REAL_FIRST, REAL_EVERY = 10, 30  # their places among the submissions: early, for they take long
REAL_COMMAND = [sys.executable, "-I", "-u", str(ROOT / "runs" / "trainer" / "launch.py")]
DATASET, LONG_DATASET = "chaos-v1", "long-v1"
TIMEOUT = 45.0  # seconds a client waits for an answer


@dataclass
class Answer:
    """One request and what became of it; ``code`` None: no answer, so it is unknown."""

    what: str
    sent: float
    answered: float
    code: int | None
    body: Any
    asked: Any = None  # the body of the request

    @property
    def status(self) -> str | None:
        return self.body.get("status") if isinstance(self.body, dict) else None

    @property
    def run_id(self) -> str | None:
        return self.body.get("run_id") if isinstance(self.body, dict) else None


@dataclass
class Submission:
    """What one client wants; ``seed`` is its own and finds its rows again."""

    seed: int
    kind: str
    body: dict[str, Any]
    queued: bool
    at_once: int = 1  # so many identical requests at the same moment
    answers: list[Answer] = field(default_factory=list)

    @property
    def named(self) -> bool:
        return "client_request_id" in self.body

    @property
    def settled(self) -> bool:
        """It is known what became of it, as far as this client can know."""
        return (
            any(answer.code is not None and answer.code != 503 for answer in self.answers)
            or not self.named
        )

    @property
    def accepted(self) -> set[str]:
        return {str(answer.run_id) for answer in self.answers if answer.code == 202}


def call(
    house: House, method: str, path: str, body: Any = None, *, timeout: float = TIMEOUT
) -> Answer:
    """Send one request on a connection of its own."""
    sent = time.time()
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=timeout)
    code, value = None, None
    try:
        data = None if body is None else json.dumps(body)
        connection.request(
            method, path, data, {"Content-Type": "application/json", "Accept": "application/json"}
        )
        response = connection.getresponse()
        text = response.read()
        code = response.status
        value = (
            json.loads(text)
            if response.headers.get_content_type() == "application/json"
            else text.decode()
        )
    except (OSError, http.client.HTTPException, ValueError):
        code = None
    finally:
        connection.close()
    return Answer(f"{method} {path}", sent, time.time(), code, value, body)


def make_datasets(house: House) -> None:
    """Make two datasets through the API: one to train on, one of which every example is too
    long."""
    for key, length in ((DATASET, 1), (LONG_DATASET, 500)):
        traces = [
            {
                "prompt": f"{number}+1=?" * length,
                "steps": [{"i": 0, "type": "reasoning", "content": f"{number}+1"}],
                "final_answer": str(number + 1),
            }
            for number in range(8)
        ]
        made = call(house, "POST", "/api/traces", traces)
        assert made.code == 201, made
        name, version = key.rsplit("-", 1)
        ids = [trace["id"] for trace in made.body]
        made = call(
            house, "POST", "/api/datasets", {"name": name, "version": version, "trace_ids": ids}
        )
        assert made.code == 201, made


class Load:
    def __init__(self, house: House, seed: int, count: int, *, real: int = 0, clients: int = 8):
        self.house = house
        self.random = random.Random(seed)
        self.submissions = [self._draw(number + 1) for number in range(count)]
        for number in range(real):
            self._make_real(self.submissions[min(REAL_FIRST + REAL_EVERY * number, count - 1)])
        self.waiting = deque(self.submissions)
        self.again: deque[Submission] = deque()  # no answer came: the client asks again
        self.real_seeds = {
            submission.seed for submission in self.submissions if submission.kind == "real"
        }
        self.real_runs: set[str] = set()
        # (run id, answer) of cancels, retries and deletions
        self.acts: list[tuple[str, Answer]] = []
        self.deleting = threading.Lock()  # held while runs go to the trash, and while it is emptied
        self.odd: list[Answer] = []  # answers that no client should ever get
        self.known: list[str] = []  # run ids
        self.codes: dict[str, int] = {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.room = threading.Event()
        self.room_to_retry = threading.Event()
        self.threads = [
            threading.Thread(target=self._client, name=f"client-{number}")
            for number in range(clients)
        ]
        self.threads += [
            threading.Thread(target=self._meddler, args=(seed * 31 + 1,), name="meddler")
        ]
        self.threads += [
            threading.Thread(target=self._retrier, args=(seed * 37 + 5,), name="retrier")
        ]
        self.threads += [threading.Thread(target=self._watch_backlog, name="backlog")]

    # --- what is asked for

    def _draw(self, seed: int) -> Submission:
        draw = self.random
        body: dict[str, Any] = {
            "dataset_key": DATASET,
            "model_id": "preset:tiny-llama",
            "seed": seed,
            "num_epochs": 1,
        }
        kind = (
            "dry"
            if draw.random() < DRY_SHARE
            else draw.choices(list(KINDS), list(KINDS.values()))[0]
        )
        body["dry_run"] = kind == "dry"
        steps, pause, code, output = (
            draw.randint(3, 40),
            draw.choice((0.0, 0.02, 0.05)),
            0,
            draw.choice(("text", "binary", "one line")),
        )
        if kind == "dry":
            body["max_seq_length"] = 128
            if draw.random() < 0.2:
                kind, body["dataset_key"] = "bad dry", LONG_DATASET
        elif kind == "relay":
            steps, code = draw.randint(8, 40), 13
        elif kind == "fail":
            code = draw.choice((1, 2, 10, 11, 13, 14, 16))
        elif kind == "signal":
            code = draw.choice((6, 9, 11))
        elif kind in ("timeout", "stubborn"):
            steps, pause = 400, 0.05
            body["timeout_seconds"] = draw.choice((1, 2))
        elif kind == "silent":
            steps = 0
        plan = {
            "seed": seed,
            "kind": kind,
            "steps": steps,
            "pause": pause,
            "code": code,
            "output": output,
        }
        plan["save_every"] = draw.choice((2, 3, 5) if kind == "relay" else (0, 1, 2, 5))
        plan["leg"] = plan["save_every"] + draw.randint(1, 5)
        write_plan(self.house.workshop, plan)
        if not body["dry_run"] and draw.random() < AUTO_SHARE:
            body["auto_retry"] = draw.choice((1, 1, 2, 3))
        submission = Submission(seed, kind, body, queued=draw.random() >= SYNC_SHARE)
        if draw.random() < NAMED_SHARE:
            body["client_request_id"] = f"chaos-{seed}"
            submission.at_once = 3 if draw.random() < TWICE_SHARE else 1
            if not body["dry_run"] and draw.random() < 0.3:
                body["output_dir"] = f"named-{seed}"
        return submission

    def _make_real(self, submission: Submission) -> None:
        """Submit a real training of the smallest preset, instead of a scripted one."""
        seed = submission.seed
        body = {
            "dataset_key": DATASET,
            "model_id": "preset:tiny-llama",
            "seed": seed,
            "num_epochs": 100,
            "max_seq_length": 128,
        }
        body |= {
            "max_steps": REAL_STEPS,
            "checkpoint_every_steps": 5,
            "keep_last_checkpoints": 2,
            "auto_retry": REAL_AUTO_RETRY,
        }
        submission.kind, submission.queued, submission.at_once = "real", True, 1
        submission.body = body | {"dry_run": False, "client_request_id": f"chaos-{seed}"}
        plan = {
            "seed": seed,
            "kind": "real",
            "steps": 0,
            "pause": 0,
            "code": 0,
            "output": "text",
            "command": REAL_COMMAND,
        }
        write_plan(self.house.workshop, plan)

    # --- the clients

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    @property
    def done(self) -> bool:
        return not self.waiting and not self.again

    def _client(self) -> None:
        while not self.stopping.is_set():
            submission = self._next()
            if submission is None:
                time.sleep(0.1)
                continue
            self.submit(submission)
            if not submission.settled:
                time.sleep(0.2)
                self.again.append(submission)

    def _next(self) -> Submission | None:
        for queue, allowed in ((self.again, True), (self.waiting, self.room.is_set())):
            try:
                if allowed:
                    return queue.popleft()
            except IndexError:
                continue
        return None

    def submit(self, submission: Submission) -> None:
        path = "/api/tunix/run" + ("?mode=async" if submission.queued else "")
        threads = [
            threading.Thread(
                target=lambda: submission.answers.append(self._call("POST", path, submission.body))
            )
            for _ in range(submission.at_once)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self.lock:
            self.known += [
                run_id for run_id in submission.accepted if run_id not in self.known[-500:]
            ]
            if submission.kind == "real":
                self.real_runs |= submission.accepted

    def _call(self, method: str, path: str, body: Any = None) -> Answer:
        answer = call(self.house, method, path, body)
        with self.lock:
            self.codes[str(answer.code)] = self.codes.get(str(answer.code), 0) + 1
            if answer.code is not None and answer.code >= 500 and answer.code != 503:
                self.odd.append(answer)
        return answer

    def _meddler(self, seed: int) -> None:
        """Act as a user who cancels, retries, deletes and looks, in whatever status."""
        draw = random.Random(seed)
        while not self.stopping.wait(draw.uniform(0.05, 0.5)):
            if not self.known:
                continue
            recent = self.known[-12:] if draw.random() < 0.7 else self.known
            run_id = draw.choice(recent)
            act = draw.choices(("cancel", "retry", "extend", "delete", "look"), (10, 2, 1, 2, 5))[0]
            self.meddle(act, run_id, draw)

    def meddle(self, act: str, run_id: str, draw: random.Random) -> None:
        path = f"/api/tunix/runs/{run_id}"
        # it would never come to its first checkpoint
        if act == "look" or (act == "cancel" and run_id in self.real_runs):
            self._call(
                "GET",
                draw.choice(
                    (
                        path,
                        f"{path}/status",
                        "/api/tunix/runs",
                        "/metrics",
                        "/healthz",
                        "/",
                        f"/runs/{run_id}",
                    )
                ),
            )
        elif act == "delete":
            self.delete(run_id)
        elif act == "retry":
            self.retry(run_id, draw)
        elif act == "extend":
            self.extend(run_id, draw)
        else:
            self.acts.append((run_id, self._call("POST", f"{path}/{act}")))

    def delete(self, run_id: str) -> None:
        with self.deleting:
            self.acts.append((run_id, self._call("DELETE", f"/api/tunix/runs/{run_id}")))

    def retry(self, run_id: str, draw: random.Random) -> None:
        self._ask_for_heir(
            run_id, "retry", draw.choices(({}, {"resume": True}, {"resume": False}), (4, 3, 3))[0]
        )

    def extend(self, run_id: str, draw: random.Random) -> None:
        self._ask_for_heir(run_id, "extend", {"max_steps": draw.randint(3, 15)})

    def _ask_for_heir(self, run_id: str, what: str, body: dict[str, Any]) -> None:
        answer = self._call("POST", f"/api/tunix/runs/{run_id}/{what}", body)
        self.acts.append((run_id, answer))
        if answer.code == 202:
            with self.lock:
                self.known.append(str(answer.run_id))
                if run_id in self.real_runs:
                    self.real_runs.add(str(answer.run_id))

    def _retrier(self, seed: int) -> None:
        """Act as a user who wants completed trainings: retry what ended otherwise, retries as
        well."""
        draw = random.Random(seed)
        while not self.stopping.wait(draw.uniform(0.1, 0.7)):
            if not self.room_to_retry.is_set():
                continue
            which = draw.choices(("ended", "retry", "completed", "dry", "extend"), (8, 6, 1, 1, 3))[
                0
            ]
            found = ask(lambda: self.house.tables.real_to_retry(self.real_seeds), patience=600)
            if found:
                self.retry(draw.choice(found), draw)
            elif found := ask(lambda: self.house.tables.to_retry(which), patience=600):  # noqa: B023 - asked at once
                run_id = draw.choice(found)
                if which == "extend":
                    self.extend(run_id, draw)
                else:
                    self.retry(run_id, draw)
        connection.close()

    def _watch_backlog(self) -> None:
        """Submit no faster than the slots take: waiting runs have to be trained at the end too."""
        limit = self.house.slots * len(self.house.hosts) * 4
        while not self.stopping.wait(0.25):
            active = ask(lambda: self.house.tables.count_active(dry_run=False), patience=600)
            for room, most in ((self.room, limit), (self.room_to_retry, limit * 1.5)):
                if active < most:
                    room.set()
                else:
                    room.clear()
        connection.close()

    def finish(self, seconds: float) -> None:
        """Ask again, with the outages over, until every client that can know does."""
        give_up = time.monotonic() + seconds
        while (
            open_ones := [s for s in self._submitted() if not s.settled]
        ) and time.monotonic() < give_up:
            for submission in open_ones:
                self.submit(submission)

    def _submitted(self) -> Iterable[Submission]:
        return (submission for submission in self.submissions if submission.answers)
