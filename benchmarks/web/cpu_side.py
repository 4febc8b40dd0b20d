"""One side of ``benchmarks.web.cpu``: a checkout, on the database that the environment names, asked
by WSGI in this process. With ``yardstick`` it is yardstick.py, on a database that another side has
filled.

Reads lines ``WORK COUNT`` from standard input and answers each with a line of JSON: seconds of
processor time of this process, those of PostgreSQL's backend, and the statements of one request.
"""

from __future__ import annotations

import array
import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import django

HOST = "127.0.0.1"
FAR_AWAY = "192.0.2.7"
DATASET = "set-7"  # of benchmarks/history.py
POINTS = 200  # of the loss of a training
JSON = "application/json"


def main() -> None:
    django.setup()
    from django.db import connection  # noqa: PLC0415 - once Django is set up

    work = _yardstick() if sys.argv[1] == "yardstick" else _works(int(sys.argv[1]))
    connection.ensure_connection()
    backend = None
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            backend = int(cursor.fetchone()[0])
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.rsplit(" ", 1)
        ask = work[name]
        before = _cpu(backend)
        began = time.process_time()
        for _ in range(int(count)):
            ask()
        seconds, database = time.process_time() - began, _cpu(backend) - before
        gc.collect()
        connection.force_debug_cursor = True
        statements = len(connection.queries_log)
        ask()
        connection.force_debug_cursor = False
        statements = len(connection.queries_log) - statements
        connection.queries_log.clear()
        print(json.dumps([seconds, database, statements]), flush=True)


def _cpu(pid: int | None) -> float:
    """Return the CPU seconds of another process, from its clock, clock_getcpuclockid(3)."""
    return 0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)


def _yardstick() -> dict[str, Callable[[], None]]:
    from benchmarks.web.yardstick_wsgi import application  # noqa: PLC0415

    return {"list": _request(application, "/")}


def _works(rows: int) -> dict[str, Callable[[], None]]:
    from django.core.management import call_command  # noqa: PLC0415

    from benchmarks.history import fill  # noqa: PLC0415
    from datasets.services.datasets import create_dataset  # noqa: PLC0415
    from datasets.services.traces import create_traces  # noqa: PLC0415
    from runs.models import Run  # noqa: PLC0415
    from tunixrt.local_mode import local_user  # noqa: PLC0415
    from tunixrt.models import ApiToken  # noqa: PLC0415
    from tunixrt.wsgi import application  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    user = local_user()
    traces = create_traces(
        items=[
            {
                "prompt": f"{number} + 1 =",
                "steps": [{"i": 0, "type": "reasoning", "content": f"{number} + 1"}],
                "final_answer": str(number + 1),
            }
            for number in range(50)
        ],
        by=user,
    )
    create_dataset(name="set", version="7", trace_ids=[trace.pk for trace in traces], by=user)
    fill(rows)
    _make_real()
    _measure_newest()
    _, token = ApiToken.objects.create(user)
    some = Run.objects.filter(dataset_key=DATASET).first()
    assert some is not None
    body = json.dumps({"dataset_key": DATASET, "model_id": "preset:tiny-llama"}).encode()
    runs = "/api/tunix/runs"
    by_token = {"HTTP_AUTHORIZATION": f"Token {token}"}
    return {
        "list": _request(application, runs, "limit=20"),
        "list, by token": _request(application, runs, "limit=20", **by_token, REMOTE_ADDR=FAR_AWAY),
        "list, by token in local mode": _request(application, runs, "limit=20", **by_token),
        "list, three quarters down by offset": _request(
            application, runs, f"limit=20&offset={rows * 3 // 4}"
        ),
        "detail": _request(application, f"{runs}/{some.pk}"),
        "history page": _request(application, "/", accept="text/html"),
        "dry-run POST": _request(application, "/api/tunix/run", body=body),
    }


def _make_real() -> None:
    """Give every run the request that it would have: what a row weighs decides what it costs to
    pass over it. Then what autovacuum would have done after so many new rows."""
    from django.db import connection  # noqa: PLC0415

    from runs.models import Run  # noqa: PLC0415
    from runs.services.run_requests import clean_request  # noqa: PLC0415

    request = clean_request({"dataset_key": DATASET, "model_id": "preset:tiny-llama"})
    Run.objects.update(config=request.as_config())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE" if connection.vendor == "sqlite" else "VACUUM ANALYZE")


def _measure_newest() -> None:
    """Give the trainings on the first page of the history what their sparklines are drawn from."""
    from runs.models import MetricChunk, MetricSeries, Run  # noqa: PLC0415

    for run in Run.objects.newest_first()[:20]:
        if run.last_loss is None:
            continue
        values = [3 / (1 + step / 40) + 0.2 * (step * 37 % 11) / 11 for step in range(POINTS)]
        series = MetricSeries.objects.create(
            run=run, name="loss", count=POINTS, last_step=POINTS - 1, last=values[-1]
        )
        MetricChunk.objects.create(
            series=series,
            number=0,
            count=POINTS,
            first_step=0,
            last_step=POINTS - 1,
            minimum=min(values),
            maximum=max(values),
            steps=array.array("q", range(POINTS)).tobytes(),
            times=array.array("d", range(POINTS)).tobytes(),
            values=array.array("d", values).tobytes(),
        )


def _request(
    application: Callable[..., Any],
    path: str,
    query: str = "",
    *,
    body: bytes | None = None,
    accept: str = JSON,
    **more: str,
) -> Callable[[], None]:
    from tunixrt.peers import PEER_UID  # noqa: PLC0415

    fixed = {
        "REQUEST_METHOD": "GET" if body is None else "POST",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SCRIPT_NAME": "",
        "SERVER_NAME": HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": HOST,
        "HTTP_ACCEPT": accept,
        "REMOTE_ADDR": HOST,
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        PEER_UID: os.getuid(),
    } | more
    if body is not None:
        fixed |= {"CONTENT_TYPE": JSON, "CONTENT_LENGTH": str(len(body))}

    def ask() -> None:
        answered: list[str] = []
        environ = fixed | {"wsgi.input": io.BytesIO(body or b"")}
        response = application(environ, lambda status, headers, error=None: answered.append(status))
        for _ in response:
            pass
        response.close()
        if not answered[0].startswith("20"):
            raise RuntimeError(f"{path}?{query} was answered {answered[0]}")

    return ask


if __name__ == "__main__":
    main()
