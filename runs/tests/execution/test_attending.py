"""Looking after running runs: every branch of attend_run, with real keepers, real kills and real
leftovers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone

import datasets.services.exports
from datasets.models import Dataset
from datasets.services.exports import write_jsonl
from runs.execution.attending import attend, attend_run, cancel_run
from runs.execution.hosts import this_host
from runs.execution.launching import launch_pending
from runs.models import Host, Run, RunEvent
from runs.runfolder import files, names, records
from runs.runfolder.processes import boot_id, processes_of_run, read_process
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.output_root import make_folder, root_problem
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for

pytestmark = pytest.mark.django_db


def started(submit: Submit, **fields: object) -> Run:
    run = submit(**fields)
    assert launch_pending() == 1
    run.refresh_from_db()
    return run


def keeper_pid(run: Run) -> int:
    pid: int = (records.read_keeper(run_folder(run)) or {})["keeper"]["pid"]
    return pid


def claimed(submit: Submit) -> Run:
    """As a launcher leaves it that dies between claim and start. Needs ``scripted``, or the
    runtime."""
    assert root_problem() is None
    run = submit()
    make_folder(run_folder(run))
    return claim_run(run=run, host=this_host(), by="test")


def kill_while_writing(dataset: Dataset, path: Path) -> None:
    """Kill a process in the middle of the export of a dataset."""

    def lines(_: Dataset) -> Iterator[bytes]:
        yield b"{}\n"
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            datasets.services.exports.export_lines = lines  # type: ignore[assignment]
            write_jsonl(dataset, path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


class TestAlive:
    def test_news_come_while_it_runs(self, submit: Submit, scripted: Script):
        scripted(["steps", 3, 0], ["touch", "measured"], ["sleep", 600])
        run = started(submit)
        wait_for((run_folder(run) / "measured").exists, "the measurements")

        assert attend() == 1

        run.refresh_from_db()
        assert (run.status, run.step, run.last_loss) == ("running", 3, 1 / 3)

    def test_a_cancel_that_never_reached_the_folder_is_passed_on(
        self, submit: Submit, scripted: Script, user: User
    ):
        """The web server died between the row and the file."""
        scripted(["touch", "begun"], ["steps", 100_000, 0.01])
        run = started(submit)
        wait_for((run_folder(run) / "begun").exists, "the training")
        request_cancel(run=run, by=user)  # the row alone

        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.exit_code) == ("cancelled", 17)
        stop = files.read_json(run_folder(run) / names.STOP)
        assert stop is not None
        assert (stop["reason"], stop["by"]) == ("cancel", "attendant")

    def test_a_keeper_that_nobody_has_collected_is_no_life(self, submit: Submit, scripted: Script):
        """What counts is the lock: a zombie answers to its number for ever."""
        scripted(["sleep", 600])
        run = started(submit)
        zombie = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
        wait_for(lambda: read_process(zombie.pid) is None, "the zombie")
        os.kill(keeper_pid(run), 9)
        record = records.read_keeper(run_folder(run))
        assert record is not None
        files.write_json(
            run_folder(run) / names.KEEPER,
            record | {"keeper": {"pid": zombie.pid, "start_time": 1}},
        )

        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert run.status == "failed"
        zombie.wait()


class TestEnded:
    @pytest.mark.parametrize(("code", "status"), [(0, "completed"), (3, "failed")])
    def test_the_end_is_brought_home(
        self, submit: Submit, scripted: Script, code: int, status: str
    ):
        scripted(["say", "hello"], ["leave", code])
        run = started(submit)

        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.exit_code, run.stdout) == (status, code, "hello\n")
        assert run.duration_seconds is not None
        last = RunEvent.objects.filter(run=run).last()
        assert last is not None
        assert (last.new, last.by) == (status, "attendant")


class TestKilled:
    def test_the_keeper(self, submit: Submit, scripted: Script):
        scripted(["touch", "begun"], ["child", "child", 600, "session"], ["sleep", 600])
        run = started(submit)
        wait_for((run_folder(run) / "child").exists, "the training")
        assert processes_of_run(str(run.run_id))

        os.kill(keeper_pid(run), 9)
        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.exit_code) == ("failed", None)
        assert run.message.startswith("The training was lost: its keeper was killed.")
        assert processes_of_run(str(run.run_id)) == []
        end = files.read_json(run_folder(run) / names.EXIT)
        assert end is not None
        assert end["reason"] == "lost"

    def test_the_training(self, submit: Submit, scripted: Script):
        scripted(["touch", "begun"], ["sleep", 600])
        run = started(submit)
        begun = run_folder(run) / "begun"
        pid = int(wait_for(lambda: begun.read_text() if begun.exists() else None, "the training"))

        os.kill(pid, 9)
        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.exit_code) == ("failed", -9)
        assert "killed by signal 9 (SIGKILL)" in run.message

    def test_while_it_was_being_cancelled_it_failed_all_the_same(
        self, submit: Submit, scripted: Script, user: User
    ):
        scripted(["touch", "begun"], ["ignore", "SIGTERM"], ["sleep", 600])
        run = started(submit)
        wait_for((run_folder(run) / "begun").exists, "the training")
        cancel_run(run=run, by=user)

        os.kill(keeper_pid(run), 9)
        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert run.status == "failed"

    def test_a_run_of_another_boot_was_lost_with_its_machine(
        self, submit: Submit, scripted: Script
    ):
        scripted()
        run = claimed(submit)
        folder = run_folder(run)
        record = {
            "version": 1,
            "run_id": str(run.run_id),
            "boot_id": "another",
            "keeper": {"pid": 1, "start_time": 1},
        }
        files.write_json(folder / names.KEEPER, record)
        Run.objects.update(process=record)

        attend()

        run.refresh_from_db()
        assert (run.status, run.message) == (
            "failed",
            "The training was lost: its machine was restarted.",
        )
        assert read_process(1) is not None  # a number of another boot is nobody's

    def test_a_stranger_with_the_recorded_number_is_left_alone(
        self, submit: Submit, scripted: Script
    ):
        scripted()
        run = claimed(submit)
        folder = run_folder(run)
        with subprocess.Popen(["sleep", "600"]) as stranger:
            recorded = {"pid": stranger.pid, "start_time": 1}
            files.write_json(
                folder / names.KEEPER,
                {
                    "version": 1,
                    "run_id": str(run.run_id),
                    "boot_id": boot_id(),
                    "keeper": recorded,
                    "trainer": recorded,
                },
            )

            attend()

            assert stranger.poll() is None
            stranger.kill()
        run.refresh_from_db()
        assert run.status == "failed"

    @pytest.mark.parametrize(
        "content",
        ["", "[]", '{"keeper": 7}', '{"keeper": {"pid": "x"}}', '{"trainer": {"pid": -1}}'],
    )
    def test_a_broken_record_names_nobody(self, submit: Submit, scripted: Script, content: str):
        scripted()
        run = claimed(submit)
        (run_folder(run) / names.KEEPER).write_text(content)

        attend()

        run.refresh_from_db()
        assert run.status == "failed"


class TestNeverStarted:
    def test_it_is_started(self, submit: Submit, scripted: Script):
        scripted(["say", "hello"])
        run = claimed(submit)

        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.stdout) == ("completed", "hello\n")

    @pytest.mark.parametrize("end", ["failed", "cancelled"])
    def test_files_of_a_launcher_that_was_killed_go_with_its_end(
        self, submit: Submit, scripted: Script, user: User, dataset: Dataset, end: str
    ):
        """A full disk is what fails the second start, and what these files would keep full."""
        scripted(["say", "hello"])
        run = claimed(submit)
        folder = run_folder(run)
        kill_while_writing(dataset, folder / names.DATASET)
        assert len(list(folder.glob(".dataset.jsonl.*"))) == 1
        if end == "failed":
            (folder / names.MANIFEST).mkdir()
        else:
            cancel_run(run=run, by=user)

        attend()

        run.refresh_from_db()
        assert run.status == end
        assert list(folder.glob(".dataset.jsonl.*")) == []

    def test_cancelled_in_between_it_is_not(self, submit: Submit, scripted: Script, user: User):
        scripted(["say", "hello"])
        run = claimed(submit)
        assert cancel_run(run=run, by=user).status == "cancelling"

        assert attend() == 1

        run.refresh_from_db()
        assert (run.status, run.exit_code, run.stdout) == ("cancelled", None, "")
        assert run.message == "cancelled before the training started"
        assert not (run_folder(run) / names.KEEPER).exists()

    def test_a_cancel_found_in_the_folder_keeps_the_training_from_starting(
        self, submit: Submit, scripted: Script, user: User
    ):
        scripted(["say", "hello"])
        run = claimed(submit)
        records.request_stop(run_folder(run), "cancel", "ada")

        wait_for(lambda: attend() == 0, "the end")

        run.refresh_from_db()
        assert (run.status, run.stdout, run.message) == (
            "cancelled",
            "",
            "Cancelled by ada before the training started.",
        )


class TestDryRuns:
    def test_one_in_the_hands_of_its_worker_is_left_alone(self, submit: Submit):
        run = claim_run(run=submit(dry_run=True), host=this_host(), by="test")

        attend()

        run.refresh_from_db()
        assert run.status == "running"

    def test_one_whose_worker_is_gone_is_answered(self, submit: Submit):
        run = claim_run(run=submit(dry_run=True), host=this_host(), by="test")
        Run.objects.update(started_at=timezone.now() - timedelta(seconds=11))

        attend()

        run.refresh_from_db()
        assert (run.status, run.exit_code) == ("completed", 0)


def test_the_trouble_of_one_run_does_not_keep_the_others_waiting(
    submit: Submit,
    scripted: Script,
    settings: LazySettings,
    output_root: Path,
    caplog: pytest.LogCaptureFixture,
):
    settings.TUNIX_SLOTS = 2
    scripted(["say", "hello"])
    first, second = claimed(submit), claimed(submit)
    run_folder(first).rmdir()
    run_folder(first).write_text("a file in the place of the folder")

    wait_for(lambda: attend() == 1, "the end of the other one")

    second.refresh_from_db()
    assert second.status == "completed"
    assert f"run {first.run_id} could not be attended" in caplog.text


def test_the_runs_of_other_hosts_are_theirs(submit: Submit, scripted: Script):
    scripted(["say", "hello"])
    other = Host.objects.create(name="other")
    assert root_problem() is None
    run = submit()
    make_folder(run_folder(run))
    claim_run(run=run, host=other, by="test")

    assert attend() == 0
    assert list(run_folder(run).iterdir()) == []
    assert attend(other) == 1
    wait_for(lambda: attend(other) == 0, "the end")


def test_one_that_somebody_else_has_finished_is_left_as_it_is(submit: Submit, scripted: Script):
    scripted()
    run = started(submit)
    stale = Run.objects.get(pk=run.pk)
    wait_for(lambda: attend() == 0, "the end")

    assert attend_run(stale).status == "completed"
    assert RunEvent.objects.filter(run=run, new="completed").count() == 1


def cancelled(run: Run, user: User) -> Run:
    cancel_run(run=run, by=user)
    wait_for(lambda: attend() == 0, "the end")
    run.refresh_from_db()
    assert run.status == "cancelled"
    return run


class TestLateStops:
    def test_a_cancel_after_the_end_leaves_no_stop(
        self, submit: Submit, scripted: Script, user: User
    ):
        scripted(["say", "hello"])
        run = started(submit)
        wait_for((run_folder(run) / names.EXIT).exists, "the end")
        os.close(wait_for(lambda: files.try_lock(run_folder(run) / names.LOCK), "the lock"))

        cancel_run(run=run, by=user)  # nobody has brought the end home yet

        assert not (run_folder(run) / names.STOP).exists()
        attend()
        run.refresh_from_db()
        assert run.status == "completed"


class TestRetriesOfTheLost:
    def lose(self, run: Run) -> Run:
        os.kill(keeper_pid(run), 9)
        wait_for(lambda: attend() == 0, "the end")
        run.refresh_from_db()
        assert run.status == "failed"
        return run

    def test_as_often_as_asked_for(self, submit: Submit, scripted: Script):
        scripted(["sleep", 600])
        run = self.lose(started(submit, auto_retry=1))
        retry = Run.objects.exclude(pk=run.pk).get()
        assert (retry.status, retry.attempt, retry.retry_of_id, retry.owner) == (
            "pending",
            2,
            run.pk,
            run.owner,
        )
        assert f"Run {retry.run_id} tries again from scratch." in run.message

        launch_pending()
        self.lose(retry)

        assert Run.objects.count() == 2

    def test_those_that_people_asked_for_do_not_count(
        self, submit: Submit, scripted: Script, user: User
    ):
        scripted(["steps", 100_000, 0.01])  # looks for stop.json
        first = cancelled(started(submit, auto_retry=1), user)
        by_hand = retry_run(run=first, by=user)
        assert by_hand.attempt == 2
        launch_pending()
        by_hand.refresh_from_db()

        self.lose(by_hand)
        automatic = by_hand.retries.get()
        launch_pending()
        automatic.refresh_from_db()
        self.lose(automatic)

        assert not automatic.retries.exists()
        again = retry_run(run=automatic, by=user)  # the chain has had its automatic retry
        launch_pending()
        again.refresh_from_db()
        self.lose(again)
        assert not again.retries.exists()

    def test_never_unasked(self, submit: Submit, scripted: Script):
        scripted(["sleep", 600])
        self.lose(started(submit))

        assert Run.objects.count() == 1

    def test_one_that_cannot_be_retried_ends_all_the_same(
        self, submit: Submit, scripted: Script, dataset
    ):
        scripted(["sleep", 600])
        run = started(submit, auto_retry=1)
        dataset.delete()

        self.lose(run)

        assert Run.objects.count() == 1
