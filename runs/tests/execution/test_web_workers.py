"""A web server of two worker processes: its limits and metrics are those of both together.

The kernel assigns a connection to one of the workers; a test opens connections until it has one to
the worker that it means.
"""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from datasets.models import Dataset
from runs.runfolder.processes import has_open, live_processes
from runs.tests.conftest import Start
from runs.tests.launching import PATIENCE, wait_for
from runs.tests.leftovers import make_run
from runs.tests.ports import HeldPort
from runs.tests.programs import Program
from tunixrt.local_mode import local_user

pytestmark = pytest.mark.django_db(transaction=True)
STREAMS, RATE = 3, 20


class Site:
    """The web server."""

    def __init__(self, program: Program, port: HeldPort):
        self.program = program
        self.port = port
        self.workers: list[int] = wait_for(self._workers, "both workers")
        for worker in self.workers:
            assert Worker(self, worker).get("/healthz")[0] == 200

    def _workers(self) -> list[int] | None:
        assert self.program.process.poll() is None, self.program.said()
        server = self.program.process.pid
        found = [process.pid for process in live_processes() if process.parent == server]
        return found if len(found) == 2 and all(map(self._listens, found)) else None

    def _listens(self, worker: int) -> bool:
        return any(has_open(worker, f"socket:[{inode}]") for inode in self._sockets(0))

    def _sockets(self, peer: int) -> list[str]:
        """Inodes of the server's sockets whose peer has this port; of those that listen: 0."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        wanted = (f"{self.port.number:04X}", f"{peer:04X}")
        return [row[9] for row in rows if tuple(end[-4:] for end in row[1:3]) == wanted]

    def worker_of(self, port: int) -> int | None:
        """Return the worker that has accepted the connection from this port of ours."""
        inodes = self._sockets(port)
        return next(
            (pid for pid in self.workers for inode in inodes if has_open(pid, f"socket:[{inode}]")),
            None,
        )


class Worker:
    """Asks one of the workers, each time by a new connection."""

    def __init__(self, site: Site, pid: int):
        self._site = site
        self._pid = pid

    def _connect(self) -> http.client.HTTPConnection:
        while True:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._site.port.number, timeout=PATIENCE
            )
            connection.connect()
            ours = connection.sock.getsockname()[1]
            if wait_for(partial(self._site.worker_of, ours), "a worker") == self._pid:
                return connection
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        return self._ask("POST", path, json.dumps(body), {"Content-Type": "application/json"})

    def _ask(self, *request: Any) -> tuple[int, str]:
        with closing(self._connect()) as connection:
            connection.request(*request)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def samples(self) -> dict[str, float]:
        """What it tells Prometheus."""
        lines = self.get("/metrics")[1].splitlines()
        split = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in split}

    @contextmanager
    def reading(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """Open a live stream, and read its first line."""
        with closing(self._connect()) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.readline().startswith(b"retry: ")
            yield answer


@pytest.fixture
def site(program: Start, port: HeldPort, db: None) -> Iterator[Site]:
    local_user()
    started = program(
        "manage.py",
        "web",
        TUNIXRT_BIND=port.address,
        TUNIXRT_WEB_WORKERS="2",
        TUNIXRT_MAX_STREAMS=str(STREAMS),
        TUNIXRT_API_RATE=f"{RATE}/day",
    )
    site = Site(started, port)
    yield site
    started.process.terminate()
    assert started.wait() == 0, started.said()
    assert "Traceback" not in started.said()


def test_limits_and_metrics_are_those_of_both_workers(
    site: Site, user: User, dataset: Dataset, output_root: Path
):
    first, second = (Worker(site, pid) for pid in site.workers)
    statuses: list[int] = []  # of what the API was asked

    # Live streams: two at one worker and one at the other are all there may be.
    run = make_run(user, files={"stdout.log": b""})
    events = f"/api/tunix/runs/{run.pk}/events"
    with ExitStack() as streams:
        for worker in (first, first, second):
            statuses.append(streams.enter_context(worker.reading(events)).status)
        statuses += [worker.get(events)[0] for worker in (first, second)]
    assert statuses == [200, 200, 200, 503, 503]

    # What one worker has measured the other one tells, also if the first is not asked again.
    before = second.samples()
    body = {"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama", "dry_run": True}
    status, said = first.post("/api/tunix/run", body)
    assert status == 202, said
    statuses.append(status)
    name = "tunix_db_write_latency_ms_count"
    wait_for(lambda: second.samples()[name] == before[name] + 1, "what the first has measured")

    # Requests are counted together, and both tell the same.
    asked = re.compile("django_http_requests_total_by_view.*healthz")
    for worker in (first, first, first, second, second):
        assert worker.get("/healthz")[0] == 200
    told = [worker.samples() for worker in (first, second)]
    counts = [[each[name] for name in each if asked.match(name)] for each in (before, *told)]
    assert counts == [[2.0], [7.0], [7.0]]
    assert not any(name.startswith(("process_", "python_")) for name in told[0])

    # The rate of an account is that of both.
    for worker in (first, second):
        statuses += [worker.get("/api/tunix/status")[0] for _ in range(RATE // 2)]
    assert statuses.index(429) == RATE
    assert set(statuses[RATE:]) == {429}


def test_live_streams_of_all_workers_end_with_the_server(site: Site, user: User, output_root: Path):
    run = make_run(user, files={"stdout.log": b""})
    with ExitStack() as streams:
        for pid in site.workers:
            reading = Worker(site, pid).reading(f"/api/tunix/runs/{run.pk}/events")
            streams.enter_context(reading)

        site.program.process.terminate()

        assert site.program.wait() == 0, site.program.said()
