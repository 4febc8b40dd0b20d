"""The end of a run comes home from its folder: once, whoever brings it, and whatever the folder
holds."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from runs.execution import attending
from runs.execution.attending import attend, attend_run
from runs.execution.homecoming import bring_home
from runs.execution.hosts import this_host
from runs.models import MetricSeries, Run, RunEvent
from runs.runfolder import files, names, records
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Script, Submit
from runs.tests.launching import PATIENCE

pytestmark = pytest.mark.django_db
ENDED = "2026-03-01T12:00:05.000000Z"


@pytest.fixture
def running(submit: Submit, scripted: Script) -> Run:
    """A claimed run with a folder whose keeper is gone; a test writes what it left."""
    scripted()
    run = claim_run(run=submit(), host=this_host(), by="test")
    folder = run_folder(run)
    folder.mkdir(parents=True)
    files.write_json(
        folder / names.KEEPER,
        {"version": 1, "run_id": str(run.run_id), "host": "here", "started_at": None},
    )
    return run


def leave_end(run: Run, **fields: Any) -> None:
    record = records.exit_record(
        run_id=str(run.run_id), reason="exit", message="m", ended_at=ENDED, duration_seconds=5.0
    )
    files.write_json(run_folder(run) / names.EXIT, record | fields)


@pytest.mark.parametrize(
    ("end", "status", "exit_code", "message"),
    [
        ({"exit_code": 0}, "completed", 0, "Training completed."),
        ({"exit_code": 1, "message": "broke"}, "failed", 1, "broke"),
        ({"exit_code": None, "signal": 11, "message": "crashed"}, "failed", -11, "crashed"),
        (
            {"reason": "cancel", "exit_code": 17, "message": "Cancelled by ada"},
            "cancelled",
            17,
            "Cancelled by ada",
        ),
        ({"reason": "cancel", "signal": 9}, "cancelled", -9, "m"),
        ({"reason": "cancel"}, "cancelled", None, "m"),
        ({"reason": "cancel", "exit_code": 0}, "completed", 0, "Training completed."),
        ({"reason": "timeout", "exit_code": 17}, "timeout", None, "m"),
        ({"reason": "timeout", "exit_code": 0}, "completed", 0, "Training completed."),
        ({"reason": "lost", "message": "gone"}, "failed", None, "gone"),
        (
            {"reason": "start_failed", "message": "no such program"},
            "failed",
            None,
            "no such program",
        ),
        ({"exit_code": 3, "message": ""}, "failed", 3, "The training failed."),
    ],
)
@pytest.mark.parametrize("cancelling", [False, True])
def test_what_an_end_means(
    running: Run,
    end: dict[str, Any],
    status: str,
    exit_code: int | None,
    message: str,
    cancelling: bool,
    user: User,
):
    if cancelling:
        request_cancel(run=running, by=user)
    leave_end(running, **end)

    bring_home(running, by="test")

    running.refresh_from_db()
    assert (running.status, running.exit_code, running.message) == (status, exit_code, message)
    assert running.completed_at == datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
    assert running.duration_seconds == 5.0


def test_nothing_happens_while_there_is_no_end(running: Run):
    assert bring_home(running, by="test").status == "running"


def test_the_second_one_changes_nothing(running: Run):
    leave_end(running, exit_code=0)
    copy = Run.objects.get(pk=running.pk)
    bring_home(running, by="first")
    before = Run.objects.values().get()

    assert bring_home(copy, by="second").status == "completed"
    assert bring_home(running, by="first again").status == "completed"

    assert Run.objects.values().get() == before
    assert RunEvent.objects.filter(new="completed").count() == 1


def test_one_that_was_being_cancelled_meanwhile_gets_its_end_all_the_same(running: Run, user: User):
    """The row took a step after it was read: the end is written on top of that."""
    leave_end(running, exit_code=0)
    request_cancel(run=Run.objects.get(), by=user)

    assert bring_home(running, by="test").status == "completed"


def test_the_last_measurements_and_the_result_come_with_it(running: Run):
    folder = run_folder(running)
    # its newline was never written
    (folder / names.METRICS).write_text('{"step": 1, "time": 1.0, "values": {"loss": 2.5}}')
    files.write_json(
        folder / names.RESULT,
        {"loss_last": 2.5, "model": None, "samples": [{"prompt": "1+1=?", "after": "2"}]},
    )
    leave_end(running, exit_code=0)

    bring_home(running, by="test")

    running.refresh_from_db()
    assert (running.step, running.last_loss) == (1, 2.5)
    assert running.summary == {
        "loss_last": 2.5,
        "model": None,
        "samples": [{"prompt": "1+1=?", "after": "2"}],
    }


def test_a_result_of_any_kind_is_stored_and_shown(running: Run, api: APIClient):
    """An untrained byte model writes NUL and half characters; whole numbers may be of any size."""
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    result = {
        "samples": [{"before": "a\x00b\ud800c", "after": "\udfff"}],
        "steps": 10**30,
        "least": -(2**63),
        "huge": 1e300,
        "loss": 1e15,
        "deep": deep,
        "k\x00ey": 1,
    }
    (run_folder(running) / names.RESULT).write_text(json.dumps(result))
    leave_end(running, exit_code=0)

    bring_home(running, by="test")

    summary = api.get(f"/api/tunix/runs/{running.run_id}").json()["summary"]
    assert summary["samples"] == [{"before": "a\ufffdb\ufffdc", "after": "\ufffd"}]
    assert (summary["steps"], summary["least"], summary["huge"], summary["loss"]) == (
        None,
        -(2**63),
        None,
        1e15,
    )
    assert summary["k\ufffdey"] == 1
    assert "bottom" not in json.dumps(summary)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b"[" * 100_000]
)
def test_a_result_that_cannot_be_read_is_none_and_that_is_said(running: Run, content: bytes):
    (run_folder(running) / names.RESULT).write_bytes(content)
    leave_end(running, exit_code=0)

    assert bring_home(running, by="test").status == "completed"
    assert running.summary.keys() == {"warnings"}
    assert "result that cannot be read" in running.summary["warnings"][0]


def make_strange(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
        (path / "x").write_text("x")
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)


STRANGE = ["folder", "link", "circle", "pipe"]


@pytest.mark.parametrize("kind", STRANGE)
def test_nothing_strange_in_the_folder_keeps_the_end_away(running: Run, kind: str):
    folder = run_folder(running)
    for name in (names.STDOUT, names.STDERR, names.METRICS, names.RESULT):
        make_strange(folder / name, kind)
    leave_end(running, exit_code=0)

    attend_run(running)

    running.refresh_from_db()
    assert running.status == "completed"
    assert running.stdout == "[stdout.log cannot be read]"
    assert "root:" not in running.stdout + running.stderr
    assert "result that cannot be read" in running.summary["warnings"][0]


@pytest.mark.parametrize("kind", [*STRANGE, "garbage", "list", "endless"])
def test_something_else_in_the_place_of_the_end_is_no_end(running: Run, kind: str):
    """The trainer can write there too. Its keeper is gone, so the run is lost; it must not hang for
    ever."""
    path = run_folder(running) / names.EXIT
    if kind in STRANGE:
        make_strange(path, kind)
    else:
        path.write_bytes(
            {"garbage": b"\x00\x01", "list": b"[]", "endless": b'{"a":' * 50_000}[kind]
        )

    attend_run(running)

    running.refresh_from_db()
    assert (running.status, running.exit_code) == ("failed", None)
    assert running.message.startswith("The training was lost")
    end = files.read_json(path)
    assert end is not None
    assert end["reason"] == "lost"


@pytest.mark.parametrize(
    "fields",
    [
        {"exit_code": "0"}, {"exit_code": True}, {"exit_code": 10**12}, {"exit_code": [0]},
        {"exit_code": 1.5}, {"signal": 10**12}, {"reason": 7}, {"reason": None},
        {"message": {"a": 1}}, {"message": None}, {"message": "a\u0000b"},
        {"duration_seconds": "5"}, {"duration_seconds": 10**400}, {"ended_at": None},
        {"ended_at": "yesterday"}, {"ended_at": 7}, {"ended_at": "0001-01-01T00:00:00+14:00"},
        {"ended_at": "2026-03-01T12:00:05"},
    ],
)  # fmt: skip
def test_an_end_of_wrong_types_is_an_end_all_the_same(running: Run, fields: dict[str, Any]):
    leave_end(running, **({"exit_code": 3} | fields))

    attend_run(running)

    running.refresh_from_db()
    assert running.status == "failed"
    assert running.completed_at is not None
    assert "\x00" not in running.message


def test_an_end_without_any_field_is_an_end(running: Run):
    files.write_json(run_folder(running) / names.EXIT, {})

    attend_run(running)

    running.refresh_from_db()
    assert running.status == "failed"
    assert running.completed_at is not None
    assert timezone.now() - running.completed_at < timedelta(minutes=1)


def test_a_folder_that_stays_removed_is_the_end(running: Run, monkeypatch: pytest.MonkeyPatch):
    Run.objects.update(process={"keeper": {"pid": 1}})
    os.remove(run_folder(running) / names.KEEPER)
    run_folder(running).rmdir()

    assert attend() == 1
    running.refresh_from_db()
    assert running.status == "running"  # for a while it may come back

    monkeypatch.setattr(attending, "FOLDER_PATIENCE_SECONDS", 0.0)
    assert attend() == 1
    running.refresh_from_db()
    assert (running.status, running.exit_code) == ("failed", None)
    assert (
        running.message == "The run's folder is gone: it was removed while the run was executing."
    )


@pytest.mark.django_db(transaction=True)
def test_two_who_bring_it_home_at_the_same_moment_bring_one_end(running: Run):
    folder = run_folder(running)
    lines = [
        json.dumps({"step": step, "time": 1.0, "values": {"loss": 1 / step}})
        for step in range(1, 2001)
    ]
    (folder / names.METRICS).write_text("\n".join(lines) + "\n")
    leave_end(running, exit_code=0)
    copies = [Run.objects.get(pk=running.pk) for _ in range(6)]
    barrier = threading.Barrier(len(copies), timeout=PATIENCE)

    def bring(run: Run) -> str:
        try:
            barrier.wait()
            return bring_home(run, by="test").status
        finally:
            connection.close()

    with ThreadPoolExecutor(len(copies)) as pool:
        assert list(pool.map(bring, copies)) == ["completed"] * len(copies)
    assert RunEvent.objects.filter(new="completed").count() == 1
    assert MetricSeries.objects.get().count == 2000
