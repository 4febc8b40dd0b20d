"""A real server whose real database goes away and comes back: 503 meanwhile, no stack trace, no
restart needed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from runs.tests.launching import PATIENCE, wait_for
from runs.tests.ports import HeldPort
from tunixrt.refusals import DatabaseAway
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


@pytest.fixture
def site(tmp_path: Path, port: HeldPort) -> Iterator[Site]:
    log = tmp_path / "web.log"
    with postgres_server() as database, log.open("wb") as output:
        environment = os.environ | {
            "DATABASE_URL": database.url(),
            "TUNIXRT_VAR_DIR": str(tmp_path / "var"),
            "TUNIXRT_BIND": port.address,
        }
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
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
            with httpx.Client(base_url=port.url, timeout=PATIENCE) as client:
                wait_for(lambda: is_up(client, web, log), "the server")
                yield Site(database, client, session)
        finally:
            web.terminate()
            try:
                web.wait(PATIENCE)
            except subprocess.TimeoutExpired:  # a server whose application cannot be loaded
                os.killpg(web.pid, signal.SIGKILL)
                web.wait()


def is_up(client: httpx.Client, web: subprocess.Popen[bytes], log: Path) -> bool:
    assert web.poll() is None, log.read_text()
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_answers_are_503_while_the_database_is_away(site: Site):
    assert site.web.get("/api/tunix/runs").status_code == 200

    site.database.stop()

    for headers in (
        {},
        {"Cookie": f"sessionid={site.session}"},
        {"Authorization": "Token 0123456789"},
    ):
        answer = site.web.get("/api/tunix/runs", headers=headers)
        assert (answer.status_code, answer.json()) == (503, {"detail": DatabaseAway().detail}), (
            headers
        )
        assert answer.headers["Retry-After"] == "5"
    written = site.web.post(
        "/api/tunix/run", json={"dataset_key": "a", "model_id": "preset:tiny-llama"}
    )
    assert (written.status_code, written.json()) == (503, {"detail": DatabaseAway().detail})
    for headers in ({}, {"Cookie": f"sessionid={site.session}"}):
        page = site.web.get("/", headers=headers)
        assert page.status_code == 503
        assert "The database is away" in page.text
        assert "Traceback" not in page.text
    assert site.web.get("/healthz").status_code == 503

    site.database.start()

    wait_for(lambda: site.web.get("/healthz").status_code == 200, "the database again")
    for _ in range(12):  # whichever thread answers, its connection is a new one
        assert site.web.get("/api/tunix/runs").status_code == 200
    assert (
        site.web.get("/api/tunix/runs", headers={"Cookie": f"sessionid={site.session}"}).status_code
        == 200
    )
