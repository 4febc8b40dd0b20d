"""GET and DELETE …/artifacts: the files of a run, and nothing but these."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.models import Run, RunStatus
from runs.queries import artifacts
from runs.services.reservations import run_folder
from runs.tests.checkpoint_layout import checkpoint_files
from runs.tests.leftovers import make_run

FILES = {
    "stdout.log": b"hello\n",
    "manifest.yaml": b"model: tiny\n",
    "dataset.jsonl": b"{}\n",
    "dataset.jsonl.idx": b"",
    "metrics.jsonl": b"",
    "lock": b"",
    ".exit.json.reserved": b"",
    **checkpoint_files(100),
    **checkpoint_files(200),
    "model/model.safetensors": b"y" * 50,
}


def url(run: Run, path: str = "") -> str:
    return f"/api/tunix/runs/{run.run_id}/artifacts{path}"


def test_the_files_of_a_run_by_kind(api: APIClient, user: User):
    run = make_run(user, status=RunStatus.COMPLETED, files=FILES)

    answer = api.get(url(run)).json()

    assert answer["truncated"] is False
    assert [
        (row["path"], row["size"], row["kind"], row["removable"]) for row in answer["data"]
    ] == [
        *((path, 2, "checkpoint", True) for path in sorted(checkpoint_files(100))),
        *((path, 2, "checkpoint", True) for path in sorted(checkpoint_files(200))),
        ("dataset.jsonl", 3, "dataset", False),
        ("dataset.jsonl.idx", 0, "dataset", False),
        ("manifest.yaml", 12, "manifest", False),
        ("metrics.jsonl", 0, "other", False),
        ("model/model.safetensors", 50, "model", True),
        ("stdout.log", 6, "log", False),
    ]
    assert answer["data"][0]["modified"].endswith("Z")


def test_numbers_in_names_are_ordered_by_their_value(api: APIClient, user: User):
    """Checkpoints in the order of their steps, also where the listing is cut; any name a file
    system takes can be compared."""
    names = [
        "checkpoints/9/a",
        "checkpoints/10/a",
        "checkpoints/100/a",
        "a",
        "a1b2",
        "a1b10",
        "a٣",
        "²",
        "007",
        "7",
        "7x",
    ]
    run = make_run(user, files=dict.fromkeys(names, b""))

    listed = [row["path"] for row in api.get(url(run)).json()["data"]]

    assert sorted(listed) == sorted(names)
    checkpoints = names[:3]
    assert [path for path in listed if path in checkpoints] == checkpoints
    assert listed.index("a1b2") < listed.index("a1b10")
    part = artifacts.list_artifacts(run_folder(run) / "checkpoints", limit=2)
    assert ([artifact.path for artifact in part.artifacts], part.truncated) == (
        ["9/a", "10/a"],
        True,
    )


def test_a_listing_is_bounded(api: APIClient, user: User):
    run = make_run(user, files={f"file {number:02}": b"" for number in range(20)})

    answer = api.get(url(run), {"limit": 5}).json()

    assert ([row["path"] for row in answer["data"]], answer["truncated"]) == (
        [f"file {number:02}" for number in range(5)],
        True,
    )
    assert api.get(url(run), {"limit": 20}).json()["truncated"] is False
    assert api.get(url(run), {"limit": 5001}).status_code == 422


def test_a_bottomless_folder_is_listed_as_far_as_it_goes(api: APIClient, user: User):
    deep = "/".join(["d"] * 40)
    run = make_run(user, files={"top": b"", f"{deep}/file": b""})

    answer = api.get(url(run)).json()

    assert [row["path"] for row in answer["data"]] == ["top"]
    assert answer["truncated"] is True


def test_a_run_without_a_folder_has_no_files(api: APIClient, user: User):
    run = make_run(user, status=RunStatus.PENDING)
    run_folder(run).rmdir()

    assert api.get(url(run)).json() == {"data": [], "truncated": False}
    assert api.get(url(run, "/stdout.log")).status_code == 404


def test_a_download_is_a_download(api: APIClient, user: User):
    run = make_run(user, files=FILES | {'évil "name".html': b"<script>alert(1)</script>"})

    answer = api.get(url(run, '/évil "name".html'), headers={"Accept": "text/html"})

    assert answer.getvalue() == b"<script>alert(1)</script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (
        answer.headers["Content-Disposition"]
        == "attachment; filename*=UTF-8''%C3%A9vil%20%22name%22.html"
    )
    part = api.get(url(run, "/model/model.safetensors"), headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.getvalue()) == (206, b"y" * 10)
    assert part.headers["Content-Range"] == "bytes 10-19/50"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.mkdir()
    (path / "file").write_text("secret")
    return path


def test_no_link_leads_out(api: APIClient, user: User, secret: Path):
    run = make_run(user, status=RunStatus.COMPLETED, files=FILES)
    folder = run_folder(run)
    (folder / "link").symlink_to(secret / "file")
    (folder / "folder").symlink_to(secret)
    (folder / "checkpoints" / "300").symlink_to(secret)
    (folder / "model" / "link").symlink_to(secret / "file")
    os.mkfifo(folder / "pipe")

    listed = {row["path"] for row in api.get(url(run)).json()["data"]}

    assert listed == {name for name in FILES if name not in ("lock", ".exit.json.reserved")}
    for path in (
        "/link",
        "/folder/file",
        "/folder",
        "/checkpoints/300/file",
        "/model/link",
        "/pipe",
    ):
        assert api.get(url(run, path)).status_code == 404, path
    for path in ("/checkpoints/300", "/checkpoints/300/file", "/model/link"):
        assert api.delete(url(run, path)).status_code == 404, path
    assert (secret / "file").read_text() == "secret"


def test_a_run_folder_that_became_a_link_is_empty(api: APIClient, user: User, secret: Path):
    run = make_run(user, status=RunStatus.COMPLETED)
    run_folder(run).rmdir()
    run_folder(run).symlink_to(secret)

    assert api.get(url(run)).json()["data"] == []
    assert api.get(url(run, "/file")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../secret/file",
        "/checkpoints/../../secret/file",
        "/%2e%2e/secret/file",
        "/..%2fsecret%2ffile",
        "//etc/passwd",
        "/checkpoints//100/_CHECKPOINT_METADATA",
        "/./stdout.log",
        "/lock",
        "/.exit.json.reserved",
        "/checkpoints",
        "/a%00b",
        "/checkpoints/",
        "/%ff%fe",
        "/" + "x" * 300,
        "/" + "x/" * 3000 + "x",
    ],
)
def test_no_path_leads_out(api: APIClient, user: User, secret: Path, path: str):
    run = make_run(user, status=RunStatus.COMPLETED, files=FILES)

    assert api.get(url(run, path)).status_code == 404
    assert api.delete(url(run, path)).status_code in ((200,) if path == "/checkpoints" else (404,))
    assert (secret / "file").read_text() == "secret"


def test_removing_frees_and_is_recorded(api: APIClient, user: User):
    run = make_run(user, status=RunStatus.COMPLETED, files=FILES)

    answer = api.delete(url(run, "/checkpoints/100"))

    assert (answer.status_code, answer.json()) == (
        200,
        {"removed": "checkpoints/100", "bytes_freed": 36},
    )
    assert not (run_folder(run) / "checkpoints" / "100").exists()
    assert (run_folder(run) / "checkpoints" / "200").exists()
    event = run.events.get()
    assert (event.reason, event.by) == ("checkpoints/100 removed (36 bytes)", user.get_username())
    assert api.delete(url(run, "/checkpoints/100")).status_code == 404
    assert api.delete(url(run, "/model/model.safetensors")).json()["bytes_freed"] == 50


def test_what_is_in_use_or_is_the_record_of_the_run_stays(api: APIClient, user: User):
    active = make_run(user, status=RunStatus.RUNNING, files=FILES)
    ended = make_run(user, status=RunStatus.FAILED, files=FILES)
    heir = make_run(user, status=RunStatus.PENDING, retry_of=ended, resume=True, resume_from=ended)

    assert api.delete(url(active, "/checkpoints/100")).status_code == 409
    assert "running" in api.delete(url(active, "/checkpoints/100")).json()["detail"]
    assert api.delete(url(ended, "/checkpoints/100")).status_code == 409
    assert str(heir.run_id) in api.delete(url(ended, "/checkpoints/100")).json()["detail"]
    assert api.delete(url(ended, "/model")).status_code == 200
    for path in ("/stdout.log", "/manifest.yaml", "/dataset.jsonl"):
        assert api.delete(url(ended, path)).status_code == 404
    assert (run_folder(active) / "checkpoints" / "100").exists()


def test_folders_without_end_can_be_removed(
    api: APIClient, user: User, leave_deep_folders: Callable[[Path], None]
):
    run = make_run(user, status=RunStatus.FAILED, files=FILES)
    leave_deep_folders(run_folder(run) / "model")
    assert api.get(url(run)).json()["truncated"] is True

    assert api.delete(url(run, "/model")).status_code == 200

    assert not [
        path for path in run_folder(run).iterdir() if "model" in path.name or "removed" in path.name
    ]


def test_strangers_get_nothing(user: User):
    run = make_run(user, status=RunStatus.COMPLETED, files=FILES)
    stranger = APIClient(REMOTE_ADDR="192.0.2.1")

    assert stranger.get(url(run)).status_code == 401
    assert stranger.get(url(run, "/stdout.log")).status_code == 401
    assert stranger.delete(url(run, "/model")).status_code == 401


def test_names_that_are_no_text_are_left_out(user: User):
    run = make_run(user)
    with open(os.fsencode(run_folder(run)) + b"/\xff\xfe", "wb"):
        pass

    assert artifacts.list_artifacts(run_folder(run)).artifacts == []
