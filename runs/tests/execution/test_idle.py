"""An idle system: the attendant sleeps until it is woken, and resident processes hold what they
need and no more."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, transaction

from runs.execution import attendant, launching
from runs.execution import workers as task_workers
from runs.execution.attendant import Attendant
from runs.execution.workers import Workers
from runs.runfolder import files
from runs.services.output_root import root_problem
from runs.services.reservations import run_folder
from runs.services.wakeup import CHANNEL, WakeUp, hosts_folder, wake_attendant, wake_attendants
from runs.tests.conftest import ROOT, Script, Submit
from runs.tests.launching import wait_for

FOR_EVER = 3600.0  # a wait that is not woken hangs, and the test's time limit ends it


@pytest.fixture
def wake_up(output_root: Path, transactional_db: None) -> Iterator[WakeUp]:
    """The attendant's end, in the middle of its waiting: it listens, and nothing has come."""
    root_problem()  # makes the folder
    found = WakeUp()
    while found.wait(0):
        pass
    yield found
    found.close()


# --- waking up ------------------------------------------------------------------------------------


def test_a_queued_run_wakes_the_attendant(wake_up: WakeUp, submit: Submit):
    submit()

    assert wake_up.wait(FOR_EVER)


def test_a_start_by_somebody_else_wakes_the_attendant(wake_up: WakeUp, submit: Submit):
    """A request or a task worker has started the training; its attendant looks four times a second
    from now on."""
    submit()
    while wake_up.wait(0):
        pass

    assert launching.launch_pending() == 1

    assert wake_up.wait(FOR_EVER)


def test_nobody_is_woken_for_a_transaction_that_was_rolled_back(wake_up: WakeUp):
    with transaction.atomic():
        wake_attendants()
        transaction.set_rollback(True)

    assert not wake_up.wait(0)


@pytest.mark.parametrize("in_a_query", [False, True])
def test_a_notification_wakes_the_attendants_of_other_hosts(wake_up: WakeUp, in_a_query: bool):
    """Their pipes are out of reach. One that comes while the attendant asks something else is not
    lost."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one host")
    elsewhere = connection.copy()
    try:
        with elsewhere.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
        if in_a_query:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

        assert wake_up.wait(FOR_EVER)
    finally:
        elsewhere.close()
    assert not wake_up.wait(0)


def test_a_new_connection_looks_once_more(wake_up: WakeUp):
    """What was said while nobody listened was not heard."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no notifications")
    connection.close()

    assert wake_up.wait(FOR_EVER)
    assert not wake_up.wait(0)


def test_a_signal_ends_the_attendants_sleep(
    output_root: Path, transactional_db: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attendant, "BEAT_SECONDS", FOR_EVER)
    wait = WakeUp.wait

    def told_to_stop(self: WakeUp, seconds: float) -> bool:
        if seconds == FOR_EVER:
            os.kill(os.getpid(), signal.SIGTERM)
        return wait(self, seconds)

    monkeypatch.setattr(WakeUp, "wait", told_to_stop)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        call_command("attend", "--no-workers")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.django_db(transaction=True)
def test_rounds_are_short_only_while_something_executes(submit: Submit, scripted: Script):
    scripted(["wait", "go"])
    attending = Attendant(stop=lambda: True, with_workers=False)
    assert not attending.tick()
    run = submit()

    assert attending.tick()

    (run_folder(run) / "go").touch()
    wait_for(lambda: not attending.tick() or None, "the end of the run")


def test_waking_never_waits(output_root: Path, db: None):
    """Without an attendant, and with one that reads nothing."""
    wake_attendant()
    root_problem()
    found = WakeUp()
    for _ in range(70_000):  # more than a pipe holds
        wake_attendant()
    found.close()


# --- task workers ---------------------------------------------------------------------------------


@pytest.fixture
def workers(output_root: Path, transactional_db: None) -> Iterator[Workers]:
    root_problem()
    made = Workers()
    yield made
    made.stop()
    assert made.processes() == []


