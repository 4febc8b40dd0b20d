"""A real server whose real database goes away and comes back: 503 meanwhile, no stack trace, no restart needed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tunixrt.api.errors import DATABASE_AWAY
from tunixrt.tests.plugin import ROOT
from tunixrt.tests.postgres import PostgresServer, postgres_server

LOG_IN_SOMEBODY = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_user("somebody"))
print(client.cookies["sessionid"].value)
"""


@dataclass
class Site:
    database: PostgresServer
    web: httpx.Client
    session: str
    log: Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    log = tmp_path / "web.log"
    with postgres_server() as database, log.open("wb") as output:
        environment = os.environ | {
            "DATABASE_URL": database.url(),
            "TUNIXRT_VAR_DIR": str(tmp_path / "var"),
            "TUNIXRT_BIND": address,
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        session = subprocess.run(
            [sys.executable, "manage.py", "shell", "--no-imports", "-c", LOG_IN_SOMEBODY],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        web = subprocess.Popen(
            [sys.executable, "manage.py", "web"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=20) as client:
                wait_for(client, 200, log)
                yield Site(database, client, session, log)
        finally:
            web.terminate()
            try:
                web.wait(timeout=20)
            except subprocess.TimeoutExpired:  # a server whose application cannot be loaded
                os.killpg(web.pid, signal.SIGKILL)
                web.wait()


def wait_for(client: httpx.Client, status: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if client.get("/healthz").status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"/healthz did not become {status}:\n{log.read_text()}")


def test_answers_are_503_while_the_database_is_away(site: Site):
    assert site.web.get("/api/tunix/runs").status_code == 200

    site.database.stop()

    for headers in ({}, {"Cookie": f"sessionid={site.session}"}, {"Authorization": "Token 0123456789"}):
        answer = site.web.get("/api/tunix/runs", headers=headers)
        assert (answer.status_code, answer.json()) == (503, {"detail": DATABASE_AWAY}), headers
        assert answer.headers["Retry-After"] == "5"
    written = site.web.post("/api/tunix/run", json={"dataset_key": "a", "model_id": "preset:tiny-llama"})
    assert (written.status_code, written.json()) == (503, {"detail": DATABASE_AWAY})
    for headers in ({}, {"Cookie": f"sessionid={site.session}"}):
        page = site.web.get("/", headers=headers)
        assert page.status_code == 503
        assert "The database is away" in page.text
        assert "Traceback" not in page.text
    assert site.web.get("/healthz").status_code == 503

    site.database.start()

    wait_for(site.web, 200, site.log)
    for _ in range(12):  # whichever thread answers, its connection is a new one
        assert site.web.get("/api/tunix/runs").status_code == 200
    assert site.web.get("/api/tunix/runs", headers={"Cookie": f"sessionid={site.session}"}).status_code == 200
