"""The end of a container: where it follows from the attendant's end, its trainings save first;
elsewhere they go on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from django.conf import LazySettings
from honcho import manager

from runs.execution import stopping
from runs.execution.attendant import Attendant
from runs.execution.attending import attend
from runs.execution.launching import launch_pending
from runs.models import Run, RunEvent
from runs.runfolder import files, names
from runs.runfolder.processes import Process, descendants
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Start, Submit
from runs.tests.launching import wait_for
from runs.tests.ports import HeldPort
from runs.tests.programs import Program
from tunixrt import serve

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# As an init program in a container: one command, whose signals and end are its own.
INIT = """
import ctypes, os, signal, sys
child = os.fork()
if not child:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
ctypes.CDLL(None).prctl(15, b"some-init", 0, 0, 0)  # PR_SET_NAME
signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
while (ended := os.wait())[0] != child:
    pass
sys.exit(os.waitstatus_to_exitcode(ended[1]))
"""
ATTEND = ["manage.py", "attend", "--no-workers"]
SERVE = ["-m", "tunixrt.serve"]  # `make serve`


def namespaces_problem() -> str | None:
    try:
        tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare (util-linux)"
    return tried.stderr.strip() if tried.returncode else None


@pytest.fixture
def training(submit: Submit, scripted: Script) -> Run:
    """Queued; it trains until it is told to stop, then saves and says so."""
    scripted(["touch", "begun"], ["steps", 1_000_000, 0.01])
    return submit(auto_retry=1)


def begins(run: Run, attendant: Program) -> None:
    def begun() -> bool:
        assert attendant.process.poll() is None, attendant.said()
        return (run_folder(run) / "begun").exists()

    wait_for(begun, "the training")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("first", "code"),
    [(ATTEND, 0), (["-c", INIT, *ATTEND], 0), (SERVE, 143), (["-c", INIT, *SERVE], 143)],
    ids=["attendant", "unknown-init", "serve", "serve-of-unknown-init"],
)
def test_a_stopped_container_lets_its_trainings_save(
    training: Run, program: Start, port: HeldPort, first: list[str], code: int
):
    """The kernel kills all that is left in a PID namespace when its first process ends. 143: honcho
    says that SIGTERM stopped it."""
    if problem := namespaces_problem():
        pytest.skip(f"this process may not make a PID namespace: {problem}")
    container = program(*first, within=NAMESPACE, TUNIXRT_BIND=port.address)
    begins(training, container)
    (first_process,) = [
        process
        for process in descendants(container.process.pid)
        if process.parent == container.process.pid
    ]

    os.kill(first_process.pid, signal.SIGTERM)

    assert container.wait() == code, container.said()
    assert (run_folder(training) / "saved").exists()
    end = files.read_json(run_folder(training) / names.EXIT) or {}
    assert (end.get("reason"), end.get("exit_code")) == ("host stopped", 17)
    training.refresh_from_db()
    assert (training.status, training.exit_code) == ("failed", 17)
    assert training.message.startswith("Host stopped: its keeper got SIGTERM")
    assert training.retries.get().status == "pending"  # as after any loss
    assert RunEvent.objects.filter(run=training, new="failed").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_lock_that_is_given_back_after_its_keeper_has_gone_is_waited_for(
    submit: Submit, scripted: Script, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
):
    """The kernel takes a process's command line before it closes its files."""
    scripted(["leave", 0])
    run = submit()
    launch_pending()
    lock = wait_for(lambda: files.try_lock(run_folder(run) / names.LOCK), "the end")
    settings.TUNIX_STOP_WITH_ATTENDANT = True
    ending = Attendant(stop=lambda: True, with_workers=False)
    held = [lock]

    def sleep(seconds: float) -> None:
        if held:
            os.close(held.pop())

    monkeypatch.setattr(time, "sleep", sleep)
    ending._stop()

    run.refresh_from_db()
    assert (run.status, held) == ("completed", [])


@pytest.mark.parametrize("last", [True, False])
def test_serve_waits_as_long_as_its_attendant_does(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, last: bool
):
    """honcho killed the attendant, and the container's end the trainings, after five seconds."""
    monkeypatch.setattr(manager, "KILL_WAIT", manager.KILL_WAIT)
    settings.TUNIX_STOP_WITH_ATTENDANT = last
    settings.TUNIX_STOP_WAIT_SECONDS = 500.0

    serve._give_time_to_save()

    assert (stopping.seconds_to_stop() < manager.KILL_WAIT) is last


@pytest.mark.django_db(transaction=True)
def test_anywhere_else_the_trainings_go_on(training: Run, program: Start):
    attendant = program(*ATTEND)
    begins(training, attendant)

    attendant.process.send_signal(signal.SIGTERM)  # as `make serve` does on Ctrl-C

    assert attendant.wait() == 0, attendant.said()
    assert files.try_lock(run_folder(training) / names.LOCK) is None  # alive
    assert attend() == 1
    training.refresh_from_db()
    assert training.status == "running"


class TestWhoEndsWithTheAttendant:
    @pytest.fixture
    def place(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def put(
            *parents: int, pid: int = 7, first: str = "", namespace: str = "pid:[4026532000]"
        ) -> None:
            """``parents``: pids from the parent of this process on."""
            above = dict(pairwise(parents))
            monkeypatch.setattr(os, "getpid", lambda: pid)
            monkeypatch.setattr(os, "getppid", lambda: parents[0])
            monkeypatch.setattr(os, "readlink", lambda path: namespace)
            monkeypatch.setattr(
                stopping,
                "read_process",
                lambda number: Process(number, above[number], 0, 0) if number in above else None,
            )
            monkeypatch.setattr(
                stopping, "_process_name", lambda number: first if number == 1 else "sh"
            )

        return put

    def test_the_first_process_does(self, place: Callable[..., None]):
        place(0, pid=1)
        assert stopping.ends_with_attendant()

    @pytest.mark.parametrize(
        "first",
        ["tini", "docker-init", "dumb-init", "a-new-init", "bash", "s6-svscan", "python", ""],
    )
    @pytest.mark.parametrize("parents", [(1, 0), (5, 1, 0), (6, 5, 1, 0)])
    def test_what_a_first_process_of_any_name_started_does(
        self, place: Callable[..., None], first: str, parents: tuple[int, ...]
    ):
        place(*parents, first=first)
        assert stopping.ends_with_attendant()

    @pytest.mark.parametrize("init", sorted(stopping.SYSTEM_INITS))
    def test_what_the_init_of_a_system_started_does_not(
        self, place: Callable[..., None], init: str
    ):
        place(5, 1, 0, first=init)
        assert not stopping.ends_with_attendant()

    def test_a_command_from_outside_the_container_does_not(self, place: Callable[..., None]):
        """`docker exec`: its parent is in another namespace, which shows as 0."""
        place(5, 0, first="docker-init")
        assert not stopping.ends_with_attendant()
        place(0, first="pause")
        assert not stopping.ends_with_attendant()

    def test_one_whose_ancestors_cannot_be_seen_does(self, place: Callable[..., None]):
        place(5, first="docker-init")
        assert stopping.ends_with_attendant()

    def test_a_service_of_a_machine_does_not(self, place: Callable[..., None]):
        place(1, 0, first="dumb-init", namespace=stopping.INITIAL_NAMESPACE)
        assert not stopping.ends_with_attendant()

    @pytest.mark.parametrize("given", [True, False])
    def test_the_setting_decides(
        self, place: Callable[..., None], settings: LazySettings, given: bool
    ):
        place(5, 0, pid=1 if not given else 7)
        settings.TUNIX_STOP_WITH_ATTENDANT = given
        assert stopping.ends_with_attendant() is given
