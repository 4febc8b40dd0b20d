"""What holds of every engine: a run trains once, and ends as its folder says.

The fake engines are bad ones (fake_engine.py). The local engine passes the same tests.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runs.execution import attending, engines
from runs.execution.attending import attend, cancel_run
from runs.execution.engine import Engine
from runs.execution.hosts import stop_taken_away
from runs.execution.launching import launch_pending
from runs.execution.local import LocalEngine
from runs.models import Host, Run
from runs.runfolder import files, names
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Submit
from runs.tests.execution.fake_engine import FAULTS, FakeEngine
from runs.tests.launching import wait_for

pytestmark = pytest.mark.django_db


@pytest.fixture
def use_fake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], FakeEngine]]:
    """``use_fake(fault)`` makes a fake engine execute all runs."""
    fakes: list[FakeEngine] = []
    # An engine that lies is found out at once.
    monkeypatch.setattr(attending, "JOB_START_SECONDS", 0.0)

    def use(fault: str) -> FakeEngine:
        fakes.append(FakeEngine(fault, tmp_path))
        monkeypatch.setitem(engines.ENGINES, "local", fakes[-1])
        return fakes[-1]

    yield use
    for fake in fakes:
        fake.close()


@pytest.fixture(params=["local", *FAULTS])
def engine(request: pytest.FixtureRequest, use_fake: Callable[[str], FakeEngine]) -> Engine:
    """Executes all runs: the local engine, or a fake one."""
    return LocalEngine() if request.param == "local" else use_fake(request.param)


def claimed(submit: Submit) -> Run:
    """A run that has been claimed and handed to its engine."""
    run = submit()
    assert launch_pending() == 1
    run.refresh_from_db()
    assert run.status == "running"
    return run


def let_jobs_start(engine: Engine) -> None:
    if isinstance(engine, FakeEngine):
        engine.go.touch()


def attend_until_ended(run: Run) -> Run:
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    return run


def starts(run: Run) -> int:
    """How often the training command was started."""
    return (run_folder(run) / names.STDOUT).read_text().count("started\n")


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (3, "failed")])
def test_a_run_trains_once_and_ends_as_its_program_did(
    engine: Engine, submit: Submit, scripted: Script, code: int, status: str
) -> None:
    scripted(["say", "started"], ["leave", code])
    run = claimed(submit)
    let_jobs_start(engine)

    attend_until_ended(run)

    assert (run.status, run.exit_code, starts(run)) == (status, code, 1)


def test_a_run_that_trains_is_cancelled_by_its_folder(
    engine: Engine, submit: Submit, scripted: Script
) -> None:
    scripted(["say", "started"], ["touch", "begun"], ["steps", 100_000, 0.01])
    run = claimed(submit)
    let_jobs_start(engine)
    wait_for(lambda: attend() and (run_folder(run) / "begun").exists(), "the training")

    cancel_run(run=run, by=run.owner)

    attend_until_ended(run)
    assert (run.status, starts(run)) == ("cancelled", 1)


def test_a_job_that_starts_after_its_run_was_cancelled_trains_nothing(
    use_fake: Callable[[str], FakeEngine], submit: Submit, scripted: Script
) -> None:
    scripted(["say", "started"])
    engine = use_fake("starts late")
    run = claimed(submit)
    cancel_run(run=run, by=run.owner)
    attend_until_ended(run)
    assert (run.status, engine.cancelled) == ("cancelled", [str(run.pk)])
    assert (files.read_json(run_folder(run) / names.EXIT) or {})["reason"] == "cancel"

    let_jobs_start(engine)
    for process in engine.processes:
        process.wait()

    assert not (run_folder(run) / names.STDOUT).exists()
    assert not (run_folder(run) / names.KEEPER).exists()


def test_a_run_that_the_engine_refuses_fails_with_its_reason(
    use_fake: Callable[[str], FakeEngine], submit: Submit, scripted: Script
) -> None:
    scripted(["say", "started"])
    engine = use_fake("none")
    engine.refusal = "no such queue: gpu"
    run = submit()

    launch_pending()

    run.refresh_from_db()
    assert run.status == "failed"
    assert run.message == "The run could not be started: no such queue: gpu"


def test_a_run_whose_host_was_deleted_is_adopted(
    engine: Engine, submit: Submit, scripted: Script
) -> None:
    scripted(["say", "started"], ["leave", 0])
    run = claimed(submit)
    Host.objects.all().delete()
    let_jobs_start(engine)

    stop_taken_away()
    attend_until_ended(run)

    assert (run.status, starts(run)) == ("completed", 1)
    assert run.host is not None
