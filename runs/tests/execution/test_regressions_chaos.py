"""What the chaos harness (benchmarks/chaos) and the thinking about it have found: one test each, so
that it stays mended."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.models import OrmQ
from rest_framework.test import APIClient

from runs.execution import launching
from runs.execution.attendant import Attendant
from runs.execution.attending import attend, attend_run
from runs.execution.dry_run import answer_dry_runs
from runs.execution.hosts import Observer, stop_taken_away, this_host
from runs.execution.workers import Workers
from runs.models import TERMINAL, Host, Run, RunQuerySet
from runs.runfolder import files, names, records
from runs.runfolder.processes import live_processes, processes_of_run
from runs.services import output_root
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_dry_runs, claim_run
from runs.services.deletion import purge_run, trash_run
from runs.services.finishing import finish_failed, finish_run
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
from runs.services.wakeup import hosts_folder
from runs.tasks import canary
from runs.tests.conftest import Script, Submit
from runs.tests.launching import Hold, wait_for
from runs.tests.leftovers import leave_checkpoints_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def elsewhere(db: None) -> Host:
    return Host.objects.create(name="elsewhere", heartbeat_at=timezone.now() - timedelta(hours=1))


def ended(run: Run) -> bool:
    attend()
    run.refresh_from_db()
    return run.status in TERMINAL


@pytest.mark.django_db(transaction=True)
def test_a_claim_that_cannot_be_committed_leaves_no_lock(
    submit: Submit, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher kept the lock, which passed for a living keeper: the run waited for ever."""
    scripted(["say", "hello"])
    run = submit()

    def away() -> None:
        raise OperationalError("the database went away at the commit")

    with monkeypatch.context() as broken:
        broken.setattr(connection, "_commit", away)
        with pytest.raises(OperationalError):
            launching.launch_pending()
    connection.close()

    assert launching.launch_pending() == 1
    wait_for(lambda: ended(run), "the end")
    assert run.status == "completed"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("moment", ["os.fork 1", "os.link keeper.json"])
def test_a_run_whose_keeper_was_killed_at_its_start_goes_by_lock_and_files(
    submit: Submit, scripted: Script, hold: Callable[[str], Hold], moment: str
) -> None:
    """The first process of the keeper is killed, before or after it handed the run over. The row
    said failed either way."""
    scripted(["say", "hello"])
    run = submit()
    held = hold(moment)

    def kill_the_first() -> None:
        held.wait()
        (first,) = (
            each.pid
            for each in live_processes()
            if each.parent == os.getpid() and held.started(each.pid)
        )
        os.kill(first, signal.SIGKILL)

    with ThreadPoolExecutor(1) as aside:
        killed = aside.submit(kill_the_first)
        assert launching.launch_pending() == 1
        killed.result()
    held.release()

    wait_for(lambda: ended(run), "the end")

    assert run.status == "completed"
    assert (run_folder(run) / names.STDOUT).read_text() == "hello\n"


def test_a_run_that_failed_meanwhile_is_not_started(submit: Submit, scripted: Script) -> None:
    """The attendant had read the row before the launcher ended it, and found no keeper.json."""
    scripted(["say", "hello"])
    run = claim_run(run=submit(), host=this_host(), by="test")
    stale = Run.objects.get(pk=run.pk)
    finish_failed(run=run, problems=["It could not be started."], by="test")

    attend_run(stale)

    assert not (run_folder(run) / names.KEEPER).exists()


@pytest.fixture
def refusing(db: None) -> str:
    """A message that the database refuses to store: any trouble of one row will do."""
    word = "unspeakable"
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON tunix_runs WHEN NEW.stdout LIKE"
                " '%unspeakable%' BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        else:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused'; END $$"
                " LANGUAGE plpgsql;CREATE TRIGGER refuse BEFORE UPDATE ON tunix_runs FOR EACH ROW"
                " WHEN (NEW.stdout LIKE '%unspeakable%') EXECUTE FUNCTION refuse()"
            )
    return word


def test_an_end_that_the_database_refuses_does_not_keep_the_others_waiting(
    refusing: str, submit: Submit, scripted: Script, settings: LazySettings
) -> None:
    """Any database error of one run ended the round, so nothing of this host came home any more."""
    settings.TUNIX_SLOTS = 2
    scripted(["say", refusing])
    first = submit()
    assert launching.launch_pending() == 1
    wait_for((run_folder(first) / names.EXIT).exists, "the end of the one that is refused")
    scripted(["say", "hello"])
    second = submit()
    assert launching.launch_pending() == 1

    wait_for(lambda: ended(second), "the end of the other one")

    assert second.status == "completed"
    first.refresh_from_db()
    assert first.status == "running"


