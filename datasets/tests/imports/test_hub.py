"""Datasets of the Hugging Face Hub, against a hub on loopback."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from datasets.api.presentation import import_answer
from datasets.examples.kinds import example_line, parse_example
from datasets.files import folders, parquet
from datasets.imports import hub, importing
from datasets.imports.importers import ImportRequest
from datasets.imports.supervision import Supervisor
from datasets.models import Dataset, Import
from datasets.services.exports import export_lines
from datasets.tests.factory import jsonl, trace_body
from datasets.tests.fake_hub import Hub, Repository, serve
from tunixrt.refusals import NotHere, Refusal
from tunixrt.tests.plugin import ROOT

pytest.importorskip("huggingface_hub")
ID = "owner/sums"
REQUEST = ImportRequest(name="sums", version="v1")


@pytest.fixture
def the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one dataset, which this process and those that it starts ask."""
    from huggingface_hub import constants  # noqa: PLC0415 - the core does without it
    from huggingface_hub.utils import close_session  # noqa: PLC0415 - as above

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.repositories[ID] = Repository()
        running.repositories[ID].push({"README.md": b"# Sums", "data/train.jsonl": lines(1, 2)})
        yield running
        close_session()


def lines(*numbers: int) -> bytes:
    return jsonl(*map(trace_body, numbers))


def import_now(user: User, *, request: ImportRequest = REQUEST, **asked: Any) -> Import:
    """Submit, and do what the process does."""
    row = importing.submit_hub(
        asked=hub.HubRequest(**({"hub": ID} | asked)), request=request, by=user
    )
    return work_on(row)


def work_on(row: Import) -> Import:
    lock = folders.try_lock(row.pk)
    assert lock is not None
    try:
        importing.work_on(row.pk)
    finally:
        os.close(lock)
    row.refresh_from_db()
    return row


def numbers() -> list[int]:
    return [
        int(json.loads(line)["final_answer"]) - 1 for line in export_lines(Dataset.objects.get())
    ]


