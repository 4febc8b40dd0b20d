"""Whatever names and texts a training leaves in its folder: every file is listed, read and removed,
and no page fails."""

import html
import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from runs.models import Run, RunStatus
from runs.services.reservations import run_folder
from runs.tests.leftovers import make_run

NAMES = [
    "line\nfeed", "\nfirst", "last\n", "carriage\rreturn", "both\r\nof them", "tab\there", "-rf",
    "--", "100%", "%0A", "%252e", "a?b=c", "a#b", "a&amp;b", "<script>alert(1)</script>",
    "\"'`$(id)", "back\\slash", " blank ", "~", "a;b", "a+b", "a:b", "@", "[x]", "{{ x }}",
    "\u202eexe.txt", "\u05d0\u05d1", "\x01\x7f", "\u0085", "\u2028", "e\u0301", "\U0001f600",
    "w" * 255, "\u00e9" * 127,
]  # fmt: skip


@pytest.fixture
def run(db: None) -> Run:
    """An ended run with a file and a checkpoint of every name, whose content is the name."""
    owner = User.objects.create_user("owner")
    files = {
        f"{folder}{name}": name.encode()
        for name in NAMES
        for folder in ("", "checkpoints/", f"model/{name}/")
    }
    return make_run(owner, status=RunStatus.COMPLETED, files=files)


def page_of(client: Client, run: Run) -> str:
    response = client.get(f"/runs/{run.pk}")
    assert response.status_code == 200
    return response.content.decode()


def addresses(page: str, pattern: str) -> list[str]:
    return [html.unescape(address) for address in re.findall(pattern, page)]


def test_every_file_of_a_page_is_downloaded_from_its_link(local_client: Client, run: Run):
    links = addresses(page_of(local_client, run), r'href="(/api/tunix/runs/[^"]*/artifacts/[^"]*)"')
    contents = []
    for link in links:
        answer = local_client.get(link)
        assert answer.status_code == 200, link
        contents.append(b"".join(answer).decode())
        assert "\n" not in answer["Content-Disposition"]
    assert sorted(contents) == sorted(3 * NAMES)


def test_every_checkpoint_is_deleted_by_its_button(local_client: Client, run: Run):
    actions = addresses(page_of(local_client, run), r'action="(/runs/[^"]*/remove-file[^"]*)"')
    assert len(actions) == len(NAMES) + 1  # each checkpoint, and the model
    for action in actions:
        local_client.post(action)
    assert list((run_folder(run) / "checkpoints").iterdir()) == []
    assert not (run_folder(run) / "model").exists()


def test_the_api_lists_reads_and_removes_them(api: APIClient, run: Run):
    api.force_authenticate(run.owner)
    base = f"/api/tunix/runs/{run.pk}/artifacts"
    assert {row["path"] for row in api.get(base).json()["data"] if row["kind"] == "other"} == set(
        NAMES
    )
    for name in NAMES:
        assert b"".join(api.get(f"{base}/{quote(name)}")) == name.encode()
        assert api.delete(f"{base}/checkpoints/{quote(name)}").json()["bytes_freed"] == len(
            name.encode()
        )


def test_a_name_that_is_not_text_is_left_out(local_client: Client, api: APIClient, run: Run):
    (Path(os.fsdecode(os.fsencode(run_folder(run)) + b"/not-\xff-text"))).write_bytes(b"x")
    assert "not-" not in page_of(local_client, run)
    assert "not-" not in api.get(f"/api/tunix/runs/{run.pk}/artifacts").content.decode()


def test_half_characters_in_the_files_of_a_run_are_replaced(local_client: Client, db: None):
    """JSON may name halves of surrogate pairs, which are no text that could be sent."""
    files = {
        "seen.json": rb'{"examples": [{"tokens": ["\ud83d", "a"], "learnt_from": 1, "length": 2}]}',
        "command.json": rb'{"argv": ["python", "\udcff"]}',
        "dataset.jsonl": rb'{"messages": [{"role": "user", "content": "\ud800"}]}' + b"\n",
    }
    run = make_run(User.objects.create_user("owner"), status=RunStatus.COMPLETED, files=files)
    assert "\ufffd" in page_of(local_client, run)
    seen = local_client.get(f"/runs/{run.pk}/samples")
    assert (seen.status_code, "\ufffd" in seen.content.decode()) == (200, True)
