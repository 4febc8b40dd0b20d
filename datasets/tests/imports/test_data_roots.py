"""Files of the server: only those inside a root, only regular ones, and as they were described."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from datasets.files import folders
from datasets.imports import data_roots, importing
from datasets.imports.data_roots import InvalidPath
from datasets.imports.importers import ImportRequest
from datasets.models import Dataset, Import
from datasets.tests.factory import jsonl, trace_body
from tunixrt.roles import Role, set_role

LINES = jsonl(trace_body(1), trace_body(2))
REQUEST = ImportRequest(name="sums", version="v1")


@pytest.fixture
def root(tmp_path: Path, settings: LazySettings) -> Path:
    root = (tmp_path / "data").resolve()
    (root / "math").mkdir(parents=True)
    (root / "math" / "sums.jsonl").write_bytes(LINES)
    settings.TUNIX_DATA_ROOTS = [root]
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = (tmp_path / "secret.jsonl").resolve()
    path.write_bytes(LINES)
    return path


def read(path: Path | str) -> bytes:
    with data_roots.open_file(str(path)) as file:
        return file.read()


def work_on(row: Import) -> Import:
    lock = folders.try_lock(row.pk)
    assert lock is not None
    try:
        importing.work_on(row.pk)
    finally:
        os.close(lock)
    row.refresh_from_db()
    return row


class TestOpening:
    def test_a_file_inside_is_read(self, root: Path):
        assert read(root / "math" / "sums.jsonl") == LINES
        assert read(f"{root}/math/../math/./sums.jsonl") == LINES

    def test_a_link_that_stays_inside_is_followed(self, root: Path):
        (root / "latest").symlink_to("math")
        (root / "file").symlink_to("latest/sums.jsonl")
        assert read(root / "file") == LINES

    def test_what_lies_outside_gets_one_answer_whether_it_is_there_or_not(
        self, root: Path, outside: Path
    ):
        (root / "out").symlink_to(outside)
        (root / "up").symlink_to("..")
        (root / "nowhere").symlink_to(outside.with_name("not-there"))
        beside = Path(f"{root}-not")
        beside.mkdir()
        said = set()
        for path in (
            *(outside, outside.with_name("not-there"), root / "out", root / "up" / outside.name),
            *(root / "nowhere", f"{root}/../{outside.name}", beside / "x", "/etc/passwd", "/"),
        ):
            with pytest.raises(InvalidPath) as error:
                read(path)
            said.add(str(error.value))
        assert said == {
            "path: Must be a file inside one of the folders that TUNIX_DATA_ROOTS names."
        }

    @pytest.mark.parametrize(
        "path", ["", "math/sums.jsonl", "/a\0b", "/\ud800", "/" + "x/" * 4_096, "/a\nb"]
    )
    def test_paths_that_cannot_be_are_refused(self, root: Path, path: str):
        with pytest.raises(InvalidPath, match="Must be a file inside"):
            read(path)

    def test_a_name_that_is_too_long_is_said(self, root: Path):
        with pytest.raises(InvalidPath, match="cannot be read: File name too long"):
            read(root / ("x" * 300))

    def test_only_regular_files_are_opened(self, root: Path):
        os.mkfifo(root / "fifo")  # would wait for a writer
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(root / "socket"))
        (root / "loop").symlink_to("loop")
        for name in ("fifo", "socket"):
            with pytest.raises(InvalidPath, match="is not a regular file"):
                read(root / name)
        for path in (root, root / "math"):
            with pytest.raises(InvalidPath, match="is a folder"):
                read(path)
        with pytest.raises(InvalidPath):
            read(root / "loop")
        with pytest.raises(InvalidPath, match="cannot be read: No such file"):
            read(root / "not-there")

    @pytest.mark.parametrize("swapped", ["file", "folder"])
    def test_a_link_put_in_place_after_the_check_is_not_followed(
        self, root: Path, outside: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
    ):
        resolve = data_roots._resolve

        def swap(path: str) -> tuple[Path, Path]:
            found = resolve(path)
            (root / "math").rename(root / "old")
            if swapped == "folder":
                (root / "math").symlink_to(outside.parent)
                (outside.parent / "sums.jsonl").write_bytes(LINES)
            else:
                (root / "math").mkdir()
                (root / "math" / "sums.jsonl").symlink_to(outside)
            return found

        monkeypatch.setattr(data_roots, "_resolve", swap)
        with pytest.raises(InvalidPath):
            read(root / "math" / "sums.jsonl")

    def test_without_roots_nothing_is_read(self, settings: LazySettings, outside: Path):
        settings.TUNIX_DATA_ROOTS = []
        with pytest.raises(InvalidPath, match="TUNIX_DATA_ROOTS"):
            read(outside)

    def test_no_descriptor_is_left(self, root: Path):
        before = len(os.listdir("/proc/self/fd"))
        for path in (root / "math" / "sums.jsonl", root / "math" / "no" / "no", root / "math"):
            for _ in range(3):
                try:
                    read(path)
                except InvalidPath:
                    pass
        assert len(os.listdir("/proc/self/fd")) == before


class TestImporting:
    @pytest.fixture
    def row(self, root: Path, user: User) -> Import:
        return importing.submit_path(
            path=str(root / "math" / "sums.jsonl"), request=REQUEST, by=user
        )

    def test_it_is_read_in_place_and_named(self, row: Import, root: Path):
        assert sorted(os.listdir(folders.folder_of(row.pk))) == ["lock"]
        assert work_on(row).state == "completed", row.problem
        provenance = Dataset.objects.get().provenance
        assert provenance["path"] == str(root / "math" / "sums.jsonl")
        assert (provenance["file"], provenance["bytes"]) == ("sums.jsonl", len(LINES))
        assert (row.bytes_total, row.source["type"]) == (len(LINES), "path")

    @pytest.mark.parametrize("change", ["longer", "later", "gone", "link"])
    def test_a_file_that_changed_is_said(self, row: Import, root: Path, outside: Path, change: str):
        path = root / "math" / "sums.jsonl"
        said = "has changed since the import was requested"
        match change:
            case "longer":
                path.write_bytes(LINES + jsonl(trace_body(3)))
            case "later":
                os.utime(path, ns=(0, 0))
            case "gone":
                path.unlink()
                said = "No such file"
            case "link":
                path.unlink()
                path.symlink_to(outside)
                said = "Must be a file inside"
        work_on(row)
        assert row.state == "failed"
        assert said in row.problem
        assert not Dataset.with_incomplete.exists()

    def test_a_file_that_changes_while_it_is_read_is_said(
        self, row: Import, root: Path, monkeypatch: pytest.MonkeyPatch
    ):
        take = importing.read_parts

        def read_and_change(parts, **rest):
            def changing():
                for part in parts:
                    yield part
                    with (root / "math" / "sums.jsonl").open("ab") as file:
                        file.write(b"\n")

            return take(changing(), **rest)

        monkeypatch.setattr(importing, "read_parts", read_and_change)
        work_on(row)
        assert "has changed while it was read" in row.problem

    def test_a_path_that_cannot_be_read_leaves_nothing(self, root: Path, user: User):
        with pytest.raises(InvalidPath):
            importing.submit_path(path=str(root / "no"), request=REQUEST, by=user)
        assert not Import.objects.exists()
        assert not folders.imports_folder().exists()


class TestApi:
    def test_it_is_answered_at_once(self, root: Path, api: APIClient):
        path = str(root / "math" / "sums.jsonl")
        body: dict[str, Any] = {"path": path, "name": "sums", "version": "v1"}
        body |= {"mapping": {}, "ignore": ["rank"], "held_out": 1, "skip_bad": True}
        answer = api.post("/api/datasets/imports", body, format="json")
        assert answer.status_code == 202, answer.data
        assert answer.data["source"]["type"] == "path"
        assert answer.data["source"]["path"] == path
        assert answer.data["request"]["skip_bad"] == 0.01
        assert work_on(Import.objects.get()).state == "completed"
        assert Dataset.objects.get().held_out_size == 1
        assert api.post("/api/datasets/imports", body, format="json").status_code == 409

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"path": "/etc/passwd"}, "path"),
            ({"path": ""}, "path"),
            ({"path": 5}, "path"),
            ({"mapping": {"prompt": 5}}, "mapping"),
            ({"mapping": "{}"}, "mapping"),
            ({"mapping": {"nothing": "x"}}, "mapping"),
            ({"ignore": "rank"}, "ignore"),
            ({"held_out": -1}, "held_out"),
            ({"held_out": "5"}, "held_out"),
            ({"held_out": True}, "held_out"),
            ({"skip_bad": 2}, "skip_bad"),
            ({"skip_bad": 0.9}, "skip_bad"),
            ({"kind": "nothing"}, "kind"),
            ({"format": "nothing"}, "format"),
            ({"unknown": 1}, "unknown"),
            ({"name": "a b"}, "name"),
        ],
    )
    def test_what_is_wrong_is_named(self, root: Path, api: APIClient, change: dict, field: str):
        body = {"path": str(root / "math" / "sums.jsonl"), "name": "sums", "version": "v1"}
        answer = api.post("/api/datasets/imports", body | change, format="json")
        assert (answer.status_code, field in answer.data) == (400, True), answer.data
        assert not Import.objects.exists()


class TestPages:
    def test_a_file_is_chosen_folder_by_folder(
        self, root: Path, outside: Path, client: Client, user: User
    ):
        (root / ".hidden").write_bytes(LINES)
        (root / "out").symlink_to(outside)
        (root / "a & b.jsonl").write_bytes(LINES)
        client.force_login(user)
        assert (
            f"?folder={root}".replace("/", "%2F") in client.get("/datasets/files").content.decode()
        )
        text = client.get("/datasets/files", {"folder": str(root)}).content.decode()
        assert "math" in text and "a &amp; b.jsonl" in text
        assert ".hidden" not in text and ">out<" not in text
        form = client.get("/datasets/new", {"path": str(root / "a & b.jsonl")}).content.decode()
        assert f'value="{root}/a &amp; b.jsonl"' in form
        fields = {"name": "sums", "version": "v1", "path": str(root / "a & b.jsonl")}
        answer = client.post("/datasets/new", fields)
        assert answer.status_code == 302
        assert answer["Location"] == f"/datasets/imports/{Import.objects.get().pk}"
        page = client.get(answer["Location"]).content.decode()
        assert "a &amp; b.jsonl" in page

    @pytest.mark.parametrize("folder", ["/etc", "/", "no", "/nowhere"])
    def test_no_other_folder_is_listed(self, root: Path, client: Client, user: User, folder: str):
        client.force_login(user)
        assert client.get("/datasets/files", {"folder": folder}).status_code == 400

    def test_without_roots_there_is_no_such_field(
        self, client: Client, user: User, settings: LazySettings
    ):
        settings.TUNIX_DATA_ROOTS = []
        client.force_login(user)
        assert 'name="path"' not in client.get("/datasets/new").content.decode()
        assert client.get("/datasets/files").status_code == 404

    @pytest.mark.parametrize("both", [True, False])
    def test_one_of_file_and_path_is_given(
        self, root: Path, client: Client, user: User, both: bool, tmp_path: Path
    ):
        client.force_login(user)
        fields: dict = {"name": "sums", "version": "v1"}
        if both:
            fields |= {"path": str(root / "math" / "sums.jsonl")}
            with (root / "math" / "sums.jsonl").open("rb") as file:
                answer = client.post("/datasets/new", fields | {"file": file})
        else:
            answer = client.post("/datasets/new", fields)
        assert answer.status_code == 400
        text = answer.content.decode()
        said = "Give one or the other." if both else "Choose a file, or name another source."
        assert said in text

    def test_a_viewer_sees_no_file_names(self, root: Path, client: Client, user: User):
        set_role(user=user, role=Role.VIEWER)
        client.force_login(user)
        assert client.get("/datasets/files").status_code == 403
