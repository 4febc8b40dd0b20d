"""GET, PATCH and DELETE /api/tunix/runs/{run_id}, its manifest, and asking it to stop or to be
tried again."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from runs.execution import launching
from runs.execution.attending import attend
from runs.lifecycle import transition
from runs.models import Run, RunEvent
from runs.services.deletion import purge_run
from runs.services.reservations import run_folder
from runs.spec.manifest import dump_manifest, parse_manifest
from runs.tests.conftest import Script, Submit
from runs.tests.launching import wait_for
from runs.tests.leftovers import leave_checkpoints_of

pytestmark = pytest.mark.django_db
Answer = dict[str, Any]
RunDry = Callable[..., Answer]
UNKNOWN = "0b7e1c1e-0000-4000-8000-00000000000a"
NOT_UUIDS = [
    "abc",
    "0",
    UNKNOWN.replace("-", ""),
    f"{{{UNKNOWN}}}",
    f"urn:uuid:{UNKNOWN}",
    UNKNOWN + "0",
    " " + UNKNOWN,
    "%00",
    "é",
]
PATHS = ["", "/status", "/manifest"]


def url(run: Run | Answer | str, tail: str = "") -> str:
    key = run if isinstance(run, str) else run["run_id"] if isinstance(run, dict) else run.run_id
    return f"/api/tunix/runs/{key}{tail}"


@pytest.mark.parametrize("tail", PATHS)
def test_an_unknown_run_is_404(api: APIClient, tail: str):
    response = api.get(url(UNKNOWN, tail))

    assert response.status_code == 404
    assert response.json() == {"detail": f"Run not found: {UNKNOWN}"}


@pytest.mark.parametrize("tail", PATHS)
def test_what_is_no_run_id_is_422(api: APIClient, tail: str):
    for key in NOT_UUIDS:
        response = api.get(url(key, tail))
        assert response.status_code == 422, key
        assert set(response.json()) == {"detail", "run_id"}
        assert response.json()["run_id"][0].endswith("is not a UUID of 36 characters.")


def test_a_run_id_in_capitals_is_the_same_run(api: APIClient, run_dry: RunDry):
    answer = run_dry()

    assert api.get(url(answer["run_id"].upper())).json()["run_id"] == answer["run_id"]


@pytest.mark.parametrize("tags", [["a"], ["a", "b", "c"]])
def test_takes_two_queries_however_many_tags(api: APIClient, run_dry: RunDry, tags: list[str]):
    answer = run_dry(tags=tags)

    with CaptureQueriesContext(connection) as queries:
        assert api.get(url(answer)).json()["tags"] == tags
    assert len(queries) == 2


class TestStatus:
    def test_has_what_a_poller_needs_and_nothing_heavy(self, api: APIClient, run_dry: RunDry):
        answer = run_dry()

        status = api.get(url(answer, "/status")).json()

        assert list(status) == [
            "run_id",
            "name",
            "status",
            "queued_at",
            "started_at",
            "completed_at",
            "exit_code",
        ]
        assert status == {name: answer[name] for name in status}

    def test_reads_only_the_columns_it_shows(self, api: APIClient, run_dry: RunDry):
        answer = run_dry()

        with CaptureQueriesContext(connection) as queries:
            api.get(url(answer, "/status"))
        assert len(queries) == 1
        assert "stdout" not in queries[0]["sql"]

    def test_of_a_waiting_run(self, api: APIClient, submit: Submit, scripted: Script):
        scripted()
        run = submit()

        status = api.get(url(run, "/status")).json()

        assert status["status"] == "pending"
        assert status["queued_at"].endswith("Z")
        assert status["started_at"] is status["completed_at"] is status["exit_code"] is None


class TestManifest:
    def test_is_the_file_as_it_was_written(self, api: APIClient, run_dry: RunDry):
        answer = run_dry()

        response = api.get(url(answer, "/manifest"))

        assert response["Content-Type"] == "application/yaml; charset=utf-8"
        assert response.content == (run_folder(Run.objects.get()) / "manifest.yaml").read_bytes()
        assert parse_manifest(response.content.decode())["run_id"] == answer["run_id"]

    def test_of_a_run_that_was_not_started_is_404(self, api: APIClient, run_dry: RunDry):
        response = api.get(url(run_dry(model_id="gpt2"), "/manifest"))

        assert response.status_code == 404
        assert response.json() == {"detail": "This run has no manifest: it has not been started."}

    @pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
    def test_leads_nowhere_else(self, api: APIClient, run_dry: RunDry, kind: str):
        answer = run_dry()
        path = run_folder(Run.objects.get()) / "manifest.yaml"
        path.unlink()
        if kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)

        assert api.get(url(answer, "/manifest")).status_code == 404


class TestPatch:
    def test_changes_tags_notes_and_pin(self, api: APIClient, run_dry: RunDry, user: User):
        answer = run_dry(tags=["a", "b"], notes="old")

        response = api.patch(
            url(answer), {"tags": ["b", "c"], "notes": "new", "pinned": True}, format="json"
        )

        assert response.status_code == 200
        assert (response.json()["tags"], response.json()["notes"], response.json()["pinned"]) == (
            ["b", "c"],
            "new",
            True,
        )
        assert api.get(url(answer)).json() == response.json()
        event = RunEvent.objects.last()
        assert event is not None
        assert (event.reason, event.by, event.new) == (
            "tags, notes, pinned changed",
            user.username,
            "",
        )

    def test_leaves_alone_what_is_not_named(self, api: APIClient, run_dry: RunDry):
        answer = run_dry(tags=["a"], notes="old")

        assert api.patch(url(answer), {}, format="json").json() == answer
        assert api.patch(url(answer), {"notes": ""}, format="json").json() == answer | {"notes": ""}
        assert api.patch(url(answer), {"tags": []}, format="json").json() == answer | {
            "notes": "",
            "tags": [],
        }

    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ({"status": "failed"}, "status"),
            ({"run_id": UNKNOWN}, "run_id"),
            ({"config": {}}, "config"),
            ({"tags": "a"}, "tags"),
            ({"tags": [""]}, "tags"),
            ({"tags": None}, "tags"),
            ({"notes": 7}, "notes"),
            ({"notes": "x" * 20_001}, "notes"),
            ({"pinned": 1}, "pinned"),
            ([], "detail"),
        ],
    )
    def test_refuses_everything_else_and_changes_nothing(
        self, api: APIClient, run_dry: RunDry, sent: Any, field: str
    ):
        answer = run_dry()

        asked = sent | {"notes": "x"} if isinstance(sent, dict) and field != "notes" else sent
        response = api.patch(url(answer), asked, format="json")

        assert response.status_code == 400
        assert field in response.json()
        assert api.get(url(answer)).json() == answer


class TestDelete:
    def test_an_ended_run_is_gone(self, api: APIClient, run_dry: RunDry, user: User):
        answer = run_dry()

        response = api.delete(url(answer))

        assert response.status_code == 200
        assert response.json() == {"trashed": True}
        for method in (api.get, api.delete, api.patch):
            assert method(url(answer)).status_code == 404
        assert api.get(url(answer, "/status")).status_code == 404
        event = RunEvent.objects.last()
        assert event is not None
        assert (event.reason, event.by) == ("moved to the trash", user.username)

    def test_its_files_go_with_the_purge(self, api: APIClient, run_dry: RunDry):
        answer = run_dry()
        api.delete(url(answer))
        run = Run.objects.get()
        folder = run_folder(run)
        assert folder.is_dir()
        size = (folder / "manifest.yaml").stat().st_size

        assert purge_run(run=run, by=run.owner) == size

        assert not folder.exists()
        assert not Run.objects.exists()

    def test_an_active_run_stays(self, api: APIClient, submit: Submit, scripted: Script):
        scripted()
        run = submit()

        response = api.delete(url(run))

        assert response.status_code == 409
        assert response.json() == {
            "detail": "Only an ended run can be deleted; this one is pending. Cancel it first."
        }
        assert api.get(url(run)).status_code == 200


class TestCancel:
    def test_a_waiting_run_is_cancelled_at_once(
        self, api: APIClient, submit: Submit, scripted: Script, user: User
    ):
        scripted()
        run = submit()

        response = api.post(url(run, "/cancel"))

        assert response.status_code == 202
        answer = response.json()
        assert (answer["status"], answer["exit_code"], answer["started_at"]) == (
            "cancelled",
            None,
            None,
        )
        assert answer["message"] == f"cancelled by {user.username}"
        assert answer["completed_at"].endswith("Z")
        assert launching.launch_pending() == 0

    def test_a_training_stops_at_its_next_step(
        self, api: APIClient, submit: Submit, scripted: Script, user: User
    ):
        scripted(["touch", "begun"], ["steps", 100_000, 0.01])
        run = submit()
        assert launching.launch_pending() == 1
        wait_for((run_folder(run) / "begun").exists, "the training")

        response = api.post(url(run, "/cancel"))

        assert response.status_code == 202
        assert response.json()["status"] == "cancelling"
        assert api.post(url(run, "/cancel")).status_code == 202  # asking again changes nothing
        wait_for(lambda: attend() == 0, "the end")
        answer = api.get(url(run)).json()
        assert (answer["status"], answer["exit_code"]) == ("cancelled", 17)
        assert (
            answer["message"]
            == f"Cancelled by {user.username}; the training stopped by itself (exit code 17)."
        )
        assert (run_folder(run) / "saved").exists()
        changes = [
            event.new for event in RunEvent.objects.filter(run=run).exclude(new="").order_by("id")
        ]
        assert changes == ["pending", "running", "cancelling", "cancelled"]

    def test_a_training_that_completes_first_is_completed(
        self, api: APIClient, submit: Submit, scripted: Script
    ):
        scripted(["touch", "begun"], ["wait", "go", False])
        run = submit()
        launching.launch_pending()
        wait_for((run_folder(run) / "begun").exists, "the training")

        api.post(url(run, "/cancel"))
        (run_folder(run) / "go").touch()

        wait_for(lambda: attend() == 0, "the end")
        answer = api.get(url(run)).json()
        assert (answer["status"], answer["exit_code"]) == ("completed", 0)

    def test_an_ended_run_is_409(self, api: APIClient, run_dry: RunDry):
        response = api.post(url(run_dry(), "/cancel"))

        assert response.status_code == 409
        assert response.json() == {"detail": "The run has ended already: it is completed."}


class TestRetry:
    def test_is_a_new_run_of_the_same_request(
        self, api: APIClient, submit: Submit, scripted: Script
    ):
        scripted(["leave", 3])
        run = submit(output_dir="mine", num_epochs=7, tags=["a"], client_request_id="once")
        launching.launch_pending()
        wait_for(lambda: attend() == 0, "the end")

        response = api.post(url(run, "/retry"))

        assert response.status_code == 202
        answer = response.json()
        assert answer["run_id"] != str(run.run_id)
        assert (answer["retry_of"], answer["attempt"], answer["status"]) == (
            str(run.run_id),
            2,
            "pending",
        )
        assert answer["output_dir"] == answer["run_id"]
        assert answer["config"] == run.config | {"output_dir": None, "name": answer["name"]}
        assert answer["tags"] == ["a"]
        assert answer["resume"] is False
        assert "There is no checkpoint to resume from" in answer["warnings"][-1]

    @pytest.mark.parametrize(
        ("sent", "resume"), [({}, True), ({"resume": True}, True), ({"resume": False}, False)]
    )
    def test_goes_on_from_the_last_checkpoint_unless_told_otherwise(
        self, api: APIClient, submit: Submit, scripted: Script, sent: Answer, resume: bool
    ):
        scripted(["leave", 3])
        run = submit()
        launching.launch_pending()
        wait_for(lambda: attend() == 0, "the end")
        leave_checkpoints_of(run, 5)
        checkpoints = run_folder(run) / "checkpoints"

        answer = api.post(url(run, "/retry"), sent, format="json").json()

        assert answer["resume"] is resume
        assert not any("checkpoint" in warning for warning in answer["warnings"])
        assert answer["resume_from"] == (str(run.run_id) if resume else None)
        launching.launch_pending()
        manifest = parse_manifest(
            (run_folder(Run.objects.get(pk=answer["run_id"])) / "manifest.yaml").read_text()
        )
        assert manifest["resume_from"] == (str(checkpoints) if resume else None)

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ({"revision": "a" * 40}, "a" * 40),
            ({"revision": None}, None),
            ({"revision": "main"}, None),
            ({"revision": "a" * 40, "id": "owner/other"}, None),
            (None, None),
        ],
        ids=["pinned", "not pinned", "a branch", "of another model", "no manifest"],
    )
    def test_trains_the_commit_of_the_hub_that_the_first_one_has_trained(
        self,
        api: APIClient,
        submit: Submit,
        scripted: Script,
        written: dict[str, str | None] | None,
        expected: str | None,
    ):
        """The training program writes it into its manifest; the branch may have moved on since."""
        scripted(["leave", 3])
        run = submit(model_id="owner/llama-1b")
        launching.launch_pending()
        wait_for(lambda: attend() == 0, "the end")
        path = run_folder(run) / "manifest.yaml"
        manifest = parse_manifest(path.read_text())
        path.unlink()
        if written is not None:
            path.write_text(dump_manifest(manifest | {"model": manifest["model"] | written}))

        retry = Run.objects.get(pk=api.post(url(run, "/retry")).json()["run_id"])
        launching.launch_pending()

        assert (
            parse_manifest((run_folder(retry) / "manifest.yaml").read_text())["model"]["revision"]
            == expected
        )

    def test_of_a_dry_run_is_a_dry_run(self, api: APIClient, run_dry: RunDry):
        answer = api.post(url(run_dry(), "/retry")).json()

        assert (answer["mode"], answer["status"]) == ("dry-run", "pending")

    def test_of_an_active_run_is_409(self, api: APIClient, submit: Submit, scripted: Script):
        scripted()
        response = api.post(url(submit(), "/retry"))

        assert response.status_code == 409
        assert response.json() == {
            "detail": "Only an ended run can be retried; this one is pending."
        }

    def test_another_body_is_400(self, api: APIClient, run_dry: RunDry):
        answer = run_dry()

        for sent in ({"resume": 1}, {"resume": None}, {"resum": True}, [], [True], "yes", 0):
            assert api.post(url(answer, "/retry"), sent, format="json").status_code == 400, sent
        assert Run.objects.count() == 1

    def test_of_a_dataset_that_is_gone_is_404_and_of_a_model_that_may_not_be_named_400(
        self, api: APIClient, run_dry: RunDry, dataset, settings, tmp_path: Path
    ):
        settings.TUNIX_MODEL_ROOTS = [tmp_path.resolve()]
        answer = run_dry(model_id=f"{tmp_path.resolve()}/model")
        settings.TUNIX_MODEL_ROOTS = []
        assert list(api.post(url(answer, "/retry")).json()) == ["detail", "model_id"]
        answer = run_dry()
        dataset.delete()
        assert api.post(url(answer, "/retry")).status_code == 404

    def test_of_a_local_run_without_the_runtime_is_501(
        self,
        api: APIClient,
        submit: Submit,
        scripted: Script,
        request: pytest.FixtureRequest,
        user: User,
    ):
        scripted()
        run = submit()
        api.post(url(run, "/cancel"))
        request.getfixturevalue("without_runtime")

        assert api.post(url(run, "/retry")).status_code == 501


@pytest.mark.parametrize(
    ("tail", "method"),
    [
        ("", "post"),
        ("", "put"),
        ("/status", "post"),
        ("/manifest", "delete"),
        ("/cancel", "get"),
        ("/retry", "get"),
        ("/cancel", "delete"),
    ],
)
def test_another_method_is_405(api: APIClient, run_dry: RunDry, tail: str, method: str):
    response = getattr(api, method)(url(run_dry(), tail))

    assert response.status_code == 405
    assert list(response.json()) == ["detail"]


def test_a_transition_in_between_is_seen_by_cancel(
    api: APIClient, submit: Submit, scripted: Script, user: User
):
    """What the caller read may be old: the row decides."""
    scripted()
    run = submit()
    stale = Run.objects.get(pk=run.pk)
    transition(run, "cancelled", reason="by somebody else", by="test")
    assert stale.status == "pending"

    assert api.post(url(stale, "/cancel")).status_code == 409
    assert uuid.UUID(api.get(url(stale)).json()["run_id"]) == run.pk
