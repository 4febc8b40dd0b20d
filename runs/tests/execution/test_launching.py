"""From a pending run to a keeper: slots, order, several launchers at once, and launchers that are
killed on the way."""

import os
import signal
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from runs.execution import hosts
from runs.execution.attending import attend
from runs.execution.launching import (
    NoFreeSlot,
    free_slots,
    launch_lock,
    launch_pending,
    run_in_request,
)
from runs.models import Host, OutputRoot, Run, RunEvent
from runs.runfolder import files, names
from runs.services.claiming import claim_run
from runs.services.output_root import root_problem
from runs.services.reservations import run_folder
from runs.services.run_requests import clean_request
from runs.tests.conftest import Script, Start, Submit
from runs.tests.launching import PATIENCE, Hold, wait_for

LAUNCH = "from runs.execution.launching import launch_pending; print('launched', launch_pending())"


def statuses() -> list[str]:
    return sorted(Run.objects.values_list("status", flat=True))


def all_ended() -> bool:
    attend()
    return not Run.objects.filter(status__in=["pending", "running", "cancelling"]).exists()


@pytest.mark.django_db
class TestSlots:
    def test_as_many_are_started_as_slots_are_free(
        self, submit: Submit, scripted: Script, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 2
        scripted(["sleep", 600])
        for _ in range(3):
            submit()

        assert launch_pending() == 2

        assert statuses() == ["pending", "running", "running"]
        assert free_slots(hosts.this_host()) == 0
        assert launch_pending() == 0

    def test_an_ended_run_makes_room_for_the_next(
        self, submit: Submit, scripted: Script, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 1
        scripted()
        for _ in range(3):
            submit()

        wait_for(lambda: launch_pending() == 0 and all_ended(), "the end of all")

        assert statuses() == ["completed"] * 3

    def test_dry_runs_and_the_runs_of_other_hosts_take_none(
        self, submit: Submit, scripted: Script, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 1
        scripted()
        claim_run(run=submit(), host=Host.objects.create(name="other"), by="test")

        assert free_slots(hosts.this_host()) == 1

    def test_without_one_a_run_in_the_request_is_409_and_no_row(
        self, api: APIClient, body, submit: Submit, scripted: Script
    ):
        scripted(["sleep", 600])
        submit()
        launch_pending()

        response = api.post("/api/tunix/run", body | {"dry_run": False}, format="json")

        assert response.status_code == 409
        assert "Use ?mode=async to queue the run." in response.json()["detail"]
        assert Run.objects.count() == 1
        assert (
            api.post(
                "/api/tunix/run?mode=async", body | {"dry_run": False}, format="json"
            ).status_code
            == 202
        )
        assert api.post("/api/tunix/run", body, format="json").status_code == 202


@pytest.mark.django_db
class TestOrder:
    def test_priority_goes_first_and_then_age(
        self, submit: Submit, scripted: Script, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 5
        scripted()
        for number, priority in enumerate([0, -1, 100, 0, 100]):
            submit(priority=priority, notes=str(number))

        assert launch_pending() == 5

        assert list(Run.objects.order_by("started_at").values_list("notes", flat=True)) == [
            "2",
            "4",
            "0",
            "3",
            "1",
        ]


@pytest.mark.django_db
def test_without_the_runtime_local_runs_wait_and_dry_runs_are_answered(
    submit: Submit, scripted: Script, request: pytest.FixtureRequest
):
    scripted()
    submit()
    submit(dry_run=True)
    request.getfixturevalue("without_runtime")

    assert launch_pending() == 1
    assert statuses() == ["completed", "pending"]


@pytest.mark.django_db
class TestWhatCannotBeStarted:
    def test_ends_failed_with_the_reason_and_frees_its_slot(
        self, submit: Submit, scripted: Script, dataset, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 1
        scripted()
        broken, sound = submit(model_id="gpt2"), submit()

        launch_pending()
        wait_for(all_ended, "the end of both")

        broken.refresh_from_db()
        sound.refresh_from_db()
        assert (broken.status, broken.exit_code) == ("failed", None)
        assert broken.message.startswith("gpt2 is of the family gpt2")
        assert sound.status == "completed"

    def test_a_folder_that_cannot_be_made(
        self, submit: Submit, scripted: Script, output_root: Path
    ):
        scripted()
        run = submit(output_dir="a/b")
        output_root.mkdir(exist_ok=True)
        (output_root / "a").write_text("in the way")

        launch_pending()

        run.refresh_from_db()
        assert (run.status, run.exit_code) == ("failed", None)
        assert run.message.startswith("The run's folder b cannot be written: ")

    def test_a_folder_whose_files_cannot_be_written(self, submit: Submit, scripted: Script):
        scripted()
        run = submit()
        (run_folder(run) / names.MANIFEST).mkdir(parents=True)

        launch_pending()

        run.refresh_from_db()
        assert run.status == "failed"
        assert run.message.startswith(f"The run's folder {run.run_id} cannot be written: ")

    def test_a_keeper_that_refuses(
        self,
        submit: Submit,
        scripted: Script,
        monkeypatch: pytest.MonkeyPatch,
        settings: LazySettings,
    ):
        scripted()
        settings.TUNIX_STOP_WAIT_SECONDS = -1  # what no keeper takes
        run = submit()

        launch_pending()

        run.refresh_from_db()
        assert run.status == "failed"
        assert (
            "its keeper did not start (exit code 5): keeper: command.json: stop_wait_seconds"
            in run.message
        )

    def test_a_dataset_that_is_gone(self, submit: Submit, scripted: Script, dataset):
        scripted()
        run = submit()
        dataset.delete()

        launch_pending()

        run.refresh_from_db()
        assert run.message == "Dataset not found: sums-v1"

    def test_a_lock_that_somebody_holds_is_left_alone(self, submit: Submit, scripted: Script):
        scripted()
        run = submit()
        run_folder(run).mkdir(parents=True)
        lock = files.try_lock(run_folder(run) / names.LOCK)
        assert lock is not None

        assert launch_pending() == 0
        run.refresh_from_db()
        assert run.status == "pending"
        os.close(lock)
        assert launch_pending() == 1


@pytest.mark.django_db
class TestTheOutputRoot:
    def test_gets_its_marker_with_the_first_run(
        self, submit: Submit, scripted: Script, output_root: Path
    ):
        scripted()
        submit()

        assert launch_pending() == 1

        marker = files.read_json(output_root / ".hosts" / names.ROOT_ID)
        assert marker == {"id": str(OutputRoot.objects.get().pk)}

    def test_of_another_database_takes_no_runs(
        self, api: APIClient, body, submit: Submit, scripted: Script, output_root: Path
    ):
        scripted()
        submit()
        (output_root / ".hosts").mkdir(parents=True)
        files.write_json(output_root / ".hosts" / names.ROOT_ID, {"id": str(uuid.uuid4())})

        assert launch_pending() == 0
        response = api.post("/api/tunix/run", body | {"dry_run": False}, format="json")
        assert response.status_code == 409
        assert "is not this database's" in response.json()["detail"]
        assert statuses() == ["pending"]

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": 7}'])
    def test_with_a_broken_marker_takes_no_runs(
        self, submit: Submit, scripted: Script, output_root: Path, content: str
    ):
        scripted()
        submit()
        (output_root / ".hosts").mkdir(parents=True)
        (output_root / ".hosts" / names.ROOT_ID).write_text(content)

        assert launch_pending() == 0
        assert statuses() == ["pending"]

    def test_that_was_lost_after_the_first_run_takes_no_more(
        self, submit: Submit, scripted: Script, settings, tmp_path: Path
    ):
        scripted()
        submit()
        launch_pending()
        wait_for(all_ended, "the end")
        submit()
        settings.TUNIX_OUTPUT_ROOT = tmp_path.resolve() / "another"

        assert launch_pending() == 0
        assert "is missing" in str(root_problem())


@pytest.mark.django_db(transaction=True)
class TestSeveralLaunchers:
    def test_threads_and_processes_start_each_run_once(
        self,
        submit: Submit,
        scripted: Script,
        settings: LazySettings,
        program: Start,
        monkeypatch: pytest.MonkeyPatch,
    ):
        settings.TUNIX_SLOTS = 3
        monkeypatch.setenv("TUNIX_SLOTS", "3")
        monkeypatch.setenv("TUNIXRT_WEB_THREADS", "5")
        scripted(["say", "once"], ["sleep", 600])
        for _ in range(5):
            submit()
        assert root_problem() is None  # it makes what the lock is in
        with launch_lock():  # the processes wait here for each other
            others = [program("manage.py", "shell", "--no-imports", "-c", LAUNCH) for _ in range(2)]
            wait_for(
                lambda: all(_waits_for_the_launch_lock(other.process.pid) for other in others),
                "the other launchers",
            )

        def launch(_: int) -> int:
            try:
                return launch_pending()
            finally:
                connection.close()

        with ThreadPoolExecutor(3) as pool:
            launched = sum(pool.map(launch, range(3)))
        for other in others:
            assert other.wait() == 0, other.said()
            launched += int(other.said().split()[-1])

        assert launched == 3
        assert statuses() == ["pending", "pending", "running", "running", "running"]
        for run in Run.objects.filter(status="running"):
            log = run_folder(run) / "stdout.log"
            wait_for(lambda: log.read_bytes() == b"once\n", "the training")  # noqa: B023
            assert RunEvent.objects.filter(run=run, new="running").count() == 1

    def test_one_slot_and_many_requests_at_once(
        self, user: User, dataset, scripted: Script, settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 1
        scripted(["wait", "go"])
        asked = {
            "dataset_key": dataset.dataset_key,
            "model_id": "preset:tiny-llama",
            "dry_run": False,
        }
        barrier = threading.Barrier(6, timeout=PATIENCE)

        def post(_: int) -> str:
            try:
                barrier.wait()
                return run_in_request(request=clean_request(asked), by=user)[0].status
            except NoFreeSlot:
                return "refused"
            finally:
                connection.close()

        with ThreadPoolExecutor(6) as pool:
            posts = [pool.submit(post, number) for number in range(6)]
            wait_for(lambda: sum(each.done() for each in posts) == 5, "five refusals")
            (run_folder(Run.objects.get()) / "go").touch()
        assert sorted(each.result() for each in posts) == ["completed", *["refused"] * 5]
        assert Run.objects.count() == 1


def _waits_for_the_launch_lock(pid: int) -> bool:
    """Whether the kernel lists ``pid`` among those that wait for a flock."""
    return any(
        f" {pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines()
    )


@pytest.mark.django_db(transaction=True)
class TestKilledLaunchers:
    def test_before_the_claim_nothing_has_happened(
        self, submit: Submit, scripted: Script, program: Start
    ):
        scripted(["say", "trained"])
        run = submit()
        assert root_problem() is None  # it makes what the lock is in
        with launch_lock():
            launcher = program("manage.py", "shell", "--no-imports", "-c", LAUNCH)
            wait_for(lambda: _waits_for_the_launch_lock(launcher.process.pid), "the launcher")
            launcher.kill()
        run.refresh_from_db()
        assert (run.status, run.started_at) == ("pending", None)

        assert launch_pending() == 1
        wait_for(all_ended, "the end")

        run.refresh_from_db()
        assert (run.status, run.stdout) == ("completed", "trained\n")

    def test_after_the_claim_the_attendant_starts_it(
        self, submit: Submit, scripted: Script, program: Start
    ):
        scripted(["say", "trained"])
        run = submit()
        folder = run_folder(run)
        folder.mkdir(parents=True)
        # opening it for writing waits for a reader, and there is none
        os.mkfifo(folder / names.MANIFEST)
        launcher = program("manage.py", "shell", "--no-imports", "-c", LAUNCH)
        wait_for((folder / names.DATASET).exists, "the launcher at its work")
        run.refresh_from_db()
        assert run.status == "running"
        assert attend() == 1  # alive: the launcher holds the lock
        run.refresh_from_db()
        assert run.status == "running"

        launcher.kill()
        os.unlink(folder / names.MANIFEST)
        assert not (folder / names.KEEPER).exists()
        wait_for(all_ended, "the end")

        run.refresh_from_db()
        assert (run.status, run.stdout) == ("completed", "trained\n")
        assert RunEvent.objects.filter(run=run, new="running").count() == 1

    def test_after_the_start_the_training_goes_on(
        self, submit: Submit, scripted: Script, program: Start, tmp_path: Path
    ):
        scripted(["touch", "begun"], ["wait", "go"], ["say", "trained"])
        run = submit()
        launcher = program(
            "manage.py", "shell", "--no-imports", "-c", LAUNCH + "; import time; time.sleep(60)"
        )
        wait_for((run_folder(run) / "begun").exists, "the training")

        launcher.kill()
        (run_folder(run) / "go").touch()
        wait_for(all_ended, "the end")

        run.refresh_from_db()
        assert (run.status, run.stdout) == ("completed", "trained\n")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("os.fork 1", ("completed", "exit")),  # the first process
        ("os.fork 2", ("completed", "exit")),  # its child
        # the owner, the moment before it takes the run
        (
            "os.link keeper.json",
            ("completed", "exit"),
        ),
        ("os.remove 2", ("failed", "lost")),  # it has taken the run, and nobody knows yet
        ("os.fork 3", ("failed", "lost")),  # it has told the launcher, and no trainer is there yet
    ],
)
def test_a_keeper_killed_while_it_starts_leaves_a_run_that_ends_as_its_files_say(
    submit: Submit, scripted: Script, hold: Callable[[str], Hold], moment: str, end: tuple[str, str]
):
    """Before it has taken the run, the run is started again; afterwards it is lost."""
    scripted(["say", "trained"])
    run = submit()
    folder = run_folder(run)
    held = hold(moment)

    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(lambda: os.kill(held.wait(), signal.SIGKILL))
        assert launch_pending() == 1
        killed.result()
    held.release()
    wait_for(all_ended, "the end")

    run.refresh_from_db()
    assert (run.status, (files.read_json(folder / names.EXIT) or {}).get("reason")) == end
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []
