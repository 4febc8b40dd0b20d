"""Live streams: from the trainer's print to the client's event, and what many viewers cost."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path

from django.db import connection

from benchmarks.chaos.figures import quantile
from benchmarks.chaos.house import House
from benchmarks.chaos.load import DATASET, call
from benchmarks.http_load import get

VIEWERS = 200


def measure_live(built: House) -> dict[str, str]:
    """Measure from the trainer's print to the client's event, for one viewer and beside many; and
    what so many viewers cost."""
    body = {"dataset_key": DATASET, "model_id": "preset:tiny-llama", "dry_run": False}
    run_id = call(built, "POST", "/api/tunix/run?mode=async", body).run_id
    while call(built, "GET", f"/api/tunix/runs/{run_id}/status").status != "running":
        time.sleep(0.05)
    server = built.family("web")
    before = sum(_resident_bytes(process.pid) for process in server)
    alone = _latencies(built, str(run_id), 1, seconds=8)
    many = _latencies(built, str(run_id), VIEWERS, seconds=8)
    call(built, "POST", f"/api/tunix/runs/{run_id}/cancel", {})
    return {
        "trainer's print → event, 1 viewer": _as_text(alone[0]),
        f"trainer's print → event, {VIEWERS} viewers": _as_text(many[0]),
        "server's memory without viewers": f"{before / 2**20:.0f} MB",
        f"server's memory with {VIEWERS} viewers": f"{many[1] / 2**20:.0f} MB",
        f"database connections with {VIEWERS} viewers (PostgreSQL: of all programs)": str(many[2]),
    }


def _as_text(milliseconds: list[float]) -> str:
    return (
        f"p50 {quantile(milliseconds, 0.5):.0f} ms, p95 {quantile(milliseconds, 0.95):.0f} ms"
        f" ({len(milliseconds)} events)"
    )


def _latencies(
    built: House, run_id: str, viewers: int, seconds: float
) -> tuple[list[float], int, int]:
    """Return the milliseconds of all viewers together; the server's memory and its database
    connections meanwhile."""
    streams = [socket.create_connection(("127.0.0.1", built.port), 10) for _ in range(viewers)]
    size = call(built, "GET", f"/api/tunix/runs/{run_id}/logs?tail_lines=1").body["size"]
    for stream in streams:
        stream.sendall(get(f"/api/tunix/runs/{run_id}/events?from=o{size}.e0.m0.s0"))
        stream.setblocking(False)
    time.sleep(2)
    server = built.family("web")
    memory, connections = (
        sum(_resident_bytes(process.pid) for process in server),
        _database_connections(built),
    )
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
                    took += [
                        1000 * (arrived - float(word.split()[1]))
                        for word in text.splitlines()
                        if word.startswith("tick ")
                    ]
    for stream in streams:
        stream.close()
    return took, memory, connections


def _database_connections(built: House) -> int:
    """Count connections to PostgreSQL, attendant and task workers included, or the web server's
    open descriptors of the SQLite file."""
    found = 0
    for process in built.family("web"):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            found += target.endswith(".sqlite3")
    if built.database == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <>"
                " pg_backend_pid()"
            )
            found = cursor.fetchone()[0]
    return found


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))
