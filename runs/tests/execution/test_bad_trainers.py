"""Trainers that misbehave: each has a stated outcome with the reason in words
(docs/reliability.md), through the whole system."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from runs.models import Run
from runs.runfolder.processes import processes_of_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Script
from runs.tests.launching import BEFORE_THE_COMMAND, Hold, wait_for

pytestmark = pytest.mark.django_db
Answer = dict[str, Any]


@pytest.fixture
def train(api: APIClient, body: Answer, scripted: Script) -> Callable[..., Answer]:
    """Run a script in the request; nothing of it may be left."""

    def post(*script: list[Any], **fields: Any) -> Answer:
        scripted(*script)
        response = api.post("/api/tunix/run", body | {"dry_run": False} | fields, format="json")
        assert response.status_code == 202, response.content
        answer: Answer = response.json()
        wait_for(
            lambda: not processes_of_run(answer["run_id"]),
            "the keeper's end, and that of whatever the training left",
        )
        return answer

    return post


def test_one_that_forks_away_has_ended_with_its_own_code(train: Callable[..., Answer]) -> None:
    answer = train(["say", "hello"], ["fork_away", 600])

    assert (answer["status"], answer["exit_code"], answer["stdout"]) == ("completed", 0, "hello\n")


def test_one_that_ignores_sigterm_is_killed(
    train: Callable[..., Answer],
    settings: LazySettings,
    hold: Callable[[str], Hold],
    output_root: Path,
) -> None:
    settings.TUNIX_STOP_WAIT_SECONDS = settings.TUNIX_TERM_GRACE_SECONDS = 0.2
    held = hold(BEFORE_THE_COMMAND)

    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(held.keep_waiting, output_root / "mine", "deaf")
        answer = train(
            ["ignore", "SIGTERM"],
            ["touch", "deaf"],
            ["sleep", 600],
            timeout_seconds=1,
            output_dir="mine",
        )
        waiting.result()

    assert (answer["status"], answer["exit_code"]) == ("timeout", None)
    assert "ignored SIGTERM for 0.2 seconds and was killed" in answer["message"]


def test_one_that_closes_its_output_is_waited_for(train: Callable[..., Answer]) -> None:
    answer = train(["say", "last words"], ["close_output"], ["steps", 5, 0.05], ["leave", 3])

    assert (answer["status"], answer["exit_code"], answer["stdout"]) == (
        "failed",
        3,
        "last words\n",
    )
    assert answer["step"] == 5


def test_a_flood_is_on_disk_and_its_end_in_the_row(train: Callable[..., Answer]) -> None:
    answer = train(["flood", 128], ["say", "the end"])

    log = run_folder(Run.objects.get()) / "stdout.log"
    assert answer["status"] == "completed"
    assert log.stat().st_size == 128 * (1 << 20) + len("the end\n")
    assert len(answer["stdout"].encode()) <= 10_240
    assert answer["stdout"].endswith("the end\n")


def test_bytes_that_are_no_text_are_kept_on_disk_and_replaced_in_the_row(
    train: Callable[..., Answer],
) -> None:
    raw = b"a\x00b\xc3"

    answer = train(["write", 1, raw.hex()], ["write", 2, b"\xff\xfe".hex()], ["leave", 1])

    assert (answer["status"], answer["stdout"], answer["stderr"]) == (
        "failed",
        "a\ufffdb\ufffd",
        "\ufffd\ufffd",
    )
    assert (run_folder(Run.objects.get()) / "stdout.log").read_bytes() == raw


def test_measurements_that_cannot_be_read_are_passed_over(train: Callable[..., Answer]) -> None:
    answer = train(["spoil_metrics"], ["steps", 3, 0])

    assert (answer["status"], answer["step"], answer["last_loss"]) == ("completed", 3, 1 / 3)


@pytest.mark.parametrize("options", [[], ["session"], ["stubborn"], ["session", "stubborn"]])
def test_a_child_that_is_left_behind_is_ended_and_said(
    train: Callable[..., Answer], options: list[str]
) -> None:
    answer = train(["child", "ready", 600, *options], ["leave", 1])

    assert answer["status"] == "failed"
    assert "Processes it had left behind were ended: 1." in answer["message"]


def test_exit_0_without_a_word_is_completed(train: Callable[..., Answer]) -> None:
    answer = train()

    assert (answer["status"], answer["exit_code"], answer["stdout"], answer["stderr"]) == (
        "completed",
        0,
        "",
        "",
    )
    assert answer["summary"] == {}


def test_an_output_folder_that_cannot_be_made_is_said(
    train: Callable[..., Answer], output_root: Path
) -> None:
    output_root.mkdir(exist_ok=True)
    (output_root / "shelf").write_text("a file where a folder has to be")

    answer = train(output_dir="shelf/mine")

    assert (answer["status"], answer["exit_code"]) == ("failed", None)
    assert (
        "cannot be written: Not a directory. Check the output root's permissions and free space."
        in answer["message"]
    )
