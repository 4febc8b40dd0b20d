"""Columns of other names: the screen on which they are given a meaning."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from datasets import folders, imports
from datasets.imports import remove_old_drafts
from datasets.mapping import SHAPES, guess
from datasets.models import Dataset, Import
from datasets.tests.factory import jsonl, work_on

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
    browser: Client, send: Callable[..., Any]
) -> None:
    row_address = send(*ROWS)["Location"]
    chosen = {"shape": "prompt", "prompt": "frage", "answer": "antwort", "ignore": "stars"}
    browser.post(row_address, chosen)
    work_on(Import.objects.get())
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
    Import.objects.update(created_at=timezone.now() - imports.DRAFT_LIFETIME - timedelta(hours=1))
    remove_old_drafts()
    assert Import.objects.get(pk=new.pk).state == "cancelled"
    assert not any(folders.imports_folder().iterdir())
    assert browser.get(second)["Location"] == f"/datasets/imports/{new.pk}"
