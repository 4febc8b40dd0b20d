"""Several hosts: whose output root it is, who fell silent, who is lost, and what happens to their runs."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from runs import folder, services
from runs.attendant import beat
from runs.execution import hosts, launching
from runs.execution.hosts import Observer, root_problem, stop_taken_away, this_host
from runs.models import Host, Run, RunStatus
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for


@pytest.fixture
def elsewhere(db: None) -> Host:
    return Host.objects.create(name="elsewhere", heartbeat_at=timezone.now() - timedelta(hours=1))


@pytest.fixture
def theirs(submit: Submit, elsewhere: Host) -> Run:
    """A run that the other host says it executes; nothing of it is alive."""
    run = services.claim_run(run=submit(auto_retry=1), host=elsewhere, by="queue")
    services.run_folder(run).mkdir(parents=True)
    return run


def impatient(settings: LazySettings, *, silent: float = 0.0, lost: float = 1e9) -> None:
    settings.TUNIX_HOST_SILENT_SECONDS, settings.TUNIX_HOST_LOST_SECONDS = silent, lost


def test_a_silent_host_is_shown_and_its_runs_keep_their_status(theirs: Run, elsewhere: Host, settings: LazySettings) -> None:
    impatient(settings)
    observer = Observer()
    for _ in range(3):
        observer.observe()
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING
    said = [event.reason for event in theirs.events.all() if "not heard since" in event.reason]
    assert len(said) == 1
    elsewhere.refresh_from_db()
    assert elsewhere.silent_since == elsewhere.heartbeat_at


def test_its_own_beat_clears_the_mark(db: None) -> None:
    Host.objects.filter(pk=this_host().pk).update(silent_since=timezone.now())
    beat()
    host = Host.objects.get(pk=this_host().pk)
    assert host.silent_since is None
    assert timezone.now() - host.heartbeat_at < timedelta(minutes=1)


def test_a_host_that_beats_is_never_lost_whatever_its_clock_says(theirs: Run, elsewhere: Host, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    for minutes in range(3):  # an hour behind, but moving
        Host.objects.filter(pk=elsewhere.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=60 - minutes))
        observer.observe()
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_a_lost_host_fails_its_runs_and_the_asked_for_retry_follows(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    observer.observe()
    observer.observe()
    theirs.refresh_from_db()
    retry = theirs.retries.get()
    assert theirs.status == RunStatus.FAILED
    assert theirs.exit_code is None
    assert theirs.message.startswith("Host elsewhere was lost: nothing was heard of it for")
    assert theirs.message.endswith(f"Run {retry.run_id} tries again from scratch.")
    assert (retry.status, retry.attempt, retry.resume) == (RunStatus.PENDING, 2, False)


def test_automatic_retries_are_bounded(theirs: Run, elsewhere: Host, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    observer.observe()
    observer.observe()
    retry = theirs.retries.get()
    services.claim_run(run=retry, host=elsewhere, by="queue")
    observer.observe()
    observer.observe()
    retry.refresh_from_db()
    assert retry.status == RunStatus.FAILED
    assert not retry.retries.exists()


def test_the_database_being_away_starts_the_observation_anew(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    observer.observe()
    observer.broken()
    observer.observe()
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_a_lock_that_is_held_is_a_life(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    lock = folder.try_lock(services.run_folder(theirs) / folder.LOCK)
    assert lock is not None
    observer = Observer()
    observer.observe()
    observer.observe()
    os.close(lock)
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_an_end_on_the_shared_root_is_brought_home(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    end = folder.exit_record(run_id=str(theirs.run_id), reason="exit", message="", exit_code=0, duration_seconds=1.5)
    folder.write_json(services.run_folder(theirs) / folder.EXIT, end)
    observer = Observer()
    observer.observe()
    observer.observe()
    theirs.refresh_from_db()
    assert (theirs.status, theirs.exit_code, theirs.duration_seconds) == (RunStatus.COMPLETED, 0, 1.5)


def test_a_run_that_was_taken_away_has_its_keeper_stopped(submit: Submit, scripted: Script, user: User, elsewhere: Host) -> None:
    scripted(["steps", 10_000, 0.01])
    run = submit()
    assert launching.launch_pending() == 1
    run.refresh_from_db()
    path = services.run_folder(run)
    Run.objects.filter(pk=run.pk).update(host=elsewhere)  # as another host's judgement and retry would look from here

    stop_taken_away()
    assert (folder.read_json(path / folder.STOP) or {})["by"] == "attendant: the run was taken away from this host"
    wait_for((path / folder.EXIT).exists, "the keeper's end")
    lock = wait_for(lambda: folder.try_lock(path / folder.LOCK), "the lock")
    os.close(lock)
    stop_taken_away()
    assert not list((path.parent / ".hosts").glob("*.keepers/*"))


# --- the output root --------------------------------------------------------------------------------------------------


def forget_checks() -> None:
    hosts._root_checked.clear()


def test_the_first_host_marks_the_root(db: None, output_root: Path) -> None:
    forget_checks()
    assert root_problem() is None
    assert (output_root / ".hosts" / "root_id").is_file()
    forget_checks()
    assert root_problem() is None


def test_another_root_claims_nothing(
    submit: Submit, scripted: Script, output_root: Path, tmp_path: Path, settings: LazySettings, api: APIClient
) -> None:
    scripted(["say", "hello"])
    forget_checks()
    first = submit()
    assert launching.launch_pending() == 1
    waiting = submit()
    settings.TUNIX_OUTPUT_ROOT = tmp_path / "another"
    forget_checks()
    assert "is not this database's" in (root_problem() or "")
    assert launching.launch_pending() == 0
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.PENDING
    asked = first.config | {"output_dir": None}
    response = api.post("/api/tunix/run", asked, format="json")
    assert response.status_code == 409
    assert "is not this database's" in response.json()["detail"]
