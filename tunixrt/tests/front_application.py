"""A small application behind a front with short limits, for tunixrt/tests/test_front.py. Served by
granian, as the real one is.

``/hold/NAME`` waits until the file NAME is in the folder that FRONT_TEST_FOLDER names;
``/stream/NAME`` sends a first piece and then waits for it; ``/endless`` sends pieces without end;
``/waiting`` tells how many wait for a place; any other path answers with what arrived.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

settings.configure(DATABASES={}, SECRET_KEY="test", TUNIXRT_WEB_SHARED=None)

from tunixrt.front import BodyRule, Front, Limits  # noqa: E402 - after the settings
from tunixrt.refusals import REFUSED  # noqa: E402
from tunixrt.whose import ACCOUNT  # noqa: E402

FOLDER = Path(os.environ["FRONT_TEST_FOLDER"])
SHORT = BodyRule(
    max_bytes=1000,
    max_seconds=float(os.environ.get("FRONT_TEST_SECONDS", "60")),
    grace_seconds=1.0,
    min_rate=100.0,
)


def wait_for(name: str) -> None:
    (FOLDER / f"{name}.entered").touch()
    while not (FOLDER / name).exists():
        time.sleep(0.01)


def django(environ: dict[str, Any], start_response: Any) -> HttpResponseBase:
    response = answer(environ)
    start_response(f"{response.status_code} Some", list(response.items()))
    return response


def answer(environ: dict[str, Any]) -> HttpResponseBase:
    if refused := environ.get(REFUSED):
        return HttpResponse(refused.detail, status=refused.status, headers=refused.headers)
    if account := environ.get("HTTP_AUTHORIZATION"):
        environ[ACCOUNT] = account
    path = environ["PATH_INFO"]
    if path == "/api/uploads/permission":
        return HttpResponse(
            status=204 if environ.get("HTTP_AUTHORIZATION", "").startswith("may") else 401
        )
    if path.startswith("/hold/"):
        wait_for(path.removeprefix("/hold/"))
    if path.startswith("/stream/"):
        return StreamingHttpResponse(pieces(path.removeprefix("/stream/")))
    if path == "/waiting":
        return HttpResponse(str(sum(map(len, list(application._places._waiting.values())))))
    if path == "/endless":
        return StreamingHttpResponse(itertools.repeat(b"x" * 65536))
    body = environ["wsgi.input"].read()
    told = {name: value for name, value in environ.items() if isinstance(value, str)} | {
        "body": body.decode("latin-1")
    }
    return HttpResponse(json.dumps(told))


def pieces(name: str) -> Any:
    yield b"first"
    wait_for(name)
    yield b"second"


application = Front(
    django,
    places=3,
    streams=2,
    downloads=2,
    downloads_each=2,
    limits=Limits(
        body=SHORT,
        upload=BodyRule(max_bytes=1_000_000, grace_seconds=1.0, min_rate=100.0),
        upload_paths=frozenset({"/upload"}),
        slow_paths=frozenset({"/hold/slow-1", "/hold/slow-2", "/hold/slow-3"}),
        uploads=2,
        uploads_each=1,
        in_memory=100,
    ),
)
