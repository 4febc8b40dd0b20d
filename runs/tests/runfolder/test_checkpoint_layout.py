"""The checkpoints that tests make are those that the training program writes, and both sides agree
which are complete."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from benchmarks.chaos.house import TRAINER as CHAOS_TRAINER
from benchmarks.chaos.house import Journal, read_journal
from runs.models import Run
from runs.runfolder.checkpoints import (
    BEFORE,
    REQUIRED,
    complete_steps,
    first_difference,
    make_identity,
    read_identity,
)
from runs.services.reservations import run_folder
from runs.services.sources import find_source
from runs.spec.kinds import SFT
from runs.spec.manifest import build_manifest, dump_manifest
from runs.tests.checkpoint_layout import leave_checkpoints, stage_checkpoint
from runs.tests.leftovers import training_of

TINY = {
    "model_id": "preset:tiny-llama",
    "max_seq_length": 128,
    "batch_size": 3,
    "exact_match_examples": 0,
    "dry_run": False,
}


def layout(folder: Path) -> set[str]:
    """Files below ``folder`` by their path; a name that is a hash of the content stands as
    ``*``."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {re.sub(r"/d/[0-9a-f]{32}$", "/d/*", path) for path in paths}


@pytest.mark.tunix
@pytest.mark.django_db
def test_the_layout_is_that_of_a_real_training(
    api: APIClient, dataset: Any, settings: LazySettings, tmp_path: Path
) -> None:
    settings.TUNIX_SYNC_TIMEOUT_SECONDS = 300.0
    asked = {
        "dataset_key": dataset.dataset_key,
        "max_steps": 2,
        "checkpoint_every_steps": 1,
        **TINY,
    }
    answer = api.post("/api/tunix/run", asked, format="json").json()
    assert answer["status"] == "completed", answer["stderr"]
    run = Run.objects.get()
    real = run_folder(run) / "checkpoints"

    leave_checkpoints(tmp_path, 1, 2, model_id=run.model_id, training=training_of(run))

    assert layout(tmp_path / "checkpoints") == layout(real)
    made = json.loads((tmp_path / "checkpoints" / "identity.json").read_text())
    found = json.loads((real / "identity.json").read_text())
    assert list(made) == list(found)
    assert {name: type(value) for name, value in made.items()} == {
        name: type(value) for name, value in found.items()
    }
    assert (
        first_difference(found, make_identity(model_id=run.model_id, training=training_of(run)))
        is None
    )
    assert complete_steps(real) == [1, 2]
    source = find_source(run)
    assert source is not None
    assert (source.run, source.step) == (run, 2)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    leave_checkpoints(tmp_path, 9, 10, 100, model_id="m", training=training_of(Run(config={})))
    return tmp_path / "checkpoints"


def test_steps_are_in_the_order_of_their_numbers(checkpoints: Path) -> None:
    assert complete_steps(checkpoints) == [9, 10, 100]


@pytest.mark.parametrize("name", REQUIRED)
def test_without_what_is_read_first_a_checkpoint_is_not_complete(
    checkpoints: Path, name: str
) -> None:
    (checkpoints / "100" / name).unlink()
    assert complete_steps(checkpoints) == [9, 10]


def test_other_names_and_links_are_no_checkpoints(checkpoints: Path) -> None:
    for name in ("010", "10.orbax-checkpoint-tmp-1", "-1", "step-5", "²", "٣"):
        shutil.copytree(checkpoints / "9", checkpoints / name)
    (checkpoints / "11").symlink_to(checkpoints / "10")
    (checkpoints / "12").write_text("")
    assert complete_steps(checkpoints) == [9, 10, 100]


def test_what_is_left_before_the_first_checkpoint_is_none(tmp_path: Path) -> None:
    assert complete_steps(tmp_path / "checkpoints") == []
    leave_checkpoints(tmp_path, model_id="m", training=training_of(Run(config={})))
    assert complete_steps(tmp_path / "checkpoints") == []
    assert (read_identity(tmp_path / "checkpoints") or {})["model"] == "m"


def test_a_parameter_that_is_newer_than_the_checkpoints_has_its_default(checkpoints: Path) -> None:
    found = read_identity(checkpoints) or {}
    del found["prompt_style"]
    training = training_of(Run(config={}))
    assert first_difference(found, make_identity(model_id="m", training=training)) is None
    other = make_identity(model_id="m", training=training | {"prompt_style": "other"})
    assert first_difference(found, other) == "prompt_style"
    assert {name: SFT.parameters[name].default for name in BEFORE} == BEFORE


@pytest.mark.parametrize("content", ["", "[]", "{", '{"seed": NaN}', "\x00"])
def test_a_spoilt_identity_is_none(checkpoints: Path, content: str) -> None:
    (checkpoints / "identity.json").write_text(content)
    assert read_identity(checkpoints) is None


def test_the_trainer_of_the_chaos_harness_goes_on_from_the_newest_complete_checkpoint(
    tmp_path: Path,
) -> None:
    """It saves, keeps and finds checkpoints as the real one; its journal says so
    (benchmarks/chaos/trainer.py)."""
    plan = {
        "seed": 7,
        "kind": "relay",
        "steps": 9,
        "pause": 0,
        "code": 13,
        "output": "text",
        "save_every": 2,
        "leg": 5,
    }
    for name in ("plans", "journal"):
        (tmp_path / name).mkdir()
    (tmp_path / "plans" / "7.json").write_text(json.dumps(plan))
    training = SFT.defaults() | {"seed": 7}
    first = _train(tmp_path, "0001", training, resume_from=None)
    assert (first.code, first.begun, first.saved) == (13, 0, 4)
    assert complete_steps(tmp_path / "0001" / "checkpoints") == [2, 4]
    stage_checkpoint(tmp_path / "0001", 6)  # a kill came while it saved

    second = _train(tmp_path, "0002", training, resume_from=tmp_path / "0001" / "checkpoints")

    assert (second.code, second.begun, second.source, second.saved) == (
        13,
        4,
        tmp_path / "0001",
        None,
    )
    third = _train(tmp_path, "0003", training, resume_from=tmp_path / "0002" / "checkpoints")
    assert (third.code, third.begun) == (15, None)
    last = _train(tmp_path, "0005", training, resume_from=tmp_path / "0001" / "checkpoints")
    assert (last.code, last.begun, last.saved) == (0, 4, 9)
    assert layout(tmp_path / "0005" / "checkpoints" / "9") == layout(
        tmp_path / "0001" / "checkpoints" / "4"
    )


def _train(
    workshop: Path, run_id: str, training: dict[str, Any], *, resume_from: Path | None
) -> Journal:
    folder = workshop / run_id
    folder.mkdir()
    manifest = build_manifest(
        run_id=run_id,
        kind=SFT,
        dataset={"key": "d-v1", "path": "dataset.jsonl", "format": SFT.dataset_formats[0]},
        model={"id": "preset:tiny-llama", "path": None, "revision": None},
        training=training,
        resume_from=None if resume_from is None else str(resume_from),
    )
    (folder / "manifest.yaml").write_text(dump_manifest(manifest), encoding="utf-8")
    command = [
        sys.executable,
        "-I",
        "-S",
        str(CHAOS_TRAINER),
        str(workshop),
        "train",
        "--config",
        "manifest.yaml",
    ]
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "TUNIXRT_RUN_ID": run_id},
        capture_output=True,
        check=False,
    )
    return read_journal(workshop, run_id)