@pytest.mark.django_db(transaction=True)
def test_trouble_with_launching_does_not_keep_news_and_heartbeat_back(
    submit: Submit, scripted: Script, settings: LazySettings
) -> None:
    """Launching, attending and beating were one block: what broke the first was the end of the
    other two."""
    settings.TUNIX_SLOTS = 2
    scripted(["say", "hello"])
    first = submit()
    assert launching.launch_pending() == 1
    submit()
    place = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.launch"
    place.unlink()
    place.mkdir()
    attendant = Attendant(stop=lambda: True, with_workers=False)

    def home() -> bool:
        attendant.tick()
        first.refresh_from_db()
        return first.status in TERMINAL

    wait_for(home, "the end")

    assert first.status == "completed"
    assert Host.objects.get(pk=this_host().pk).heartbeat_at is not None


def test_one_cancelled_dry_run_does_not_keep_its_batch_waiting(submit: Submit, user: User) -> None:
    """The whole batch was refused and waited 10 s for the attendant."""
    runs = [submit(dry_run=True) for _ in range(3)]
    batch = claim_dry_runs(host=this_host(), limit=3, by="queue")
    request_cancel(run=Run.objects.get(pk=runs[1].pk), by=user)

    answer_dry_runs(batch, by="queue")

    assert set(Run.objects.values_list("status", flat=True)) == {"completed"}


def test_a_dry_run_of_a_host_that_went_away_is_answered_by_another(
    submit: Submit, elsewhere: Host
) -> None:
    """It waited until its own host came back, or was failed as lost though nothing had to run."""
    run = claim_run(run=submit(dry_run=True), host=elsewhere, by="queue")
    Run.objects.update(started_at=timezone.now() - timedelta(seconds=11))

    attend()

    run.refresh_from_db()
    assert (run.status, run.exit_code) == ("completed", 0)


def test_a_run_of_a_lost_host_keeps_its_output(
    submit: Submit, elsewhere: Host, settings: LazySettings
) -> None:
    """The shared root has the log; the row stayed empty."""
    run = claim_run(run=submit(), host=elsewhere, by="queue")
    folder = run_folder(run)
    folder.mkdir(parents=True)
    (folder / names.STDOUT).write_text("step 1\n")
    settings.TUNIX_HOST_SILENT_SECONDS, settings.TUNIX_HOST_LOST_SECONDS = 0.0, 0.0
    observer = Observer()
    observer.observe()
    observer.observe()

    run.refresh_from_db()
    assert (run.status, run.stdout) == ("failed", "step 1\n")
    end = files.read_json(folder / names.EXIT)
    assert end is not None
    assert end["reason"] == "lost"
    assert run.message == end["message"]


def test_what_a_killed_keeper_left_of_a_run_that_was_taken_away_is_ended(
    submit: Submit, scripted: Script, elsewhere: Host
) -> None:
    """Only living keepers were stopped; a grandchild with a session of its own stayed for ever."""
    scripted(["child", "ready", 600, "session", "stubborn"], ["sleep", 600])
    run = submit()
    assert launching.launch_pending() == 1
    folder = run_folder(run)
    wait_for((folder / "ready").exists, "the grandchild")
    keeper = (records.read_keeper(folder) or {})["keeper"]["pid"]
    Run.objects.filter(pk=run.pk).update(host=elsewhere)
    os.kill(keeper, signal.SIGKILL)
    lock = wait_for(lambda: files.try_lock(folder / names.LOCK), "the lock")
    os.close(lock)

    stop_taken_away()

    assert processes_of_run(str(run.pk)) == []


@pytest.mark.django_db(transaction=True)
def test_a_request_sees_an_end_that_left_no_exit_json(submit: Submit, elsewhere: Host) -> None:
    """It waited for a file that never came until its whole patience was over: here a day, which no
    test may take."""
    run = claim_run(run=submit(timeout_seconds=86_400), host=elsewhere, by="queue")
    finish_failed(run=Run.objects.get(pk=run.pk), problems=["The dataset is gone."], by="elsewhere")

    answer = launching.wait_for(run)

    assert (answer.status, answer.message) == ("failed", "The dataset is gone.")