class TestImporting:
    def test_a_process_fetches_and_imports_it(
        self, transactional_db: None, the_hub: Hub, user: User
    ):
        row = importing.submit_hub(asked=hub.HubRequest(ID), request=REQUEST, by=user)
        supervisor = Supervisor()
        supervisor.attend()
        (process,) = supervisor._processes
        process.wait(300)
        row.refresh_from_db()
        assert (row.state, row.problem) == ("completed", "")
        assert numbers() == [1, 2]
        commit = the_hub.repositories[ID].resolve("main")
        provenance = Dataset.objects.get().provenance
        assert (provenance["hub"], provenance["revision"]) == (ID, "main")
        assert (provenance["commit"], provenance["file"]) == (commit, "data/train.jsonl")
        assert the_hub.fetched() == ["data/train.jsonl"]
        assert not folders.folder_of(row.pk).exists()

    def test_several_files_are_one_dataset_in_the_order_of_their_names(
        self, the_hub: Hub, user: User
    ):
        the_hub.repositories[ID].push(
            {
                "data/train-00001.jsonl.gz": gzip.compress(lines(2)),
                "data/train-00000.jsonl.gz": gzip.compress(lines(1)),
                "data/test-00000.jsonl": lines(3),
                "script.py": b"raise SystemExit",
                ".gitattributes": b"",
                "dataset_infos.json": b"{}",
            }
        )
        row = import_now(user, held_out_files=["data/test-*"])
        assert row.state == "completed", row.problem
        assert numbers() == [3, 1, 2]
        dataset = Dataset.objects.get()
        assert (dataset.size, dataset.held_out_size) == (3, 1)
        assert [file["file"] for file in dataset.provenance["files"]] == [
            "data/test-00000.jsonl", "data/train-00000.jsonl.gz", "data/train-00001.jsonl.gz",
        ]  # fmt: skip
        assert row.bytes_total == sum(file["bytes"] for file in dataset.provenance["files"])
        assert "script.py" not in the_hub.fetched()
        assert len(row.source["data_files"]) == 3
        assert "data_files" not in import_answer(row)["source"]  # a page has a hundred imports

    def test_parquet_on_the_branch_of_conversions(self, the_hub: Hub, user: User):
        pytest.importorskip("pyarrow")
        lines = [trace_line(number) for number in (1, 2)]
        the_hub.repositories[ID].push({"sums.py": b""})
        the_hub.repositories[ID].push(
            {"default/train/0000.parquet": b"".join(parquet.write(lines, "trace"))},
            branch="refs/convert/parquet",
        )
        assert "refs/convert/parquet" in import_now(user).problem
        row = import_now(user, revision="refs/convert/parquet")
        assert row.state == "completed", row.problem
        assert (numbers(), row.source["revision"]) == ([1, 2], "refs/convert/parquet")

    def test_names_set_no_part_unless_that_is_asked_for(self, the_hub: Hub, user: User):
        the_hub.repositories[ID].push({"train.jsonl": lines(1), "test.jsonl": lines(2)})
        assert import_now(user).state == "completed"
        assert Dataset.objects.get().held_out_size == 0

    def test_columns_of_no_known_format_wait_with_the_files(
        self, the_hub: Hub, user: User, api: APIClient
    ):
        rows = jsonl({"frage": "1+1?", "antwort": "2"}, {"frage": "2+1?", "antwort": "3"})
        the_hub.repositories[ID].push({"a/empty.jsonl": b"", "a/train.jsonl": rows})
        row = import_now(user)
        assert (row.state, row.problem, row.dataset) == ("draft", "", None)
        address = f"/api/datasets/imports/{row.pk}/mapping"
        assert api.get(address).json()["columns"] == ["frage", "antwort"]
        mapping = {"prompt": "frage", "completion": "antwort"}
        api.post(address, {"format": "prompt_completion", "mapping": mapping}, format="json")
        commit = row.source["commit"]
        the_hub.repositories[ID].push({"a/train.jsonl": lines(7)})  # the commit is fixed
        assert work_on(row).state == "completed", row.problem
        dataset = Dataset.objects.get()
        assert (dataset.size, dataset.provenance["commit"]) == (2, commit)
        assert the_hub.fetched() == ["a/train.jsonl"]  # once
        assert not folders.folder_of(row.pk).exists()

    def test_bad_lines_name_their_file(self, the_hub: Hub, user: User):
        the_hub.repositories[ID].push({"a.jsonl": lines(1), "b.jsonl": lines(2) + b"42\n"})
        row = import_now(user)
        assert row.detail["errors"][0]["line"] == 2
        assert row.detail["errors"][0]["reason"].startswith("b.jsonl: is a number")

    def test_a_file_that_cannot_be_read_is_named(self, the_hub: Hub, user: User):
        the_hub.repositories[ID].push({"a.jsonl": lines(1), "b.jsonl": b"\xff\xfe{\x00"})
        assert import_now(user).problem.startswith("file: b.jsonl: The file is UTF-16.")

    def test_the_commit_of_the_first_attempt_counts(
        self, the_hub: Hub, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        row = importing.submit_hub(asked=hub.HubRequest(ID), request=REQUEST, by=user)
        monkeypatch.setattr(importing, "read_parts", exit_now)
        with pytest.raises(SystemExit):
            work_on(row)
        monkeypatch.undo()
        monkeypatch.setenv("HF_ENDPOINT", the_hub.url)
        first = the_hub.repositories[ID].resolve("main")
        the_hub.repositories[ID].push({"data/train.jsonl": lines(7)})
        assert work_on(row).state == "completed", row.problem
        assert (numbers(), row.source["commit"]) == ([1, 2], first)
        assert the_hub.fetched() == ["data/train.jsonl"]  # once

    def test_it_is_cancelled_while_it_fetches(
        self, transactional_db: None, the_hub: Hub, user: User
    ):
        row = importing.submit_hub(asked=hub.HubRequest(ID), request=REQUEST, by=user)

        def cancel(request: str) -> None:
            if request.startswith("GET ") and "/resolve/" in request:
                importing.cancel_import(row=Import.objects.get(), by=user)
                connection.close()  # of the hub's thread

        the_hub.before = cancel
        work_on(row)
        assert (row.state, the_hub.fetched()) == ("cancelled", ["data/train.jsonl"])
        assert not Dataset.with_incomplete.exists()
        assert not folders.folder_of(row.pk).exists()


def trace_line(number: int) -> bytes:
    return example_line(parse_example(trace_body(number)), "train")


def exit_now(*arguments: Any, **options: Any) -> None:
    raise SystemExit


class TestRefused:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (
                {"hub": "owner/not-there"},
                "The Hub has no dataset owner/not-there, or it is private",
            ),
            ({"revision": "v9"}, "has no revision v9"),
            ({"revision": "0" * 40}, "has no revision 000"),
            ({"files": ["*.csv"]}, "No file is named *.csv; there are README.md, data/train.jsonl"),
            ({"files": ["README.md"]}, "README.md cannot be imported. Files of data end with"),
            ({"config": "main"}, "No data file is of config main"),
            ({"split": "test"}, "No data file is of split test"),
            ({"held_out_files": ["*"]}, "All of the data files would be held out"),
            ({"held_out_files": ["x"]}, "None of the data files would be held out"),
        ],
    )
    def test_what_is_not_there_is_said(
        self, the_hub: Hub, user: User, asked: dict[str, Any], said: str
    ):
        row = import_now(user, **asked)
        assert row.state == "failed"
        assert said in row.problem
        assert the_hub.fetched() == []
        assert not Dataset.with_incomplete.exists()

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"sums.py": b"import os"}, "has a loading script only (sums.py), which is never run"),
            (
                {"a.arrow": b""},
                "has no file of data (.jsonl, .json, .csv, .tsv, .parquet): a.arrow",
            ),
            ({}, "it is empty"),
            (
                {"a/train.jsonl": b"", "b/train.jsonl": b""},
                "There are several configurations: a, b. Choose one with config",
            ),
            ({"a.jsonl": b"", "a.csv": b""}, "data files of several kinds (csv, jsonl)"),
            ({"../a.jsonl": b"{}"}, "has no file of data"),
            ({"/etc/a.jsonl": b"{}"}, "has no file of data"),
        ],
    )
    def test_what_cannot_be_chosen_is_said(
        self, the_hub: Hub, user: User, files: dict[str, bytes], said: str
    ):
        the_hub.repositories[ID].push(files)
        assert said in import_now(user).problem
        assert the_hub.fetched() == []

    def test_gated(self, the_hub: Hub, user: User):
        the_hub.repositories[ID].gated = True
        assert "is gated: an operator must accept its terms" in import_now(user).problem

    def test_too_large(self, the_hub: Hub, user: User, settings: LazySettings):
        settings.TUNIXRT_UPLOAD_MAX_BYTES = 100
        row = import_now(user)
        assert "the limit is 100 (TUNIXRT_UPLOAD_MAX_BYTES)" in row.problem
        assert the_hub.fetched() == []

    def test_offline(self, the_hub: Hub, user: User, monkeypatch: pytest.MonkeyPatch):
        from huggingface_hub import constants  # noqa: PLC0415 - as above

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        from huggingface_hub.utils import close_session  # noqa: PLC0415 - as above

        close_session()
        assert "This server is offline (HF_HUB_OFFLINE=1)" in import_now(user).problem
        assert the_hub.asked == []

    def test_no_hub_there(
        self, the_hub: Hub, user: User, monkeypatch: pytest.MonkeyPatch, port: Any
    ):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port.number}")
        assert "The Hub cannot be reached from this server" in import_now(user).problem

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"hub": "sums"}, "hub"),
            ({"hub": "a/b/c"}, "hub"),
            ({"hub": "../etc"}, "hub"),
            ({"hub": "a/..b"}, "hub"),
            ({"hub": "https://x/y"}, "hub"),
            ({"hub": "a/b\n"}, "hub"),
            ({"revision": ""}, "revision"),
            ({"revision": "../main"}, "revision"),
            ({"revision": "-x"}, "revision"),
        ],
    )
    def test_what_is_no_id_is_refused_at_once(self, user: User, asked: dict[str, Any], field: str):
        with pytest.raises(Refusal) as error:
            importing.submit_hub(
                asked=hub.HubRequest(**({"hub": ID} | asked)), request=REQUEST, by=user
            )
        assert list(error.value.messages) == [field]
        assert not Import.objects.exists()


