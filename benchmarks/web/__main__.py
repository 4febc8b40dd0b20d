"""How fast the web server answers with ten thousand and with a million runs: ``python -m benchmarks.web`` (make bench-web).

One server process as ``make serve`` starts it, with its attendant, on a database of its own: SQLite, and a PostgreSQL with fsync
on. Clients run on the same machine. docs/performance.md says what the figures mean and has those on record.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import select
import shlex
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.figures import quantile
from benchmarks.chaos.house import House
from benchmarks.chaos.load import DATASET, call, make_datasets
from benchmarks.history import fill
from benchmarks.http_load import get, put_load

LIST = "/api/tunix/runs?limit=20"
RATE, PAGE_RATE = 100, 25  # requests a second of the steady load: API, pages
DEPTH = 0.9  # how far down the deep page lies
FILTERS = {
    "status": "&status=failed",
    "mode": "&mode=local",
    "dataset": "&dataset_key=set-7",
    "model": "&model_id=family/model-3",
    "tag": "&tag=sweep",
    "owner": "&owner=local",
    "date range": "&after=2020-01-01&before=2035-01-01",
    "words": "&q=status:failed+model:model-3",
    "loss": "&q=loss%3C1.5",
}
METRIC_POINTS = 1_000_000
LOG_BYTES = 1 << 30
VIEWERS = 200
TICKER = Path(__file__).with_name("ticker.py")


class WebHouse(House):
    """The house of the chaos harness with the limits of a real one, and a trainer that prints the time."""

    def _environment(self, host: str, role: str = "harness") -> dict[str, str]:
        environment = super()._environment(host, role)
        environment["TUNIX_COMMAND"] = shlex.join([sys.executable, "-I", "-S", str(TICKER)])
        for name in ("TUNIXRT_WEB_THREADS", "TUNIX_SYNC_TIMEOUT_SECONDS", "TUNIX_HOST_SILENT_SECONDS", "TUNIX_HOST_LOST_SECONDS"):
            del environment[name]
        return environment


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web", description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append", help="default: both")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 1_000_000], help="table sizes, growing")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each load")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n", flush=True)
    for database in arguments.database or ["sqlite", "postgresql"]:
        # Django reads its settings once, so each database has a process of its own.
        process = multiprocessing.get_context("fork").Process(target=_measure, args=(database, arguments))
        process.start()
        process.join()
        if process.exitcode:
            return 1
    return 0


def _measure(database: str, arguments: argparse.Namespace) -> None:
    with _house(database) as built:
        built.open()
        make_datasets(built)
        rows = 0
        lists: dict[str, list[str]] = {}
        for wanted in sorted(arguments.rows):
            fill(wanted - rows)
            rows = wanted
            for name, figures in measure_lists(built, rows, arguments.seconds).items():
                lists.setdefault(name, []).append(figures)
        heads = [f"{rows:,} runs" for rows in sorted(arguments.rows)]
        print(f"### {database}\n\n| milliseconds p50 / p95 / p99 | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}")
        for name, cells in lists.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print("\n| what | figure |\n| --- | --- |")
        for name, figure in measure_a_run(built).items():
            print(f"| {name} | {figure} |", flush=True)
        print(f"\nLoad average at the end {os.getloadavg()[0]:.1f}\n", flush=True)


@contextmanager
def _house(database: str) -> Iterator[WebHouse]:
    built = WebHouse(database, 2, Path(tempfile.mkdtemp(prefix="tunixrt-web-")))
    built.hosts = ["alpha"]
    try:
        yield built
        built.close()
    finally:
        built.remove()


# --- lists ------------------------------------------------------------------------------------------------------------


def measure_lists(built: House, rows: int, seconds: float) -> dict[str, str]:
    """The same list in all ways that matter: at a steady rate, and as fast as it goes over eight connections."""
    from knox.models import AuthToken  # noqa: PLC0415 - after django.setup()

    from runs.models import Run  # noqa: PLC0415
    from runs.selection import Cursor  # noqa: PLC0415
    from tunixrt.local_mode import local_user  # noqa: PLC0415

    deep = Run.objects.visible().newest_first().values_list("created_at", "run_id")[int(rows * DEPTH)]
    some = Run.objects.filter(dataset_key="set-7").first()
    assert some is not None
    _, token = AuthToken.objects.create(local_user())
    by_token = {"Authorization": f"Token {token}"}
    deep_page = f"{LIST}&cursor={Cursor(*deep).encode()}"
    steady = {"list, first page": get(LIST), f"list, {DEPTH:.0%} down": get(deep_page)}
    steady |= {f"list by {name}": get(LIST + query) for name, query in FILTERS.items()}
    steady |= {"list, first page, token": get(LIST, by_token)}
    steady |= {"run": get(f"/api/tunix/runs/{some.pk}"), "status of a run": get(f"/api/tunix/runs/{some.pk}/status")}
    pages = {"history page": get("/"), "page of a run": get(f"/runs/{some.pk}")}
    fastest = ("list, first page", f"list, {DEPTH:.0%} down", "list, first page, token", "run", "status of a run")
    found = {}
    for requests, rate in ((steady, RATE), (pages, PAGE_RATE)):
        for name, request in requests.items():
            put_load(built.port, request, seconds=0.3)  # warm
            found[f"{name}, {rate}/s"] = put_load(built.port, request, seconds=seconds, rate=rate).spread()
    for name in fastest:
        load = put_load(built.port, steady[name], seconds=seconds)
        found[f"{name}, as fast as it goes"] = f"**{load.a_second:,.0f}/s**, {load.spread()}"
    return found


# --- one large run ----------------------------------------------------------------------------------------------------


def measure_a_run(built: House) -> dict[str, str]:
    run_id = _large_run(built)
    found = {
        f"curve of {METRIC_POINTS:,} points": _one_by_one(built, f"/api/tunix/runs/{run_id}/metrics?name=loss&points=1000"),
        "last 500 lines of a log of 1 GB": _one_by_one(built, f"/api/tunix/runs/{run_id}/logs?tail_lines=500"),
        "detail page of that run": _one_by_one(built, f"/runs/{run_id}"),
    }
    return found | live(built)


def _one_by_one(built: House, path: str, times: int = 20) -> str:
    took = []
    for number in range(times + 1):
        began = time.perf_counter()
        answer = call(built, "GET", path)
        if answer.code != 200:
            raise RuntimeError(f"{path} answered {answer.code}: {answer.body}")
        if number:
            took.append(1000 * (time.perf_counter() - began))
        else:
            first = 1000 * (time.perf_counter() - began)
    return f"{statistics.median(took):.0f} ms, p95 {quantile(took, 0.95):.0f} ms, the very first time {first:.0f} ms"


def _large_run(built: House) -> uuid.UUID:
    """An ended run with a million measurements, taken in as an attendant does, and a log of 1 GB."""
    from runs.metrics import take_in_metrics  # noqa: PLC0415 - after django.setup()
    from runs.models import Run  # noqa: PLC0415
    from runs.services import run_folder  # noqa: PLC0415

    run = Run.objects.filter(mode="local", status="completed").first()
    assert run is not None
    folder = run_folder(run)
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, METRIC_POINTS + 1):
            loss = 4 * math.exp(-step / 200_000) + (0.5 if step % 99_991 == 0 else 0) + (step * 7919 % 1000) / 5000
            file.write(f'{{"time":{1.7e9 + step},"step":{step},"epoch":1,"values":{{"loss":{loss:.5f}}}}}\n')
    taken = take_in_metrics(run, folder, to_the_end=True)
    if taken != METRIC_POINTS:
        raise RuntimeError(f"{taken} of {METRIC_POINTS} points came home")
    block = b"".join(b"step %07d loss 2.3125 learning_rate 0.0001 tokens_per_second 212.5\n" % number for number in range(20_000))
    with (folder / "stdout.log").open("wb") as file:
        while file.tell() < LOG_BYTES:
            file.write(block)
    return run.pk


# --- live -------------------------------------------------------------------------------------------------------------


def live(built: House) -> dict[str, str]:
    """From the trainer's print to the client's event, for one viewer and beside many; and what so many viewers take."""
    body = {"dataset_key": DATASET, "model_id": "preset:tiny-llama", "dry_run": False}
    run_id = call(built, "POST", "/api/tunix/run?mode=async", body).run_id
    while call(built, "GET", f"/api/tunix/runs/{run_id}/status").status != "running":
        time.sleep(0.05)
    server = built.family("web")
    before = sum(_resident_bytes(process.pid) for process in server)
    alone = _latencies(built, str(run_id), 1, seconds=8)
    many = _latencies(built, str(run_id), VIEWERS, seconds=8)
    beside = put_load(built.port, get(LIST), seconds=0.1)  # still answers
    assert beside.milliseconds
    call(built, "POST", f"/api/tunix/runs/{run_id}/cancel", {})
    return {
        "trainer's print → event, 1 viewer": _as_text(alone[0]),
        f"trainer's print → event, {VIEWERS} viewers": _as_text(many[0]),
        "server's memory without viewers": f"{before / 2**20:.0f} MB",
        f"server's memory with {VIEWERS} viewers": f"{many[1] / 2**20:.0f} MB",
        f"database connections with {VIEWERS} viewers (PostgreSQL: of all programs)": str(many[2]),
    }


def _as_text(milliseconds: list[float]) -> str:
    return f"p50 {quantile(milliseconds, 0.5):.0f} ms, p95 {quantile(milliseconds, 0.95):.0f} ms ({len(milliseconds)} events)"


def _latencies(built: House, run_id: str, viewers: int, seconds: float) -> tuple[list[float], int, int]:
    """Milliseconds of all viewers together; the server's memory and its database connections meanwhile."""
    streams = [socket.create_connection(("127.0.0.1", built.port), 10) for _ in range(viewers)]
    size = call(built, "GET", f"/api/tunix/runs/{run_id}/logs?tail_lines=1").body["size"]
    for stream in streams:
        stream.sendall(get(f"/api/tunix/runs/{run_id}/events?from=o{size}.e0.m0.s0"))
        stream.setblocking(False)
    time.sleep(2)
    server = built.family("web")
    memory, connections = sum(_resident_bytes(process.pid) for process in server), _database_connections(built)
    held = [b""] * viewers
    took: list[float] = []
    began = time.monotonic()
    poller = select.epoll()
    index = {stream.fileno(): number for number, stream in enumerate(streams)}
    for stream in streams:
        poller.register(stream.fileno(), select.EPOLLIN)
    while time.monotonic() < began + seconds:
        for descriptor, _ in poller.poll(0.5):
            number = index[descriptor]
            data = streams[number].recv(1 << 18)
            arrived = time.time()
            held[number] += data
            *lines, held[number] = held[number].split(b"\n")
            if time.monotonic() < began + 1:
                continue  # what had been written before is not live
            for line in lines:
                if line.startswith(b'data: {"offset"') or b'"text":"tick ' in line:
                    text = json.loads(line[6:])["text"]
                    took += [1000 * (arrived - float(word.split()[1])) for word in text.splitlines() if word.startswith("tick ")]
    for stream in streams:
        stream.close()
    return took, memory, connections


def _database_connections(built: House) -> int:
    """Connections to PostgreSQL, attendant and task workers included, or the web server's open descriptors of the SQLite file."""
    found = 0
    for process in built.family("web"):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            found += target.endswith(".sqlite3")
    if built.database == "postgresql":
        from django.db import connection  # noqa: PLC0415 - after django.setup()

        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()")
            found = cursor.fetchone()[0]
    return found


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


if __name__ == "__main__":
    sys.exit(main())
