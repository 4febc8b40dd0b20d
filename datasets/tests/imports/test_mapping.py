"""Columns of other names: the screen, and the API, by which they are given a meaning."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.files import folders
from datasets.imports import importing
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import remove_old_drafts
from datasets.imports.mapping import SHAPES, guess
from datasets.models import Dataset, Import
from datasets.tests.factory import jsonl, jsonl_file, work_on

ROWS = [{"frage": f"{n}+1?", "antwort": str(n + 1), "stars": n} for n in range(25)]


@pytest.fixture
def browser(local_client: Client) -> Client:
    return local_client


@pytest.fixture
def send(browser: Client) -> Callable[..., Any]:
    def send(*rows: Any, version: str = "v1", **fields: str) -> Any:
        file = SimpleUploadedFile("sums.jsonl", jsonl(*rows))
        data = {"file": file, "name": "sums", "version": version} | fields
        return browser.post("/datasets/new", data)

    return send


def choices(page: str) -> dict[str, str]:
    """What is chosen in each list."""
    return {
        name: found[0] if (found := re.findall(r"<option[^>]* selected>([^<]*)", options)) else ""
        for name, options in re.findall(r'<select name="(\w+)"(.*?)</select>', page, re.S)
    }


def test_a_file_of_no_known_format_is_kept_until_its_columns_have_a_meaning(
    browser: Client, send: Callable[..., Any]
) -> None:
    answer = send(*ROWS, held_out="5", description="Sums")
    row = Import.objects.get()
    address = f"/datasets/imports/{row.pk}/mapping"
    assert (answer.status_code, answer["Location"]) == (302, address)
    assert (row.state, Dataset.with_incomplete.exists()) == ("draft", False)

    page = browser.get(address).content.decode()
    assert page.count('data-testid="preview"') == 20
    assert "0+1?" in page
    chosen = {"shape": "question_answer", "prompt": "frage", "completion": "antwort"}
    shown = browser.post(address, chosen | {"show": "rows"})
    assert shown["Location"] == f"{address}?shape=question_answer&prompt=frage&completion=antwort"
    page = browser.get(shown["Location"]).content.decode()
    assert choices(page)["prompt"] == "frage"
    assert page.count('data-testid="preview-problem"') == 20  # the stars
    assert "is an example with a rating (stars)" in page

    chosen |= {"ignore": "stars"}
    page = browser.get(address, chosen).content.decode()
    assert 'data-testid="preview-problem"' not in page
    assert page.count('data-testid="message-assistant"') == 20
    assert "&quot;prompt&quot;: &quot;frage&quot;" in page

    assert browser.post(address, chosen)["Location"] == f"/datasets/imports/{row.pk}"
    work_on(row)
    dataset = Dataset.objects.get()
    assert (dataset.size, dataset.held_out_size, dataset.description) == (25, 5, "Sums")
    assert dataset.provenance["mapping"] == {"prompt": "frage", "completion": "antwort"}
    assert dataset.provenance["ignore"] == ["stars"]
    assert browser.get(address)["Location"] == f"/datasets/imports/{row.pk}"


def test_what_was_said_the_last_time_is_offered_again(
    browser: Client, send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_address = send(*ROWS)["Location"]
    chosen = {"shape": "prompt", "prompt": "frage", "answer": "antwort", "ignore": "stars"}
    browser.post(row_address, chosen)
    work_on(Import.objects.get())
    # however many imports of known formats came since
    monkeypatch.setattr("datasets.imports.importing.REMEMBERED", 1)
    send({"prompt": "1+1?", "completion": "2"}, name="known")
    page = browser.get(send(*ROWS, version="v2")["Location"]).content.decode()
    assert choices(page) == {
        "shape": "a question, with the reference answer that a reward compares with",
        "prompt": "frage",
        "answer": "antwort",
    }
    assert 'value="stars" checked' in page


def test_a_required_field_without_a_column_is_named(
    browser: Client, send: Callable[..., Any]
) -> None:
    address = send(*ROWS)["Location"]
    answer = browser.post(address, {"shape": "question_answer", "prompt": "frage"})
    assert answer.status_code == 400
    assert "Answer: choose a column." in answer.content.decode()
    twice = {"shape": "question_answer", "prompt": "frage", "completion": "frage"}
    answer = browser.post(address, twice)
    assert "Names a field or column of the file twice." in answer.content.decode()
    assert Import.objects.get().state == "draft"


def test_a_name_that_was_taken_in_the_meantime_is_said(
    browser: Client, send: Callable[..., Any]
) -> None:
    address = send(*ROWS)["Location"]
    send({"prompt": "1+1", "completion": "2"})
    chosen = {"shape": "question_answer", "prompt": "frage", "completion": "antwort"}
    answer = browser.post(address, chosen)
    assert (answer.status_code, "exists already" in answer.content.decode()) == (400, True)


@pytest.mark.parametrize(
    ("columns", "shape", "mapping"),
    [
        (["id", "Query", "Reply"], "question_answer", {"prompt": "Query", "completion": "Reply"}),
        (
            ["task", "ctx", "model_output"],
            "instruction",
            {"instruction": "task", "output": "model_output"},
        ),
        (
            ["user_query", "better_one", "worse_one"],
            "pair",
            {"prompt": "user_query", "chosen": "better_one", "rejected": "worse_one"},
        ),
        (["chat_log", "x"], "chat", {"messages": "chat_log"}),
    ],
)
def test_a_guess_is_made_by_the_words_in_names(
    columns: list[str], shape: str, mapping: dict[str, str]
) -> None:
    found, guessed = guess(columns)
    assert (found.name, guessed) == (shape, mapping)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_shape_shows_its_fields(
    browser: Client, send: Callable[..., Any], shape: Any
) -> None:
    page = browser.get(send({"a": "1", "b": "2"})["Location"], {"shape": shape.name})
    assert set(choices(page.content.decode())) == {"shape", *(slot.name for slot in shape.slots)}


@pytest.mark.parametrize(
    "row", [{"<b>": "<script>alert(1)</script>"}, {"a\x00b": "c"}, {"a": None}]
)
def test_hostile_names_and_cells_are_text(
    browser: Client, send: Callable[..., Any], row: dict[str, Any]
) -> None:
    answer = send(row)
    if answer.status_code == 302:
        page = browser.get(answer["Location"]).content.decode()
        assert "<script>alert" not in page
        assert "<b>" not in page


def test_others_do_not_see_a_file_without_meaning(
    remote_client: Client, user: User, send: Callable[..., Any]
) -> None:
    address = send(*ROWS)["Location"]
    remote_client.force_login(user)
    assert remote_client.get(address).status_code == 403
    assert remote_client.post(address, {"shape": "text"}).status_code == 403


def test_it_is_forgotten_when_it_is_cancelled_or_old(
    browser: Client, send: Callable[..., Any]
) -> None:
    first, second = send(*ROWS)["Location"], send(*ROWS, version="v2")["Location"]
    browser.post(first.replace("mapping", "cancel"))
    old, new = Import.objects.order_by("created_at")
    assert (old.state, new.state) == ("cancelled", "draft")
    assert not folders.folder_of(old.pk).exists()
    remove_old_drafts()
    assert Import.objects.get(pk=new.pk).state == "draft"
    Import.objects.update(created_at=timezone.now() - importing.DRAFT_LIFETIME - timedelta(hours=1))
    remove_old_drafts()
    assert Import.objects.get(pk=new.pk).state == "cancelled"
    assert not any(folders.imports_folder().iterdir())
    assert browser.get(second)["Location"] == f"/datasets/imports/{new.pk}"


CHOSEN = {"shape": "question_answer", "prompt": "frage", "completion": "antwort", "ignore": "stars"}
BODY = {
    "format": "prompt_completion",
    "mapping": {"prompt": "frage", "completion": "antwort"},
    "ignore": ["stars"],
}


class TestAFileOfTheServer:
    @pytest.fixture
    def path(self, tmp_path: Path, settings: LazySettings) -> Path:
        root = (tmp_path / "data").resolve()
        root.mkdir()
        settings.TUNIX_DATA_ROOTS = [root]
        (root / "sums.jsonl").write_bytes(jsonl(*ROWS))
        return root / "sums.jsonl"

    @pytest.fixture
    def address(self, browser: Client, path: Path) -> str:
        fields = {"path": str(path), "name": "sums", "version": "v1"}
        return str(browser.post("/datasets/new", fields)["Location"])

    def test_is_read_where_it_is(self, browser: Client, address: str, path: Path) -> None:
        row = Import.objects.get()
        assert (address, row.state) == (f"/datasets/imports/{row.pk}/mapping", "draft")
        assert not (folders.folder_of(row.pk) / folders.SOURCE).exists()
        assert row.source["bytes"] == path.stat().st_size
        assert browser.get(address).content.decode().count('data-testid="preview"') == 20
        browser.post(address, CHOSEN)
        assert work_on(row).state == "completed", row.problem
        assert Dataset.objects.get().provenance["path"] == str(path)

    def test_that_has_changed_is_refused(self, browser: Client, address: str, path: Path) -> None:
        path.write_bytes(jsonl(*ROWS, {"frage": "?", "antwort": "!"}))
        for answer in (browser.get(address), browser.post(address, CHOSEN)):
            assert answer.status_code == 400
            assert "has changed since the import was requested" in answer.content.decode()
        assert Import.objects.get().state == "draft"
        browser.post(address.replace("mapping", "cancel"))
        assert Import.objects.get().state == "cancelled"

    def test_that_changes_after_the_choice_fails(
        self, browser: Client, address: str, path: Path
    ) -> None:
        browser.post(address, CHOSEN)
        path.write_bytes(jsonl(*ROWS[1:]))
        row = work_on(Import.objects.get())
        assert (row.state, "has changed" in row.problem) == ("failed", True)

    def test_of_a_known_format_is_imported_at_once(self, browser: Client, path: Path) -> None:
        path.write_bytes(jsonl({"prompt": "1+1", "completion": "2"}))
        fields = {"path": str(path), "name": "sums", "version": "v1"}
        browser.post("/datasets/new", fields)
        assert Import.objects.get().state == "pending"

    def test_counts_among_the_drafts(
        self, browser: Client, address: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importing, "DRAFTS_MAX", 1)
        fields = {"path": str(path), "name": "sums", "version": "v2"}
        answer = browser.post("/datasets/new", fields)
        assert "wait for a mapping" in answer.content.decode()
        (left,) = folders.imports_folder().iterdir()
        assert left.name in address


class TestByAProcess:
    """A process that finds no known format keeps the files and gives the name back."""

    @pytest.fixture
    def row(self, user: User) -> Import:
        row = importing.submit_file(
            file=jsonl_file(*ROWS),
            request=ImportRequest(name="sums", version="v1", held_out=5),
            file_name="sums.jsonl",
            by=user,
        )
        return work_on(row)

    def test_it_waits_for_a_mapping(self, browser: Client, row: Import) -> None:
        assert (row.state, row.dataset, row.phase) == ("draft", None, "")
        assert not Dataset.with_incomplete.exists()
        page = browser.get(f"/datasets/imports/{row.pk}").content.decode()
        assert f'href="/datasets/imports/{row.pk}/mapping"' in page
        work_on(row)  # a process that comes late
        assert (folders.folder_of(row.pk) / folders.SOURCE).exists()

    def test_it_continues_when_it_has_one(self, browser: Client, row: Import) -> None:
        browser.post(f"/datasets/imports/{row.pk}/mapping", CHOSEN)
        work_on(row)
        assert (row.state, row.examples_stored, row.problem) == ("completed", 25, "")
        assert Dataset.objects.get().held_out_size == 5
        assert not folders.folder_of(row.pk).exists()

    def test_its_day_begins_when_it_waits(self, row: Import) -> None:
        long_ago = timezone.now() - 2 * importing.DRAFT_LIFETIME
        Import.objects.update(created_at=long_ago)
        remove_old_drafts()
        assert Import.objects.get().state == "draft"
        Import.objects.update(ended_at=long_ago)
        remove_old_drafts()
        assert Import.objects.get().state == "cancelled"

    def test_one_that_is_cancelled_before_does_not_wait(self, user: User) -> None:
        row = importing.submit_file(
            file=jsonl_file(*ROWS),
            request=ImportRequest(name="sums", version="v1"),
            file_name="",
            by=user,
        )
        importing.cancel_import(row=row, by=user)
        assert work_on(row).state == "cancelled"
        assert not Dataset.with_incomplete.exists()

    def test_it_fails_where_too_many_wait(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importing, "DRAFTS_MAX", 0)
        row = importing.submit_file(
            file=jsonl_file(*ROWS),
            request=ImportRequest(name="sums", version="v1"),
            file_name="",
            by=user,
        )
        work_on(row)
        assert (row.state, "wait for a mapping" in row.problem) == ("failed", True)
        assert not Dataset.with_incomplete.exists()


class TestByTheApi:
    @pytest.fixture
    def address(self, api: APIClient) -> str:
        answer = api.post(
            "/api/datasets/ingest?mode=async",
            {
                "file": SimpleUploadedFile("sums.jsonl", jsonl(*ROWS)),
                "name": "sums",
                "version": "v1",
            },
        )
        work_on(Import.objects.get())
        return f"/api/datasets/imports/{answer.json()['id']}/mapping"

    def test_columns_and_a_suggestion_are_read(self, api: APIClient, address: str) -> None:
        found = api.get(address).json()
        assert found["columns"] == ["frage", "antwort", "stars"]
        assert len(found["rows"]) == 20
        assert found["rows"][1] == {
            "number": 2, "row": {"frage": "1+1?", "antwort": "2", "stars": "1"}, "problem": "",
        }  # fmt: skip
        assert [shape["title"] for shape in found["shapes"]] == [shape.title for shape in SHAPES]
        assert found["suggestion"].keys() == {"format", "kind", "mapping", "ignore"}

    def test_a_dry_run_says_what_the_rows_would_become(self, api: APIClient, address: str) -> None:
        found = api.post(f"{address}?dry_run=true", BODY, format="json")
        assert found.status_code == 200, found.content
        assert found.json()["rows"][2] == {
            "number": 3,
            "problem": "",
            "example": {
                "kind": "trace",
                "prompt": "2+1?",
                "steps": [],
                "final_answer": "3",
                "meta": {"stars": 2},
            },
        }
        refused = api.post(f"{address}?dry_run=true", BODY | {"ignore": []}, format="json").json()
        assert refused["rows"][2]["example"] is None
        assert "is an example with a rating (stars)" in refused["rows"][2]["problem"]
        assert Import.objects.get().state == "draft"

    def test_a_mapping_makes_it_continue(self, api: APIClient, address: str) -> None:
        answer = api.post(address, BODY, format="json")
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        assert work_on(Import.objects.get()).state == "completed"
        for again in (api.get(address), api.post(address, BODY, format="json")):
            assert again.status_code == 409

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "mapping"),
            ({"mapping": {"nothing": "frage"}}, "mapping"),
            ({"mapping": {"prompt": 5}}, "mapping"),
            ({"mapping": []}, "mapping"),
            ({"format": "none"}, "format"),
            ({"format": "text", "kind": "none"}, "kind"),
            ({"format": "text", "name": "other"}, "name"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, api: APIClient, address: str, body: dict[str, Any], field: str
    ) -> None:
        answer = api.post(address, body, format="json")
        assert (answer.status_code, field in answer.json()) == (400, True), answer.content

    def test_a_name_that_was_taken_in_the_meantime_is_a_conflict(
        self, api: APIClient, address: str, user: User
    ) -> None:
        importing.import_file(
            file=jsonl_file({"prompt": "1+1", "completion": "2"}),
            request=ImportRequest(name="sums", version="v1"),
            by=user,
        )
        assert api.post(address, BODY, format="json").status_code == 409
        assert Import.objects.get(state="draft").dataset is None
