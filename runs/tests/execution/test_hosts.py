"""Several hosts: whose output root it is, who fell silent, who is lost, and what happens to their
runs."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from runs.execution import launching
from runs.execution.attendant import beat
from runs.execution.hosts import Observer, stop_taken_away, this_host
from runs.execution.local import keepers_folder
from runs.models import Host, Run, RunStatus
from runs.runfolder import files, names, records
from runs.services import claiming, reservations
from runs.services.output_root import root_problem
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for


@pytest.fixture
def elsewhere(db: None) -> Host:
    return Host.objects.create(name="elsewhere", heartbeat_at=timezone.now() - timedelta(hours=1))


@pytest.fixture
def theirs(submit: Submit, elsewhere: Host) -> Run:
    """A run that the other host says it executes; nothing of it is alive."""
    assert root_problem() is None
    run = claiming.claim_run(run=submit(auto_retry=1), host=elsewhere, by="queue")
    reservations.run_folder(run).mkdir(parents=True)
    return run


def impatient(settings: LazySettings, *, silent: float = 0.0, lost: float = 1e9) -> None:
    settings.TUNIX_HOST_SILENT_SECONDS, settings.TUNIX_HOST_LOST_SECONDS = silent, lost


def test_a_silent_host_is_shown_and_its_runs_keep_their_status(
    theirs: Run, elsewhere: Host, settings: LazySettings
) -> None:
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


def test_a_host_that_beats_is_never_lost_whatever_its_clock_says(
    theirs: Run, elsewhere: Host, settings: LazySettings
) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    for minutes in range(3):  # an hour behind, but moving
        Host.objects.filter(pk=elsewhere.pk).update(
            heartbeat_at=timezone.now() - timedelta(minutes=60 - minutes)
        )
        observer.observe()
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_a_lost_host_fails_its_runs_and_the_asked_for_retry_follows(
    theirs: Run, settings: LazySettings
) -> None:
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


def test_automatic_retries_are_bounded(
    theirs: Run, elsewhere: Host, settings: LazySettings
) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    observer.observe()
    observer.observe()
    retry = theirs.retries.get()
    claiming.claim_run(run=retry, host=elsewhere, by="queue")
    observer.observe()
    observer.observe()
    retry.refresh_from_db()
    assert retry.status == RunStatus.FAILED
    assert not retry.retries.exists()


def test_the_database_being_away_starts_the_observation_anew(
    theirs: Run, settings: LazySettings
) -> None:
    impatient(settings, lost=0.0)
    observer = Observer()
    observer.observe()
    observer.broken()
    observer.observe()
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_a_lock_that_is_held_is_a_life(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    lock = files.try_lock(reservations.run_folder(theirs) / names.LOCK)
    assert lock is not None
    observer = Observer()
    observer.observe()
    observer.observe()
    os.close(lock)
    theirs.refresh_from_db()
    assert theirs.status == RunStatus.RUNNING


def test_an_end_on_the_shared_root_is_brought_home(theirs: Run, settings: LazySettings) -> None:
    impatient(settings, lost=0.0)
    end = records.exit_record(
        run_id=str(theirs.run_id), reason="exit", message="", exit_code=0, duration_seconds=1.5
    )
    files.write_json(reservations.run_folder(theirs) / names.EXIT, end)
    observer = Observer()
    observer.observe()
    observer.observe()
    theirs.refresh_from_db()
    assert (theirs.status, theirs.exit_code, theirs.duration_seconds) == (
        RunStatus.COMPLETED,
        0,
        1.5,
    )


def test_a_run_that_was_taken_away_has_its_keeper_stopped(
    submit: Submit, scripted: Script, user: User, elsewhere: Host
) -> None:
    scripted(["steps", 100_000, 0.01])
    run = submit()
    assert launching.launch_pending() == 1
    run.refresh_from_db()
    path = reservations.run_folder(run)
    # as another host's judgement and retry would look from here
    Run.objects.filter(pk=run.pk).update(host=elsewhere)

    stop_taken_away()
    assert (files.read_json(path / names.STOP) or {})[
        "by"
    ] == "attendant: the run was taken away from this host"
    wait_for((path / names.EXIT).exists, "the keeper's end")
    lock = wait_for(lambda: files.try_lock(path / names.LOCK), "the lock")
    os.close(lock)
    stop_taken_away()
    assert not list((path.parent / ".hosts").glob("*.keepers/*"))


def note_keeper(run: Run) -> None:
    """As the local engine notes it before it starts a keeper."""
    (keepers_folder() / str(run.pk)).write_text(str(reservations.run_folder(run)))


def test_a_stop_that_came_after_the_end_is_taken_back(theirs: Run) -> None:
    """A run that is taken away may end while it is told to stop; its folder would tell of a stop
    that nobody obeyed."""
    path = reservations.run_folder(theirs)
    note_keeper(theirs)
    files.write_json(
        path / names.EXIT,
        records.exit_record(run_id=str(theirs.run_id), reason="exit", message="", exit_code=0),
    )
    records.request_stop(path, "cancel", "attendant: the run was taken away from this host")

    stop_taken_away()

    assert not (path / names.STOP).exists()
    assert not list((path.parent / ".hosts").glob("*.keepers/*"))


def test_a_stop_that_came_before_the_end_stays(theirs: Run) -> None:
    path = reservations.run_folder(theirs)
    note_keeper(theirs)
    records.request_stop(path, "cancel", "somebody")
    files.write_json(
        path / names.EXIT,
        records.exit_record(run_id=str(theirs.run_id), reason="cancel", message="", exit_code=17),
    )

    stop_taken_away()

    assert (path / names.STOP).exists()


def test_the_next_run_in_the_folder_is_not_stopped(submit: Submit, scripted: Script) -> None:
    """The note of a run that was deleted meanwhile still names the folder."""
    scripted(["steps", 100_000, 0.01])
    run = submit(output_dir="shared")
    assert launching.launch_pending() == 1
    notes = keepers_folder()
    (notes / "00000000-0000-4000-8000-000000000000").write_text(str(reservations.run_folder(run)))

    stop_taken_away()

    assert not (reservations.run_folder(run) / names.STOP).exists()


def test_a_host_that_was_deleted_is_made_anew_and_keeps_its_runs(
    submit: Submit, scripted: Script
) -> None:
    scripted(["steps", 100_000, 0.01])
    run = submit()
    assert launching.launch_pending() == 1
    Host.objects.all().delete()

    stop_taken_away()

    run.refresh_from_db()
    assert not (reservations.run_folder(run) / names.STOP).exists()
    assert (run.status, run.host) == (RunStatus.RUNNING, this_host())


def test_a_run_without_host_and_keeper_finds_a_host(theirs: Run, elsewhere: Host) -> None:
    elsewhere.delete()
    held = files.try_lock(reservations.run_folder(theirs) / names.LOCK)
    assert held is not None

    stop_taken_away()
    theirs.refresh_from_db()
    assert theirs.host is None  # somebody's keeper holds the lock: its host takes it

    os.close(held)
    stop_taken_away()
    theirs.refresh_from_db()
    assert theirs.host == this_host()


def test_a_deleted_host_goes_on_claiming(submit: Submit, scripted: Script) -> None:
    scripted(["say", "hello"])
    this_host()
    Host.objects.all().delete()
    submit()

    assert launching.launch_pending() == 1


# --- the output root ------------------------------------------------------------------------------


def test_the_first_host_marks_the_root(db: None, output_root: Path) -> None:
    assert root_problem() is None
    assert (output_root / ".hosts" / "root_id").is_file()
    assert root_problem() is None


def test_another_root_claims_nothing(
    submit: Submit,
    scripted: Script,
    output_root: Path,
    tmp_path: Path,
    settings: LazySettings,
    api: APIClient,
) -> None:
    scripted(["say", "hello"])
    first = submit()
    assert launching.launch_pending() == 1
    waiting = submit()
    settings.TUNIX_OUTPUT_ROOT = tmp_path / "another"
    assert "is not this database's" in (root_problem() or "")
    assert launching.launch_pending() == 0
    waiting.refresh_from_db()
    assert waiting.status == RunStatus.PENDING
    asked = first.config | {"output_dir": None}
    response = api.post("/api/tunix/run", asked, format="json")
    assert response.status_code == 409
    assert "is not this database's" in response.json()["detail"]
