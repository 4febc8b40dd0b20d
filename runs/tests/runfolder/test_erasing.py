"""Examples go from the files of a run that has ended, and from nothing else."""

import json
import os
import uuid
from pathlib import Path

import pytest

from runs.runfolder import erasing, files, names
from runs.runfolder.erasing import InUse, erase_examples

GONE, KEPT = str(uuid.uuid4()), str(uuid.uuid4())


def lines(*ids: str) -> str:
    return "".join(json.dumps({"id": each, "messages": ["text of " + each]}) + "\n" for each in ids)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    (path / "rollouts" / "deep").mkdir(parents=True)
    return path


def test_lines_that_name_an_erased_example_go_and_the_others_stay(folder: Path) -> None:
    (folder / names.DATASET).write_text(lines(KEPT, GONE, KEPT))
    rollout = [{"example": {"trace_id": GONE.upper()}, "text": "x"}, {"trace_id": KEPT}]
    nested = folder / "rollouts" / "deep" / "0001.jsonl"
    nested.write_text("".join(json.dumps(each) + "\n" for each in rollout) + "no newline")
    (folder / "items.jsonl").write_text(lines(KEPT))
    os.chmod(folder / names.DATASET, 0o640)
    untouched = (folder / "items.jsonl").stat()
    assert erase_examples(folder, [GONE]) == 2
    assert (folder / names.DATASET).read_text() == lines(KEPT, KEPT)
    assert nested.read_text() == json.dumps(rollout[1]) + "\nno newline"
    assert (folder / names.DATASET).stat().st_mode & 0o777 == 0o640
    assert (folder / "items.jsonl").stat().st_ino == untouched.st_ino
    assert erase_examples(folder, [GONE]) == 0  # again: nothing is left
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_what_shows_examples_without_ids_goes(folder: Path) -> None:
    (folder / names.SEEN).write_text("{}")
    (folder / "cache" / "key").mkdir(parents=True)
    (folder / "cache" / "key" / "tokens.bin").write_bytes(b"tokens")
    files.write_json(folder / names.RESULT, {"loss": 1, "samples": [{"prompt": "secret"}]})
    (folder / f".{names.DATASET}.abcdefgh").write_text(lines(GONE))  # of a killed launcher
    (folder / f"{erasing.TEMPORARY}0011").write_text(lines(GONE))  # of a killed erasure
    (folder / names.METRICS).write_text(json.dumps({"note": GONE}) + "\n")
    assert erase_examples(folder, [GONE]) == 5
    assert files.read_json(folder / names.RESULT) == {"loss": 1, "samples": []}
    assert sorted(os.listdir(folder)) == sorted([names.METRICS, names.RESULT, "rollouts"])


def test_nothing_outside_the_folder_is_touched(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dataset.jsonl").write_text(lines(GONE))
    (outside / "result.json").write_text('{"samples": [1]}')
    (folder / "link.jsonl").symlink_to(outside / "dataset.jsonl")
    (folder / "linked").symlink_to(outside)
    (folder / "cache").symlink_to(outside)
    (folder / "gone.jsonl").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "folder.jsonl").mkdir()
    (folder / names.RESULT).symlink_to(outside / "result.json")
    assert erase_examples(folder, [GONE]) == 1  # the link in place of the result
    assert (outside / "dataset.jsonl").read_text() == lines(GONE)
    assert (outside / "result.json").read_text() == '{"samples": [1]}'


def test_a_folder_that_a_process_holds_is_left(folder: Path) -> None:
    (folder / names.DATASET).write_text(lines(GONE))
    lock = files.try_lock(folder / names.LOCK)
    assert lock is not None
    with pytest.raises(InUse):
        erase_examples(folder, [GONE])
    assert (folder / names.DATASET).read_text() == lines(GONE)
    os.close(lock)
    assert erase_examples(folder, [GONE]) == 1


def test_a_line_without_end_is_refused_and_the_file_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "LINE_MAX_BYTES", 1_000)
    (folder / "a.jsonl").write_text(lines(GONE) + "x" * 5_000)
    with pytest.raises(OSError, match="has a line of more than"):
        erase_examples(folder, [GONE])
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_folder_that_is_gone_has_no_files(folder: Path) -> None:
    assert erase_examples(folder / "nothing", [GONE]) == 0
