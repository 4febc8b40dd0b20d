"""A local run in the request: a real keeper, a real process, and its end in answer, row and
folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.models import Host, Run, RunEvent
from runs.runfolder import files, names
from runs.runfolder.processes import processes_of_run
from runs.services.reservations import run_folder
from runs.spec.manifest import parse_manifest
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for

pytestmark = pytest.mark.django_db
URL = "/api/tunix/run"
Answer = dict[str, Any]


@pytest.fixture
def train(api: APIClient, body: Answer) -> Callable[..., Answer]:
    def post(**fields: Any) -> Answer:
        response = api.post(URL, body | {"dry_run": False} | fields, format="json")
        assert response.status_code == 202, response.content
        answer: Answer = response.json()
        return answer

    return post


@pytest.fixture
def local(api: APIClient, body: Answer) -> Callable[..., Any]:
    return lambda **fields: api.post(URL, body | {"dry_run": False} | fields, format="json")


def refuse_processes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    """The database goes away when the processes of a run are to be stored."""
    if sql.startswith("UPDATE") and '"process" = ' in sql:
        raise OperationalError("the connection is closed")
    return execute(sql, params, many, context)


class TestTheEnd:
    @pytest.mark.django_db(transaction=True)
    def test_a_database_that_goes_away_after_the_start_does_not_end_the_wait(
        self, scripted: Script, train: Callable[..., Answer]
    ):
        """The answer was 503, and the training ran."""
        scripted(["say", "learning"])

        with connection.execute_wrapper(refuse_processes):
            answer = train()

        assert (answer["status"], answer["stdout"]) == ("completed", "learning\n")

    def test_exit_0_is_completed(self, scripted: Script, train: Callable[..., Answer]):
        scripted(["say", "learning"], ["complain", "a hint"])
        answer = train()

        assert (answer["status"], answer["mode"], answer["exit_code"]) == ("completed", "local", 0)
        assert (answer["stdout"], answer["stderr"]) == ("learning\n", "a hint\n")
        assert answer["message"] == "Training completed."
        end = files.read_json(run_folder(Run.objects.get()) / names.EXIT)
        assert end is not None
        assert answer["duration_seconds"] == end["duration_seconds"]
        assert answer["completed_at"] == end["ended_at"]
        assert answer["created_at"] and answer["started_at"]

    def test_get_answers_the_same_as_post(
        self, scripted: Script, train: Callable[..., Answer], api: APIClient
    ):
        scripted(["say", "learning"], ["steps", 2, 0])

        answer = train()

        assert api.get(f"/api/tunix/runs/{answer['run_id']}").json() == answer

    @pytest.mark.parametrize("code", [1, 2, 10, 15, 255])
    def test_another_exit_code_is_failed_with_it(
        self, scripted: Script, train: Callable[..., Answer], code: int
    ):
        scripted(["leave", code])

        answer = train()

        assert (answer["status"], answer["exit_code"]) == ("failed", code)
        assert answer["message"] == f"The training command exited with code {code}."

    def test_the_trainers_last_word_is_the_message(
        self, scripted: Script, train: Callable[..., Answer]
    ):
        scripted(
            ["complain", "noise"],
            ["leave", 12, "tunix: model: the tensor x is missing; take another folder"],
        )

        answer = train()

        assert answer["message"] == "tunix: model: the tensor x is missing; take another folder"
        assert (
            answer["stderr"]
            == "noise\ntunix: model: the tensor x is missing; take another folder\n"
        )

    def test_a_signal_is_failed_with_its_negative_number(
        self, scripted: Script, train: Callable[..., Answer]
    ):
        scripted(["kill_self", 9])

        answer = train()

        assert (answer["status"], answer["exit_code"]) == ("failed", -9)
        assert "killed by signal 9 (SIGKILL)" in answer["message"]

    def test_a_command_that_cannot_be_executed_is_failed_without_a_code(
        self, settings: LazySettings, train: Callable[..., Answer], tmp_path: Path
    ):
        command = tmp_path / "trainer"
        command.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 1.0 && rm "$0"\n')
        command.chmod(0o755)
        settings.TUNIX_COMMAND = [str(command)]

        answer = train()

        assert (answer["status"], answer["exit_code"]) == ("failed", None)
        assert (
            answer["message"]
            == f"The training command could not be started: {command}: was not found, or the"
            " interpreter that its first line names."
        )

    def test_what_the_training_measured_is_home(
        self, scripted: Script, train: Callable[..., Answer]
    ):
        scripted(["steps", 4, 0])

        answer = train()

        assert (answer["step"], answer["last_loss"]) == (4, 0.25)

    def test_no_process_and_no_lock_is_left(self, scripted: Script, train: Callable[..., Answer]):
        scripted(["child", "child", 600, "session"])

        answer = train()

        assert answer["status"] == "completed"
        wait_for(lambda: not processes_of_run(answer["run_id"]), "the end of keeper and child")


class TestTheTimeLimit:
    def test_of_the_request_ends_it(self, scripted: Script, train: Callable[..., Answer]):
        scripted(["say", "begun"], ["steps", 100_000, 0.01])

        answer = train(timeout_seconds=1)

        assert (answer["status"], answer["exit_code"]) == ("timeout", None)
        assert (
            answer["message"]
            == "Stopped at its time limit of 1 second; the training stopped by itself (exit code"
            " 17)."
        )
        assert answer["stdout"] == "begun\n"
        assert answer["duration_seconds"] >= 1

    def test_of_the_system_ends_it(
        self, scripted: Script, train: Callable[..., Answer], settings: LazySettings
    ):
        settings.TUNIX_SYNC_TIMEOUT_SECONDS = 0.3
        scripted(["steps", 100_000, 0.01])

        answer = train(timeout_seconds=1000)

        assert answer["status"] == "timeout"
        assert answer["timeout_seconds"] == 0.3

    def test_of_a_queued_run_is_another(
        self, submit: Submit, settings: LazySettings, scripted: Script
    ):
        scripted()
        settings.TUNIX_SYNC_TIMEOUT_SECONDS = 5.0
        assert submit().timeout_seconds is None
        settings.TUNIX_RUN_TIMEOUT_SECONDS = 100.0
        assert submit().timeout_seconds == 100.0
        assert submit(timeout_seconds=50).timeout_seconds == 50
        assert submit(timeout_seconds=500).timeout_seconds == 100.0
        assert submit(queued=False).timeout_seconds == 5.0


class TestTheFolder:
    def test_holds_everything_to_repeat_the_run(
        self, scripted: Script, train: Callable[..., Answer], dataset: Dataset, output_root: Path
    ):
        scripted(["say", "hello"])

        answer = train(learning_rate=0.25)

        folder = output_root / answer["run_id"]
        assert {
            "manifest.yaml",
            "dataset.jsonl",
            "command.json",
            "keeper.json",
            "exit.json",
            "stdout.log",
            "stderr.log",
        } <= set(os.listdir(folder))
        manifest = parse_manifest((folder / "manifest.yaml").read_text())
        assert manifest["training"]["learning_rate"] == 0.25
        lines = [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]
        assert len(lines) == dataset.size
        assert lines[0]["messages"] == [
            {"role": "user", "content": "0+1=?"},
            {"role": "assistant", "content": "0+1\n1"},
        ]
        assert lines[0]["split"] == "train"
        command = json.loads((folder / "command.json").read_text())
        assert command["argv"][-3:] == ["train", "--config", "manifest.yaml"]
        assert command["cwd"] == str(folder)

    def test_can_be_named(self, scripted: Script, train: Callable[..., Answer], output_root: Path):
        scripted(["say", "hello"])

        answer = train(output_dir="./output/a/b")

        assert answer["output_dir"] == "a/b"
        assert (output_root / "a/b/stdout.log").read_text() == "hello\n"

    def test_with_spaces_and_letters_of_all_kinds_works(
        self, scripted: Script, train: Callable[..., Answer], output_root: Path
    ):
        scripted(["say", "hello"])

        assert train(output_dir="Größe 1 ✓/'quoted' $HOME")["status"] == "completed"
        assert (output_root / "Größe 1 ✓" / "'quoted' $HOME" / "exit.json").exists()

    def test_that_a_run_has_is_400_naming_the_run(
        self, scripted: Script, train: Callable[..., Answer], local
    ):
        scripted()
        first = train(output_dir="mine")

        for path in ("mine", "./output/mine", "mine/inside", "mine/checkpoints"):
            response = local(output_dir=path)
            assert response.status_code == 400
            assert response.json()["output_dir"] == [
                f"The folder mine belongs to run {first['run_id']}."
            ]
        assert Run.objects.count() == 1

    def test_above_that_of_a_run_is_400_naming_the_run(
        self, scripted: Script, train: Callable[..., Answer], local
    ):
        scripted()
        first = train(output_dir="a/b/c")

        for path in ("a", "a/b"):
            response = local(output_dir=path)
            assert response.status_code == 400
            assert first["run_id"] in response.json()["output_dir"][0]

    def test_above_that_of_a_run_that_has_not_begun_is_400_too(
        self, scripted: Script, submit: Submit, local
    ):
        scripted()
        waiting = submit(output_dir="a_b/c", queued=True)

        response = local(output_dir="a_b")

        assert response.status_code == 400
        assert response.json()["output_dir"] == [
            f"The folder a_b holds the folder of run {waiting.run_id}."
        ]
        assert local(output_dir="aXb").status_code == 202

    @pytest.mark.parametrize("kind", ["file in it", "file", "link"])
    def test_that_is_used_is_400(self, scripted: Script, local, output_root: Path, kind: str):
        scripted()
        path = output_root / "mine"
        output_root.mkdir()
        if kind == "file in it":
            path.mkdir()
            (path / "precious").write_text("x")
        elif kind == "file":
            path.write_text("precious")
        else:
            path.symlink_to(output_root / "nowhere")

        response = local(output_dir="mine")

        assert response.status_code == 400
        assert list(response.json()) == ["detail", "output_dir"]
        assert not Run.objects.exists()

    def test_that_is_there_and_empty_is_fine(
        self, scripted: Script, train: Callable[..., Answer], output_root: Path
    ):
        scripted()
        (output_root / "mine").mkdir(parents=True)

        assert train(output_dir="mine")["status"] == "completed"

    def test_below_a_file_cannot_be_made(
        self, scripted: Script, train: Callable[..., Answer], output_root: Path
    ):
        scripted()
        output_root.mkdir()
        (output_root / "file").write_text("precious")

        answer = train(output_dir="file/mine")

        assert (answer["status"], answer["exit_code"]) == ("failed", None)
        assert answer["message"].startswith("The run's folder mine cannot be written: ")
        assert (output_root / "file").read_text() == "precious"

    def test_of_a_dry_run_is_free(self, scripted: Script, train: Callable[..., Answer]):
        scripted()
        train(output_dir="mine", dry_run=True)

        assert train(output_dir="mine")["status"] == "completed"


def test_an_output_root_that_cannot_be_made_is_said(
    scripted: Script, local, settings: LazySettings, tmp_path: Path
):
    scripted()
    (tmp_path / "file").write_text("in the way")
    settings.TUNIX_OUTPUT_ROOT = tmp_path / "file" / "output"

    response = local()

    assert response.status_code == 409
    assert response.json()["detail"].startswith(
        f"The output root {tmp_path}/file/output cannot be used: Not a directory."
    )
    assert not Run.objects.exists()


class TestWhatCannotWork:
    """Nothing is started: the run fails with the reason and has no exit code."""

    def test_an_empty_dataset(
        self, scripted: Script, train: Callable[..., Answer], make_dataset: Callable[..., Dataset]
    ):
        scripted()
        make_dataset("empty", size=0)

        answer = train(dataset_key="empty-v1")

        assert (answer["status"], answer["exit_code"]) == ("failed", None)
        assert answer["message"].startswith("Dataset empty-v1 is empty")
        assert answer["stderr"].startswith("error: Dataset empty-v1 is empty")

    def test_a_family_that_cannot_be_trained(self, scripted: Script, train: Callable[..., Answer]):
        scripted()

        answer = train(model_id="gpt2")

        assert (answer["status"], answer["exit_code"]) == ("failed", None)
        assert RunEvent.objects.last().reason == answer["message"]


class TestWithoutTheRuntime:
    def test_it_is_501_and_nothing_is_stored(self, local, without_runtime: None, output_root: Path):
        response = local()

        assert response.status_code == 501
        assert response.json() == {
            "detail": (
                "Tunix runtime not available. Install with `pip install -e '.[tunix]'` to enable"
                " local execution."
            )
        }
        assert not Run.objects.exists()

    def test_a_bad_body_and_an_unknown_dataset_come_first(self, local, without_runtime: None):
        assert local(num_epochs=0).status_code == 400
        assert local(dataset_key="no").status_code == 404

    def test_queued_it_is_501_too(self, api: APIClient, body: Answer, without_runtime: None):
        response = api.post(f"{URL}?mode=async", body | {"dry_run": False}, format="json")

        assert response.status_code == 501
        assert not Run.objects.exists()

    def test_queued_it_is_taken_when_another_live_host_has_it(
        self, api: APIClient, body: Answer, without_runtime: None
    ):
        def post() -> int:
            return api.post(
                f"{URL}?mode=async", body | {"dry_run": False}, format="json"
            ).status_code

        other = Host.objects.create(name="gpu-box", runtime_version="0.1.7")
        assert post() == 501  # not heard of
        Host.objects.filter(pk=other.pk).update(heartbeat_at="2020-01-01T00:00:00Z")
        assert post() == 501  # long ago
        Host.objects.filter(pk=other.pk).update(heartbeat_at=timezone.now())
        assert post() == 202
        Host.objects.filter(pk=other.pk).update(runtime_version="")
        assert post() == 501


class TestSlots:
    def test_without_a_free_one_it_is_409_naming_the_way_out_and_there_is_no_row(
        self, local, scripted: Script, output_root: Path, settings: LazySettings
    ):
        scripted()
        settings.TUNIX_SLOTS = 0

        response = local()

        assert response.status_code == 409
        assert response.json() == {
            "detail": "Every slot of this host is training. Use ?mode=async to queue the run."
        }
        assert not Run.objects.exists()
        assert os.listdir(output_root) == [".hosts"]

    def test_one_is_free_again_after_the_end(
        self, scripted: Script, train: Callable[..., Answer], settings: LazySettings
    ):
        settings.TUNIX_SLOTS = 1
        scripted()

        assert [train()["status"] for _ in range(3)] == ["completed"] * 3


def test_the_row_is_there_before_anything_is_executed(
    scripted: Script, train: Callable[..., Answer]
):
    """The keeper's own record is younger than the row and its claim."""
    scripted(["report", "facts.json"])

    answer = train()

    events = list(RunEvent.objects.order_by("id"))
    assert [event.new for event in events] == ["pending", "running", "completed"]
    assert events[1].reason.startswith("claimed by ")
    run = Run.objects.get()
    assert run.process is not None
    assert run.process["run_id"] == answer["run_id"]
    assert run.process["started_at"] is None or events[1].at.isoformat() < run.process["started_at"]
    assert run.host is not None
    assert answer["host"] == run.host.name
