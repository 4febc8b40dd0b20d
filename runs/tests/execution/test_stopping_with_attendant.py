"""The end of a container: where it follows from the attendant's end, its trainings save first;
elsewhere they go on."""

import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from django.conf import LazySettings

from runs.execution import stopping
from runs.execution.attending import attend
from runs.models import Run, RunEvent
from runs.runfolder import files, names
from runs.runfolder.processes import descendants
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Start, Submit
from runs.tests.launching import wait_for
from runs.tests.programs import Program

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# As an init program in a container: one command, whose signals and end are its own. Its name is
# what tells it.
INIT = """
import ctypes, os, signal, sys
child = os.fork()
if not child:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
ctypes.CDLL(None).prctl(15, b"tini", 0, 0, 0)  # PR_SET_NAME
signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
while (ended := os.wait())[0] != child:
    pass
sys.exit(os.waitstatus_to_exitcode(ended[1]))
"""
ATTEND = ["manage.py", "attend", "--no-workers"]


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
@pytest.mark.parametrize("first", [ATTEND, ["-c", INIT, *ATTEND]], ids=["attendant", "init"])
def test_a_stopped_container_lets_its_trainings_save(
    training: Run, program: Start, first: list[str]
):
    """The kernel kills all that is left in a PID namespace when its first process ends."""
    if problem := namespaces_problem():
        pytest.skip(f"this process may not make a PID namespace: {problem}")
    container = program(*first, within=NAMESPACE)
    begins(training, container)
    (first_process,) = [
        process
        for process in descendants(container.process.pid)
        if process.parent == container.process.pid
    ]

    os.kill(first_process.pid, signal.SIGTERM)

    assert container.wait() == 0, container.said()
    assert (run_folder(training) / "saved").exists()
    end = files.read_json(run_folder(training) / names.EXIT) or {}
    assert (end.get("reason"), end.get("exit_code")) == ("host stopped", 17)
    training.refresh_from_db()
    assert (training.status, training.exit_code) == ("failed", 17)
    assert training.message.startswith("Host stopped: its keeper got SIGTERM")
    assert training.retries.get().status == "pending"  # as after any loss
    assert RunEvent.objects.filter(run=training, new="failed").count() == 1


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
            *, pid: int, parent: int, first: str = "", namespace: str = "pid:[4026532000]"
        ) -> None:
            monkeypatch.setattr(os, "getpid", lambda: pid)
            monkeypatch.setattr(os, "getppid", lambda: parent)
            monkeypatch.setattr(os, "readlink", lambda path: namespace)
            monkeypatch.setattr(
                stopping, "_process_name", lambda number: first if number == 1 else "sh"
            )

        return put

    def test_the_first_process_does(self, place: Callable[..., None]):
        place(pid=1, parent=0)
        assert stopping.ends_with_attendant()

    @pytest.mark.parametrize(
        "init", ["tini", "docker-init", "podman-init", "catatonit", "dumb-init"]
    )
    def test_the_only_command_of_an_init_does(self, place: Callable[..., None], init: str):
        place(pid=7, parent=1, first=init)
        assert stopping.ends_with_attendant()

    @pytest.mark.parametrize("manager", ["systemd", "supervisord", "s6-svscan", "init", "bash"])
    def test_the_service_of_a_process_manager_does_not(
        self, place: Callable[..., None], manager: str
    ):
        place(pid=7, parent=1, first=manager)
        assert not stopping.ends_with_attendant()

    def test_a_command_from_a_shell_does_not(self, place: Callable[..., None]):
        place(pid=7, parent=5, first="docker-init")
        assert not stopping.ends_with_attendant()

    def test_a_service_of_a_machine_does_not(self, place: Callable[..., None]):
        place(pid=7, parent=1, first="dumb-init", namespace=stopping.INITIAL_NAMESPACE)
        assert not stopping.ends_with_attendant()

    @pytest.mark.parametrize("given", [True, False])
    def test_the_setting_decides(
        self, place: Callable[..., None], settings: LazySettings, given: bool
    ):
        place(pid=1 if not given else 7, parent=5)
        settings.TUNIX_STOP_WITH_ATTENDANT = given
        assert stopping.ends_with_attendant() is given