def test_a_killed_worker_is_replaced_and_the_others_stay(workers: Workers):
    workers.keep()
    first, second = sorted(process.pid for process in workers.processes())
    os.kill(first, signal.SIGKILL)

    def two_again() -> set[int] | None:
        # as the attendant does at each beat; the killed one may still be on its way out at the
        # first
        workers.keep()
        now = {process.pid for process in workers.processes()} - {first}
        return now if len(now) == 2 else None

    now = wait_for(two_again, "the new worker")

    assert second in now


def test_silent_workers_are_replaced(workers: Workers, monkeypatch: pytest.MonkeyPatch):
    workers.keep()
    before = {process.pid for process in workers.processes()}
    monkeypatch.setattr(workers, "_silent", lambda: True)

    workers.keep()

    after = {process.pid for process in workers.processes()}
    assert len(after) == 2
    assert not before & after


def test_a_worker_does_not_hold_the_attendants_lock(workers: Workers):
    """It outlives the attendant, and the next one would wait for it for ever."""
    path = hosts_folder() / "the.lock"
    lock = files.try_lock(path)
    assert lock is not None
    workers.keep()
    os.close(lock)  # as by the end of the attendant

    taken = wait_for(lambda: files.try_lock(path), "the lock")

    os.close(taken)


def test_a_worker_has_a_session_of_its_own_and_a_name(workers: Workers):
    workers.keep()
    for process in workers.processes():
        place = Path(f"/proc/{process.pid}/comm")
        wait_for(lambda: place.read_text() == f"{task_workers.NAME}\n", "its name")  # noqa: B023
        assert os.getsid(process.pid) == process.pid


OVERRUNNING = """
import time
from runs.execution import workers as task_workers
task_workers.OVERRUN_SECONDS = 0.0
timer = task_workers.Timer()
timer.value = 60
timer.value = timer.IDLE  # this one came to its end
def sleeping_task():
    timer.value = 0.001  # here: it is over at once
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
sleeping_task()
"""


def test_a_task_that_ignores_its_time_limit_ends_its_worker_and_is_named():
    program = f"import django; django.setup()\n{OVERRUNNING}"

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "sleeping_task" in ended.stderr


# --- memory ---------------------------------------------------------------------------------------

ATTENDANT = """
import sys
import django
django.setup()
from runs.management.commands.attend import Command
command = Command()
command.check(tags=command.requires_system_checks)
print(*sorted(sys.modules))
"""


def modules_loaded_by(program: str) -> set[str]:
    """Return what a program prints: the names of its modules."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_attendant_loads_nothing_that_only_pages_need():
    loaded = modules_loaded_by(ATTENDANT)

    assert {"runs.execution.attendant", "django_q.worker"} <= loaded
    of_pages = {"pycurl", "requests", "rest_framework.views", "tunixrt.urls", "numpy", "jax"}
    assert not (of_pages | {"rest_framework.renderers"}) & loaded


def test_the_web_server_loads_no_library_that_it_does_not_use():
    program = (
        "import sys, tunixrt.rsgi, tunixrt.urls\n"  # the routes are loaded by the first request
        "print(*sorted(name for name, module in sys.modules.items() if module))"
    )

    loaded = modules_loaded_by(program)

    assert {"rest_framework.views", "runs.api.views"} <= loaded
    unused = {
        "requests",
        "pygments",
        "django.contrib.postgres.fields",
        "numpy",
        "jax",
        "transformers",
    }
    assert not (unused | ({"psycopg"} if connection.vendor == "sqlite" else set())) & loaded


def test_the_attendant_checks_its_settings(settings: LazySettings):
    settings.TUNIX_SLOTS = -1

    with pytest.raises(SystemCheckError, match=r"tunixrt\.E006"):
        call_command("attend", "--no-workers", skip_checks=False)
