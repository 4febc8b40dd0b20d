"""Copying a run's folder while a training writes to it. What happens in between is done when the copy has got that far."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runs import folder as run_folders
from runs.backup.archive import Damaged, path_parts
from runs.backup.copying import FolderCopy, copy_folder, opened
from runs.checkpoint_folder import BINDING, complete_steps
from runs.tests.checkpoint_layout import checkpoint_files, leave_checkpoints, name_checkpoint, stage_checkpoint

TRAINING = dict.fromkeys(BINDING)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is executing and has saved twice."""
    folder = tmp_path / "root" / "run"
    folder.mkdir(parents=True)
    for name in (run_folders.LOCK, run_folders.KEEPER, run_folders.MANIFEST, run_folders.STDOUT):
        (folder / name).write_text(name)
    leave_checkpoints(folder, 5, 10, model_id="m", training=TRAINING)
    return folder


def copied(run: Path, at: dict[int, Callable[[], object]] | None = None) -> tuple[Path, FolderCopy]:
    """Copy the run; ``at``: what happens when so many files have been copied."""
    target = run.parents[1] / "copy"
    count = 0

    def progress(size: int) -> None:
        nonlocal count
        count += 1
        (at or {}).get(count, lambda: None)()

    with opened(run.parent, [run.name]) as source:
        return target, copy_folder(source, target, progress=progress)


def checkpoint_names(step: int) -> set[str]:
    return set(checkpoint_files(step))


def test_all_but_lock_and_temporary_names_is_copied_with_its_times(run: Path) -> None:
    for name in (".exit.json.reserved", ".stop.json.12345678", "checkpoints/.removed.1/x"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    (run / "model").mkdir()
    (run / "model" / ".gitattributes").write_text("kept")
    os.utime(run / run_folders.STDOUT, ns=(10**18, 10**18))

    target, copy = copied(run)

    names = {file.path for file in copy.files}
    assert names == {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    top = {run_folders.KEEPER, run_folders.MANIFEST, run_folders.STDOUT, "checkpoints/identity.json", "model/.gitattributes"}
    assert names == top | checkpoint_names(5) | checkpoint_names(10)
    assert (target / run_folders.STDOUT).stat().st_mtime_ns == 10**18
    assert all(path.stat().st_mode & 0o077 == 0 for path in [target, *target.rglob("*")])


def test_no_link_is_followed(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (run / "link").symlink_to(secret / "file")
    (run / "folder").symlink_to(secret)
    os.mkfifo(run / "pipe")

    target, _ = copied(run)

    assert not {"link", "folder", "pipe"} & {path.name for path in target.iterdir()}
    shutil.rmtree(run)
    run.symlink_to(secret)
    with pytest.raises(NotADirectoryError), opened(run.parent, [run.name]):
        pass


def test_a_log_that_grows_is_copied_as_far_as_it_reached(run: Path) -> None:
    """Whenever the writer comes: the copy is a beginning of the log."""
    log = run / run_folders.STDOUT
    log.write_bytes(b"0123456789" * 20_000)
    over = threading.Event()

    def write() -> None:
        with log.open("ab") as file:
            while not over.wait(0.001):
                file.write(os.urandom(1000))
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = []
        for _ in range(5):
            target, copy = copied(run)
            copies.append((target / run_folders.STDOUT).read_bytes())
            assert copy.warnings == []
            shutil.rmtree(target)
    finally:
        over.set()
        writer.join()

    assert all(len(each) >= 200_000 and log.read_bytes().startswith(each) for each in copies)


def test_an_end_that_comes_while_the_rest_is_copied_is_left_out(run: Path) -> None:
    """With it, what was copied before would pass for all that the training has left."""
    target, _ = copied(run, at={1: lambda: (run / run_folders.EXIT).write_text("{}")})
    assert not (target / run_folders.EXIT).exists()

    shutil.rmtree(target)
    assert (copied(run)[0] / run_folders.EXIT).exists()


def test_a_checkpoint_that_is_being_written_is_left_out(run: Path) -> None:
    stage_checkpoint(run, 15)
    shutil.copytree(run / "checkpoints" / "10", run / "checkpoints" / "12")
    (run / "checkpoints" / "12" / "_CHECKPOINT_METADATA").unlink()

    target, _ = copied(run)

    assert sorted(path.name for path in (target / "checkpoints").iterdir()) == ["10", "5", "identity.json"]


FIRST_OF_THE_NEWEST = 5  # three files and identity.json come before


def test_a_checkpoint_that_is_removed_while_it_is_copied_is_left_out_and_the_one_before_is_whole(run: Path) -> None:
    """Removed in any order: its metadata may have been copied before."""

    def remove_data() -> None:
        shutil.rmtree(run / "checkpoints" / "10" / "optimizer_state")

    target, copy = copied(run, at={FIRST_OF_THE_NEWEST: remove_data})

    assert complete_steps(target / "checkpoints") == [5]
    assert {file.path for file in copy.files if "/5/" in file.path} == checkpoint_names(5)
    assert not [file for file in copy.files if "/10/" in file.path]
    assert copy.warnings == []


def test_when_all_known_checkpoints_are_replaced_meanwhile_the_new_ones_are_copied(run: Path) -> None:
    def replace() -> None:
        for step in (5, 10):
            shutil.rmtree(run / "checkpoints" / str(step))
        stage_checkpoint(run, 15)
        name_checkpoint(run, 15)

    target, copy = copied(run, at={FIRST_OF_THE_NEWEST: replace})

    assert complete_steps(target / "checkpoints") == [15]
    assert copy.warnings == []


def test_a_training_that_replaces_them_faster_than_that_is_reported(run: Path) -> None:
    def replace() -> None:
        shutil.rmtree(run / "checkpoints")
        leave_checkpoints(run, 99, model_id="m", training=TRAINING)

    shutil.rmtree(run / "checkpoints" / "5")
    count = len(checkpoint_names(10))
    # "checkpoints" itself is another folder then: what was opened is empty, so no further one is found
    target, copy = copied(run, at={FIRST_OF_THE_NEWEST + offset: replace for offset in range(count)})

    assert complete_steps(target / "checkpoints") == []
    assert copy.warnings == ["its checkpoints were replaced faster than they could be copied, so none is in this backup"]


def test_what_is_removed_before_it_is_read_is_left_out(run: Path) -> None:
    (run / "a").write_text("x")
    (run / "b").write_text("x")
    target, _ = copied(run, at={1: (run / "b").unlink})
    assert (target / "a").exists()
    assert not (target / "b").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "a//b", "/a", "a/", "a\0", ".hosts", None, 7, ["a"], "a/b/.."])
def test_a_name_that_could_lead_elsewhere_is_no_path(name: object) -> None:
    with pytest.raises(Damaged):
        path_parts(name)
