"""Functions of operators that score: the server finds and hashes their files, and runs none."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from runs.models import Score
from runs.runfolder import names
from runs.services.evaluations import clean_evaluation
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest
from runs.spec.manifest import parse_manifest
from runs.spec.scorers import choose
from runs.tests.conftest import Evaluate
from tunixrt.checks import check_scorer_folders

pytestmark = pytest.mark.django_db
FATAL = "raise SystemExit('the server has executed it')\n"


def ask(**parameters: Any) -> dict[str, Any]:
    return {"name": "python", "parameters": {"function": "grade.py:score"} | parameters}


def cleaned(**parameters: Any) -> dict[str, Any]:
    asked = {"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama"}
    request = clean_evaluation(asked | {"scorers": [ask(**parameters)]})
    found: dict[str, Any] = request.training["scorers"][0]["parameters"]
    return found


@pytest.fixture
def root(tmp_path: Path, settings: LazySettings) -> Path:
    folder = (tmp_path / "scorers").resolve()
    folder.mkdir(mode=0o700)
    settings.TUNIX_SCORER_ROOTS = [folder]
    return folder


@pytest.fixture
def grade(root: Path) -> Path:
    (root / "grade.py").write_text(FATAL)
    return root / "grade.py"


def test_the_hash_of_the_file_is_a_part_of_the_scorer(grade: Path):
    first = cleaned()
    assert first["sha256"] == hashlib.sha256(FATAL.encode()).hexdigest()
    assert cleaned(sha256=first["sha256"]) == first

    grade.write_text(FATAL + "# edited\n")

    hashes = {choose([ask(**parameters)])[0].hash for parameters in (first, cleaned())}
    assert len(hashes) == 2  # another scorer, with another leaderboard
    with pytest.raises(InvalidRequest, match=r"grade\.py was changed: it has the hash"):
        cleaned(sha256=first["sha256"])


def test_one_function_is_not_chosen_twice(grade: Path):
    asked = [ask(), ask(sha256=hashlib.sha256(FATAL.encode()).hexdigest())]
    with pytest.raises(InvalidRequest, match="chosen twice"):
        clean_evaluation(
            {"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama", "scorers": asked}
        )


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "large", "nothing"])
def test_what_is_no_file_of_the_operators_is_refused(root: Path, tmp_path: Path, kind: str):
    path = root / "grade.py"
    outside = tmp_path / "outside.py"
    outside.write_text(FATAL)
    match kind:
        case "link":
            path.symlink_to(outside)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "large":
            path.write_text("#" * (2**20 + 1))

    with pytest.raises(InvalidRequest, match="Scorer python: "):
        cleaned()


def test_what_runs_write_is_never_executed(settings: LazySettings, output_root: Path):
    folder = output_root / "run"
    folder.mkdir(parents=True)
    (folder / "grade.py").write_text(FATAL)
    settings.TUNIX_SCORER_ROOTS = [folder]

    with pytest.raises(InvalidRequest, match=r"no file grade\.py"):
        cleaned()
    assert [one.id for one in check_scorer_folders(None)] == ["tunixrt.E013"]


def test_a_folder_that_others_can_write_to_is_said_at_start(root: Path):
    assert check_scorer_folders(None) == []
    root.chmod(0o777)
    assert [one.id for one in check_scorer_folders(None)] == ["tunixrt.W011"]


def test_without_folders_there_is_no_such_scorer():
    with pytest.raises(InvalidRequest, match="TUNIX_SCORER_ROOTS"):
        cleaned()


def test_the_training_program_gets_the_path_and_the_hash_of_the_submission(
    grade: Path, evaluate: Evaluate
):
    run = evaluate({"python": [0.25, 0.75]}, scorers=[ask()])

    manifest = parse_manifest((run_folder(run) / names.MANIFEST).read_text())
    assert manifest["scorer_files"] == {"grade.py": str(grade)}
    [scorer] = manifest["evaluation"]["scorers"]
    assert scorer["parameters"]["sha256"] == hashlib.sha256(FATAL.encode()).hexdigest()
    score = Score.objects.get(evaluation=run.pk)
    assert score.mean == 0.5
    assert score.scorer["parameters"] == scorer["parameters"]