class TestApi:
    def test_it_is_answered_at_once(self, the_hub: Hub, api: APIClient):
        body = {"hub": ID, "name": "sums", "version": "v1", "files": ["data/*"]}
        answer = api.post("/api/datasets/imports", body, format="json")
        assert answer.status_code == 202, answer.content
        assert answer.json()["source"] == {
            "type": "hub", "file": ID, "hub": ID, "revision": "main", "files": ["data/*"],
        }  # fmt: skip
        assert the_hub.asked == []
        page = api.get(f"/api/datasets/imports/{answer.json()['id']}").json()
        assert page["phase"] == ""

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"path": "/x"}, "path"),
            ({"hub": ""}, "hub"),
            ({"held_out": 5, "held_out_files": ["x"]}, "held_out"),
            ({"hub": "", "path": "/x", "files": []}, "files"),
            ({"files": [5]}, "files"),
            ({"files": ["x"] * 101}, "files"),
            ({"files": ["x" * 501]}, "files"),
            ({"config": "x" * 5_000}, "config"),
        ],
    )
    def test_what_is_wrong_is_named(self, api: APIClient, change: dict[str, Any], field: str):
        body = {"hub": ID, "name": "sums", "version": "v1"} | change
        answer = api.post("/api/datasets/imports", body, format="json")
        assert (answer.status_code, field in answer.json()) == (400, True), answer.content

    def test_without_the_client_the_answer_says_how_to_install_it(
        self, api: APIClient, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
        answer = api.post(
            "/api/datasets/imports", {"hub": ID, "name": "sums", "version": "v1"}, format="json"
        )
        assert answer.status_code == NotHere.status
        assert hub.INSTALL in answer.json()["detail"]


class TestCommand:
    COMMAND = ("import_jsonl", "--hub", ID, "--name", "sums", "--version", "v1")

    def test_it_fetches_and_imports_it_by_itself(
        self, db: None, the_hub: Hub, capsys: pytest.CaptureFixture[str]
    ):
        first = the_hub.repositories[ID].push(
            {"data/train.jsonl": lines(1, 2), "data/test.jsonl": lines(3), "x.csv": b""}
        )
        the_hub.repositories[ID].push({"data/train.jsonl": lines(9)})
        options = ("--revision", first, "--config", "data", "--held-out-files", "*test*")
        call_command(*self.COMMAND, *options, "--licence", "MIT")
        assert "Stored sums-v1: 3 examples (2 to train on, 1 held out" in capsys.readouterr().out
        dataset = Dataset.objects.get()
        assert (dataset.provenance["commit"], dataset.licence) == (first, "MIT")
        row = Import.objects.get()
        assert (row.state, row.source["hub"], row.source["commit"]) == ("completed", ID, first)
        assert not folders.folder_of(row.pk).exists()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--revision", "v9"), "has no revision v9"),
            (("--files", "*.csv"), "No file is named"),
            (("--held-out-files", "x", "--held-out", "5"), "give one or the other"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, db: None, the_hub: Hub, options: tuple[str, ...], said: str
    ):
        with pytest.raises(CommandError, match=said):
            call_command(*self.COMMAND, *options)
        assert not Import.objects.exists()
        assert not folders.imports_folder().exists()

    def test_bad_lines_are_all_listed(
        self, db: None, the_hub: Hub, capsys: pytest.CaptureFixture[str]
    ):
        the_hub.repositories[ID].push({"a.jsonl": lines(1), "b.jsonl": b"42\n" * 150})
        with pytest.raises(CommandError, match="150 lines are not valid"):
            call_command(*self.COMMAND)
        said = capsys.readouterr().err.splitlines()
        assert len([line for line in said if line.startswith("line ")]) == 150
        assert not Dataset.with_incomplete.exists()


class TestPage:
    def test_it_is_chosen_on_the_page_of_uploads(self, the_hub: Hub, client: Client, user: User):
        client.force_login(user)
        form = client.get("/datasets/new").content.decode()
        assert 'name="hub"' in form and 'name="revision"' in form and 'name="config"' in form
        fields = {"name": "sums", "version": "v1", "hub": ID, "revision": "", "config": "data"}
        answer = client.post("/datasets/new", fields)
        row = Import.objects.get()
        assert answer["Location"] == f"/datasets/imports/{row.pk}"
        assert (row.source["revision"], row.source["config"]) == ("main", "data")
        assert work_on(row).state == "completed", row.problem

    def test_what_is_no_id_is_said_beside_its_field(self, client: Client, user: User):
        client.force_login(user)
        answer = client.post("/datasets/new", {"name": "sums", "version": "v1", "hub": "sums"})
        assert answer.status_code == 400
        assert "hub" in answer.context["form"].errors

    def test_without_the_client_there_is_no_such_field(
        self, client: Client, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
        client.force_login(user)
        assert 'name="hub"' not in client.get("/datasets/new").content.decode()


def test_a_web_server_loads_no_extra():
    program = """
import django, sys
django.setup()
from django.urls import get_resolver
get_resolver().url_patterns
import datasets.management.commands.work_on_import
print(sorted({"huggingface_hub", "pyarrow"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tunixrt.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_command_that_installs_it_is_right():
    assert "\nhub = [\n" in (Path(ROOT) / "pyproject.toml").read_text()
