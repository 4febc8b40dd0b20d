"""`manage.py attend` as a real process: it takes what is queued, one is enough, and it leaves
nothing behind."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.execution.attendant import Attendant
from runs.models import Host, Run, RunEvent
from runs.runfolder import files
from runs.services.reservations import run_folder
from runs.tests.conftest import Program, Script, Start
from runs.tests.launching import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("measured_programs")]
URL = "/api/tunix/run?mode=async"


@pytest.fixture
def queue(user: User, body: dict[str, Any]) -> Callable[..., Run]:
    client = APIClient(REMOTE_ADDR="192.0.2.1")
    client.force_authenticate(user)

    def post(**fields: Any) -> Run:
        response = client.post(URL, body | fields, format="json")
        assert response.status_code == 202, response.content
        assert response.json()["status"] == "pending"
        return Run.objects.get(pk=response.json()["run_id"])

    return post


def ended(run: Run) -> bool:
    run.refresh_from_db()
    return run.is_terminal


def attended(attendant: Program) -> bool:
    assert attendant.process.poll() is None, attendant.said()
    return "attending " in attendant.said()


def test_what_is_queued_is_done_and_stopping_leaves_no_process(
    queue, scripted: Script, program: Start
):
    scripted(["say", "trained"], ["steps", 3, 0.01])
    waiting = [queue(dry_run=False), queue()]
    attendant = program("manage.py", "attend")
    wait_for(lambda: attended(attendant), "the attendant")
    waiting.append(queue(dry_run=False))  # while it is there

    for run in waiting:
        wait_for(lambda: ended(run), "the end")  # noqa: B023
        assert run.status == "completed"
        assert [event.new for event in RunEvent.objects.filter(run=run).order_by("id")] == [
            "pending",
            "running",
            "completed",
        ]
    host = Host.objects.get()
    assert (host.runtime_version, host.slots) == ("1.0", 1)
    assert host.heartbeat_at is not None
    assert Host.objects.alive().get() == host
    wait_for(
        lambda: Host.objects.exclude(canary_at=None).exists(), "the task workers' sign of life"
    )
    assert len(attendant.family()) > 2  # its task workers

    attendant.process.send_signal(signal.SIGTERM)

    assert attendant.wait() == 0, attendant.said()
    wait_for(lambda: attendant.family() == [], "the end of its task workers")
    assert "Traceback" not in attendant.said()


def test_a_second_one_waits_and_takes_over_when_the_first_is_killed(
    queue, scripted: Script, program: Start
):
    """And the training outlives its attendant."""
    scripted(["touch", "begun"], ["wait", "go"], ["steps", 2, 0], ["say", "trained"])
    first = program("manage.py", "attend", "--no-workers")
    wait_for(lambda: attended(first), "the first one")
    second = program("manage.py", "attend", "--no-workers")
    wait_for(lambda: "another attendant looks after" in second.said(), "the second one")
    assert "attending " not in second.said()
    run = queue(dry_run=False)
    wait_for((run_folder(run) / "begun").exists, "the training")

    first.kill()
    (run_folder(run) / "go").touch()

    wait_for(lambda: ended(run), "the end")
    assert attended(second)
    assert (run.status, run.stdout, run.step) == ("completed", "trained\n", 2)
    assert RunEvent.objects.filter(run=run, new="running").count() == 1


def test_one_that_waits_can_be_stopped(
    output_root: Path, settings: LazySettings, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "tunixrt.attendant")
    (output_root / ".hosts").mkdir(parents=True)
    first = files.try_lock(output_root / ".hosts" / f"{settings.TUNIX_HOST_NAME}.attend")
    assert first is not None

    Attendant(stop=lambda: "another attendant looks after" in caplog.text, with_workers=False).run()

    os.close(first)
    assert "attending " not in caplog.text
    assert not Host.objects.exists()  # it never said that the host is there


def test_task_workers_that_a_killed_attendant_left_are_replaced(scripted: Script, program: Start):
    scripted()
    first = program("manage.py", "attend")
    wait_for(lambda: len(first.family()) > 2, "the task workers")
    first.process.kill()
    first.process.wait()
    assert first.family()  # they are still there

    second = program("manage.py", "attend")

    wait_for(lambda: first.family() == [], "the end of the old ones")
    wait_for(lambda: len(second.family()) > 2, "new task workers")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 0, second.said()
    wait_for(lambda: second.family() == [], "the end of the new ones")
