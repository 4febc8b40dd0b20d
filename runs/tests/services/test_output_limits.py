"""stdout and stderr of a row: the end of the output, at most 10,240 bytes of valid UTF-8, whatever
the trainer wrote."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from runs.models import Run
from runs.services.reservations import run_folder
from runs.tests.conftest import Script

pytestmark = pytest.mark.django_db
LIMIT = 10_240
NOTICE = "[earlier output cut; all of it is in stdout.log]\n"
Answer = dict[str, Any]


@pytest.fixture
def stdout_of(api: APIClient, body: Answer, scripted: Script) -> Callable[[bytes], str]:
    """What the row keeps of the bytes that a training wrote; the folder must have them all."""

    def train(written: bytes) -> str:
        halves = [written[: len(written) // 2], written[len(written) // 2 :]]
        scripted(*(["write", 1, half.hex()] for half in halves))
        answer = api.post("/api/tunix/run", body | {"dry_run": False}, format="json").json()
        assert answer["status"] == "completed"
        run = Run.objects.get(pk=answer["run_id"])
        assert (run_folder(run) / "stdout.log").read_bytes() == written
        assert run.stdout == answer["stdout"]
        kept: str = run.stdout
        return kept

    return train


def test_output_of_exactly_the_limit_is_whole(stdout_of: Callable[[bytes], str]):
    written = b"x" * (LIMIT - 1) + b"\n"

    assert stdout_of(written) == written.decode()


def test_one_byte_more_keeps_the_end_and_says_so_within_the_limit(
    stdout_of: Callable[[bytes], str],
):
    kept = stdout_of(b"a" + b"x" * (LIMIT - 1) + b"\n")

    assert len(kept.encode()) == LIMIT
    assert kept.startswith(NOTICE)
    assert kept.endswith("x\n")
    assert "a" not in kept.removeprefix(NOTICE)


@pytest.mark.parametrize("character", ["é", "✓", "🙂"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_cut_never_leaves_half_a_character(
    stdout_of: Callable[[bytes], str], character: str, shift: int
):
    kept = stdout_of(b"x" * shift + character.encode() * 8_000)

    assert LIMIT - 4 < len(kept.encode()) <= LIMIT
    assert set(kept.removeprefix(NOTICE)) == {character}


def test_nul_and_bytes_that_are_no_text_are_replaced_and_the_rest_is_kept(
    stdout_of: Callable[[bytes], str],
):
    kept = stdout_of(b"a\x00b\xff\xfec\xed\xa0\x80d\xc3\n")

    assert kept.startswith("a\ufffdb\ufffd\ufffdc\ufffd")
    assert kept.endswith("d\ufffd\n")
    assert "\x00" not in kept


def test_replacing_does_not_push_it_over_the_limit(stdout_of: Callable[[bytes], str]):
    kept = stdout_of(b"\xff" * LIMIT)

    assert len(kept.encode()) <= LIMIT
    assert set(kept.removeprefix(NOTICE)) == {"\ufffd"}


def test_nothing_at_all_is_empty(stdout_of: Callable[[bytes], str]):
    assert stdout_of(b"") == ""


def test_another_limit_can_be_set(stdout_of: Callable[[bytes], str], settings: LazySettings):
    settings.TUNIX_OUTPUT_MAX_BYTES = 256

    kept = stdout_of(b"0123456789" * 100)

    assert len(kept.encode()) == 256
    assert kept.endswith("0123456789")


def test_megabytes_on_both_streams_are_no_burden(api: APIClient, body: Answer, scripted: Script):
    scripted(["complain", "first"], ["flood", 8], ["complain", "last"])

    answer = api.post("/api/tunix/run", body | {"dry_run": False}, format="json").json()

    assert len(answer["stdout"].encode()) == LIMIT
    assert answer["stderr"] == "first\nlast\n"
    assert (run_folder(Run.objects.get()) / "stdout.log").stat().st_size == 8 * 2**20


def test_the_reasons_of_a_failed_dry_run_are_held_to_it_too(
    api: APIClient, body: Answer, settings: LazySettings, tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("models").resolve()
    settings.TUNIX_MODEL_ROOTS = [root]
    settings.TUNIX_OUTPUT_MAX_BYTES = 256

    answer = api.post(
        "/api/tunix/run", body | {"model_id": f"{root}/{'é' * 100}"}, format="json"
    ).json()

    assert answer["status"] == "failed"
    assert 0 < len(answer["stderr"].encode()) <= 256