class TestTaskWorkers:
    @pytest.mark.django_db(transaction=True)
    def test_those_of_a_killed_predecessor_are_replaced(self) -> None:
        """Main process and attendant were killed together; the rest of the cluster went on for ever
        beside the new one."""
        predecessor, workers = Workers(), Workers()
        try:
            predecessor.keep()
            orphans = {process.pid for process in predecessor.processes()}
            assert len(orphans) == 2
            workers.keep()
            left = {process.pid for process in workers.processes()}
            assert len(left) == 2
            assert not left & orphans
        finally:
            workers.stop()
        assert workers.processes() == []

    def test_the_canary_is_sent_again_while_none_came_back(self) -> None:
        """The workers of another host take it too, so one that is away proves nothing yet."""
        workers = Workers()

        assert [workers._silent() for _ in range(3)] == [False] * 3

        assert OrmQ.objects.count() == 3

    def test_a_canary_that_never_comes_back_is_silence(self) -> None:
        workers = Workers()
        workers._silent()
        workers.canary_sent = timezone.now() - timedelta(seconds=31)

        assert workers._silent()

    def test_a_canary_proves_the_host_that_does_it(self, elsewhere: Host) -> None:
        workers = Workers()
        workers._silent()
        this_host()
        canary()
        workers._silent()

        elsewhere.refresh_from_db()
        assert elsewhere.canary_at is None
        assert OrmQ.objects.count() == 1


@pytest.mark.parametrize(
    ("runs", "index"),
    [
        (lambda: Run.objects.pending_in_order(supervised=True)[:1], "ix_tunix_runs_claim"),
        (lambda: Run.objects.executing_on(this_host()), "ix_tunix_runs_executing"),
    ],
)
def test_claiming_and_attending_walk_an_index(runs: Callable[[], RunQuerySet], index: str) -> None:
    """SQLite left the partial indexes unused: it sorted all that waits for every claim, and read
    all that a host has ever executed in every round of the attendant."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # a table without rows is read as a whole otherwise
            cursor.execute(
                "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off"
            )
        plan = runs().explain()
        if connection.vendor == "postgresql":
            cursor.execute("RESET ALL")

    assert index in plan
    assert "SORT" not in plan.upper()
    assert "TEMP B-TREE" not in plan


def test_a_full_disk_keeps_the_queue_waiting(
    submit: Submit,
    scripted: Script,
    api: APIClient,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that waited was claimed and failed within seconds, a night's work for the sake of some
    megabytes."""
    scripted(["say", "hello"])
    run = submit()
    with monkeypatch.context() as full:
        full.setattr(output_root, "ROOT_FREE_BYTES", 2**62)  # more than any disk has
        assert launching.launch_pending() == 0
        refused = api.post("/api/tunix/run", body | {"dry_run": False}, format="json")
        assert refused.status_code == 409
        assert "is full" in refused.json()["detail"]
    run.refresh_from_db()
    assert run.status == "pending"
    assert Run.objects.count() == 1

    assert launching.launch_pending() == 1
    wait_for(lambda: ended(run), "the end")
    assert run.status == "completed"


def test_a_note_that_a_full_disk_left_empty_names_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named the working folder of the attendant, which got a lock file."""
    monkeypatch.chdir(tmp_path)
    notes = hosts_folder() / f"{this_host().name}.keepers"
    notes.mkdir(parents=True)
    (notes / "00000000-0000-4000-8000-000000000000").touch()

    stop_taken_away()

    assert list(notes.iterdir()) == []
    assert not (tmp_path / "lock").exists()


def test_what_a_purged_run_went_on_from_is_left_to_its_heirs(submit: Submit, user: User) -> None:
    """With the row went its place in the chain: a retry of its heir began from scratch, though an
    older checkpoint was there."""

    def end(run: Run, *steps: int) -> Run:
        claim_run(run=run, host=this_host(), by="test")
        leave_checkpoints_of(run, *steps)
        return finish_run(run=run, status="failed", reason="x", by="test")

    first = end(submit(), 5)
    second = end(retry_run(run=first, by=user), 8)
    third = end(retry_run(run=second, by=user))
    assert third.resume_from == second
    trash_run(run=second, by=user)
    purge_run(run=Run.objects.get(pk=second.pk), by=second.owner)

    retry = retry_run(run=Run.objects.get(pk=third.pk), by=user)

    assert (retry.resume, retry.resume_from) == (True, first)
