"""The list in all ways that matter, beside single runs and the pages that show them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.chaos.house import House, is_up
from benchmarks.http_load import get, put_load
from runs.models import Run
from runs.tests.ports import HeldPort
from tunixrt.cursors import Cursor
from tunixrt.local_mode import local_user
from tunixrt.models import ApiToken

LIST = "/api/tunix/runs?limit=20"
RATE, PAGE_RATE = 100, 25  # requests a second of the steady load: API, pages
ROUNDS = 3  # in which the list and its yardstick take turns
START_SECONDS = 30.0
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


def measure_lists(built: House, rows: int, seconds: float) -> dict[str, str]:
    """Return p50 / p95 / p99 in milliseconds, by name: at a steady rate, and as fast as possible
    over eight connections."""
    deep = (
        Run.objects.visible().newest_first().values_list("created_at", "run_id")[int(rows * DEPTH)]
    )
    some = Run.objects.filter(dataset_key="set-7").first()
    assert some is not None
    _, token = ApiToken.objects.create(local_user())
    by_token = {"Authorization": f"Token {token}"}
    deep_page = f"{LIST}&cursor={Cursor(*deep).encode()}"
    steady = {"list, first page": get(LIST), f"list, {DEPTH:.0%} down": get(deep_page)}
    steady |= {f"list by {name}": get(LIST + query) for name, query in FILTERS.items()}
    steady |= {"list, first page, token": get(LIST, by_token)}
    steady |= {
        "run": get(f"/api/tunix/runs/{some.pk}"),
        "status of a run": get(f"/api/tunix/runs/{some.pk}/status"),
    }
    pages = {"history page": get("/"), "page of a run": get(f"/runs/{some.pk}")}
    fastest = (
        "list, first page",
        f"list, {DEPTH:.0%} down",
        "list, first page, token",
        "run",
        "status of a run",
    )
    found = {}
    for requests, rate in ((steady, RATE), (pages, PAGE_RATE)):
        for name, request in requests.items():
            put_load(built.port, request, seconds=0.3)  # warm
            found[f"{name}, {rate}/s"] = put_load(
                built.port, request, seconds=seconds, rate=rate
            ).spread()
    for name in fastest:
        load = put_load(built.port, steady[name], seconds=seconds)
        found[f"{name}, as fast as it goes"] = f"**{load.a_second:,.0f}/s**, {load.spread()}"
    return found | _against_yardstick(built, get(LIST), seconds)


def _against_yardstick(built: House, request: bytes, seconds: float) -> dict[str, str]:
    """Measure the list, the yardstick, the list again …: machines change their speed, the ratio
    does not."""
    rates: dict[str, list[float]] = {"list": [], "yardstick": []}
    with _yardstick() as port:
        put_load(port, get("/"), seconds=0.3)  # warm
        for _ in range(ROUNDS):
            rates["list"].append(put_load(built.port, request, seconds=seconds).a_second)
            rates["yardstick"].append(put_load(port, get("/"), seconds=seconds).a_second)
    share = statistics.median(
        ours / least for ours, least in zip(rates["list"], rates["yardstick"], strict=True)
    )
    return {
        "the same in turns with the yardstick": f"**{statistics.median(rates['list']):,.0f}/s**",
        "yardstick": f"{statistics.median(rates['yardstick']):,.0f}/s",
        "list : yardstick": f"**{share:.2f}**",
    }


@contextmanager
def _yardstick() -> Iterator[int]:
    """Serve benchmarks/web/yardstick.py with granian and two threads; its port."""
    held = HeldPort()
    port = held.number
    arguments = [
        "--interface",
        "wsgi",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--blocking-threads",
        "2",
    ]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "granian",
            *arguments,
            "--no-ws",
            "--log-level",
            "error",
            "benchmarks.web.yardstick_wsgi:application",
        ]
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up(port, "/"):
            if time.monotonic() > deadline:
                raise TimeoutError("The yardstick's server does not come up.")
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()
        held.close()
