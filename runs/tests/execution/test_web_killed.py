"""A real server (`manage.py web`) is killed during a run in the request: the training goes on, and
its end comes home."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from datasets.models import Dataset
from runs.execution.attending import attend
from runs.models import Run, RunEvent
from runs.tests.conftest import Script, Start
from runs.tests.launching import PATIENCE, wait_for
from runs.tests.ports import HeldPort
from tunixrt.local_mode import local_user

NOBODY = 65534  # a user id that is not ours
pytestmark = pytest.mark.django_db(transaction=True)


class Server:
    def __init__(self, program: Start, port: HeldPort, **environment: str):
        local_user()
        self.program = program("manage.py", "web", TUNIXRT_BIND=port.address, **environment)
        self.client = httpx.Client(base_url=port.url, timeout=PATIENCE, trust_env=False)
        wait_for(self.answers, "the server")

    def answers(self) -> bool:
        assert self.program.process.poll() is None, self.program.said()
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def server(program: Start, port: HeldPort) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(**environment: str) -> Server:
        servers.append(Server(program, port, **environment))
        return servers[-1]

    yield serve
    for each in servers:
        each.client.close()


@pytest.fixture
def asked(dataset: Dataset) -> Callable[..., dict[str, Any]]:
    return lambda **fields: (
        {"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama", "dry_run": False}
        | fields
    )


def test_the_training_goes_on_and_its_end_arrives_in_the_row(
    server: Callable[..., Server],
    asked: Callable[..., dict[str, Any]],
    scripted: Script,
    output_root: Path,
):
    scripted(
        ["say", "begun"], ["touch", "begun"], ["wait", "go"], ["steps", 4, 0], ["say", "trained"]
    )
    site = server()
    heard: list[str] = []

    def post() -> None:
        try:
            heard.append(site.client.post("/api/tunix/run", json=asked(output_dir="mine")).text)
        except httpx.TransportError as error:
            heard.append(type(error).__name__)

    client = threading.Thread(target=post)
    client.start()
    wait_for((output_root / "mine" / "begun").exists, "the training")
    run = Run.objects.get()
    assert run.status == "running"

    site.program.kill()

    client.join(PATIENCE)
    assert heard[0].endswith("Error")
    assert not (output_root / "mine" / "exit.json").exists()  # it goes on
    assert attend() == 1
    run.refresh_from_db()
    assert run.status == "running"
    (output_root / "mine" / "go").touch()
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    assert (run.status, run.exit_code, run.stdout) == ("completed", 0, "begun\ntrained\n")
    assert (run.step, run.last_loss) == (4, 1 / 4)
    assert [event.new for event in RunEvent.objects.filter(run=run).order_by("id")] == [
        "pending",
        "running",
        "completed",
    ]

    scripted()
    site = server()  # back again: it shows the end, and has a slot for the next one
    assert site.client.get(f"/api/tunix/runs/{run.pk}").json()["stdout"] == "begun\ntrained\n"
    assert site.client.post("/api/tunix/run", json=asked()).json()["status"] == "completed"


def test_a_real_server_keeps_the_contract(
    server: Callable[..., Server],
    asked: Callable[..., dict[str, Any]],
    scripted: Script,
    output_root: Path,
):
    scripted(["touch", "begun"], ["wait", "go"])
    site = server()

    with pytest.raises(httpx.ReadTimeout):  # a client that goes away does not end the training
        site.client.post(
            "/api/tunix/run",
            json=asked(output_dir="mine"),
            timeout=httpx.Timeout(PATIENCE, read=0.3),
        )
    wait_for((output_root / "mine" / "begun").exists, "the training")
    (output_root / "mine" / "go").touch()
    wait_for(
        lambda: Run.objects.filter(status="completed").exists(),
        "the end that the server brought home",
    )

    large = b'{"notes": "' + b"x" * 10_000_000 + b'"}'
    json = {"Content-Type": "application/json"}
    for method, path, sent, expected in [
        ("POST", "/api/tunix/run", {"json": asked(dry_run=True)}, 202),
        ("POST", "/api/tunix/run", {"json": asked(num_epochs=0)}, 400),
        ("POST", "/api/tunix/run", {"content": b"{", "headers": json}, 400),
        ("POST", "/api/tunix/run", {"json": asked(dataset_key="no")}, 404),
        ("GET", "/api/tunix/run", {}, 405),
        ("POST", "/api/tunix/run", {"content": large, "headers": json}, 413),
        ("POST", "/api/tunix/run", {"data": {"dataset_key": "sums-v1"}}, 415),
        ("GET", "/api/tunix/runs?limit=101", {}, 422),
        ("GET", "/api/tunix/runs/abc", {}, 422),
        ("GET", "/api/tunix/runs/", {}, 404),
        ("POST", "/api/tunix/run/", {"json": asked()}, 404),
        ("GET", "/api/tunix/status", {}, 200),
    ]:
        response = site.client.request(method, path, **sent)
        assert response.status_code == expected, (method, path, response.text[:200])
        assert response.status_code < 400 or response.json()["detail"]
        assert "Traceback" not in response.text


def test_too_many_requests_are_429_with_the_time_to_wait(server: Callable[..., Server]):
    site = server(TUNIXRT_API_RATE="2/min")

    answers = [site.client.get("/api/tunix/status") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["detail"].startswith("Request was throttled. Expected available in ")
    assert 0 < int(answers[2].headers["Retry-After"]) <= 60


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another account")
def test_another_account_of_this_machine_is_refused_by_a_real_server(server: Callable[..., Server]):
    site = server()
    assert site.client.get("/api/tunix/runs").status_code == 200
    address = (site.client.base_url.host, site.client.base_url.port)

    os.seteuid(NOBODY)
    try:
        connection = socket.create_connection(address)
    finally:
        os.seteuid(0)
    with connection:
        connection.sendall(
            b"GET /api/tunix/runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"TUNIXRT_LOCAL_MODE=false" in answer
