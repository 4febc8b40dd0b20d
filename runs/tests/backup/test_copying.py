"""Copying a run's folder while a training writes to it. What happens in between is done when the
copy has got that far."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runs.backup.archive import Damaged, path_parts
from runs.backup.copying import FolderCopy, copy_folder, opened
from runs.runfolder import names
from runs.runfolder.checkpoints import BINDING, complete_steps
from runs.runfolder.tree import bytes_below, remove_tree
from runs.tests.checkpoint_layout import (
    checkpoint_files,
    leave_checkpoints,
    name_checkpoint,
    stage_checkpoint,
)
from tunixrt.tests.plugin import ROOT

TRAINING = dict.fromkeys(BINDING)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is executing and has saved twice."""
    folder = tmp_path / "root" / "run"
    folder.mkdir(parents=True)
    for name in (names.LOCK, names.KEEPER, names.MANIFEST, names.STDOUT):
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
    os.utime(run / names.STDOUT, ns=(10**18, 10**18))

    target, copy = copied(run)

    kept = {file.path for file in copy.files}
    assert kept == {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    top = {
        names.KEEPER,
        names.MANIFEST,
        names.STDOUT,
        "checkpoints/identity.json",
        "model/.gitattributes",
    }
    assert kept == top | checkpoint_names(5) | checkpoint_names(10)
    assert (target / names.STDOUT).stat().st_mtime_ns == 10**18
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
    log = run / names.STDOUT
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
            copies.append((target / names.STDOUT).read_bytes())
            assert copy.warnings == []
            shutil.rmtree(target)
    finally:
        over.set()
        writer.join()

    assert all(len(each) >= 200_000 and log.read_bytes().startswith(each) for each in copies)


def test_an_end_that_comes_while_the_rest_is_copied_is_left_out(run: Path) -> None:
    """With it, what was copied before would pass for all that the training has left."""
    target, _ = copied(run, at={1: lambda: (run / names.EXIT).write_text("{}")})
    assert not (target / names.EXIT).exists()

    shutil.rmtree(target)
    assert (copied(run)[0] / names.EXIT).exists()


def test_a_checkpoint_that_is_being_written_is_left_out(run: Path) -> None:
    stage_checkpoint(run, 15)
    shutil.copytree(run / "checkpoints" / "10", run / "checkpoints" / "12")
    (run / "checkpoints" / "12" / "_CHECKPOINT_METADATA").unlink()

    target, _ = copied(run)

    assert sorted(path.name for path in (target / "checkpoints").iterdir()) == [
        "10",
        "5",
        "identity.json",
    ]


FIRST_OF_THE_NEWEST = 5  # three files and identity.json come before


def test_a_checkpoint_that_is_removed_while_it_is_copied_is_left_out_and_the_one_before_is_whole(
    run: Path,
) -> None:
    """Removed in any order: its metadata may have been copied before."""

    def remove_data() -> None:
        shutil.rmtree(run / "checkpoints" / "10" / "optimizer_state")

    target, copy = copied(run, at={FIRST_OF_THE_NEWEST: remove_data})

    assert complete_steps(target / "checkpoints") == [5]
    assert {file.path for file in copy.files if "/5/" in file.path} == checkpoint_names(5)
    assert not [file for file in copy.files if "/10/" in file.path]
    assert copy.warnings == []


def test_when_all_known_checkpoints_are_replaced_meanwhile_the_new_ones_are_copied(
    run: Path,
) -> None:
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
    # "checkpoints" itself is another folder then: what was opened is empty, so no further one is
    # found
    target, copy = copied(
        run, at={FIRST_OF_THE_NEWEST + offset: replace for offset in range(count)}
    )

    assert complete_steps(target / "checkpoints") == []
    (warning,) = copy.warnings
    assert warning.startswith(
        "none of its checkpoints is in this backup: they were replaced faster"
    )


class TestWhatCannotBeCopied:
    """Left out with a warning: no run keeps the others from being backed up."""

    def test_folders_in_folders_without_end(
        self, run: Path, leave_deep_folders: Callable[[Path], None]
    ) -> None:
        leave_deep_folders(run)

        target, copy = copied(run)

        assert copy.warnings == [
            "what lies deeper than 64 folders or has a path of more than 2,000 bytes is left out"
        ]
        assert (target / names.STDOUT).exists()
        assert bytes_below(run) > 0
        remove_tree(run)
        assert not run.exists()

    def test_paths_that_are_too_long_for_another_place(self, run: Path) -> None:
        (run / Path(*["x" * 200] * 9) / "kept").mkdir(parents=True)
        (run / Path(*["x" * 200] * 9) / ("y" * 200)).write_text("left out")
        target, copy = copied(run)
        assert len(copy.warnings) == 1
        assert [path.name for path in (target / Path(*["x" * 200] * 9)).iterdir()] == ["kept"]

    def test_a_file_that_claims_to_be_larger_than_the_disk(self, run: Path) -> None:
        with (run / "huge").open("wb") as file:
            file.truncate(2**42)
        before = bytes_below(run)
        assert before < 2**30
        target, copy = copied(run)
        assert copy.warnings == [
            "huge cannot be copied: it claims to have 4,398,046,511,104 bytes and has next to none"
            " on disk"
        ]
        assert not (target / "huge").exists()

    @pytest.mark.skipif(
        shutil.which("setpriv") is None, reason="without setpriv (util-linux) root reads everything"
    )
    def test_what_may_not_be_read(self, run: Path) -> None:
        (run / "closed").mkdir()
        (run / "closed" / "file").write_text("x")
        (run / "closed").chmod(0)
        (run / names.MANIFEST).chmod(0)
        (run / "checkpoints" / "10" / "_CHECKPOINT_METADATA").chmod(0)
        code = (
            "import sys; from pathlib import Path; from runs.backup.copying import copy_folder,"
            " opened\nwith opened(Path(sys.argv[1]), ['run']) as source:\n    copy ="
            " copy_folder(source, Path(sys.argv[2]), progress=lambda size:"
            " None)\nprint(*copy.warnings, sep='\\n')"
        )
        as_others = (
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
            if os.geteuid() == 0
            else []
        )
        target = run.parents[1] / "copy"
        program = [*as_others, sys.executable, "-c", code, str(run.parent), str(target)]
        said = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout

        assert said.splitlines() == [
            "manifest.yaml cannot be copied: Permission denied",
            "a folder in it cannot be read (Permission denied)",
            "checkpoints/10/_CHECKPOINT_METADATA cannot be copied: Permission denied",
        ]
        assert complete_steps(target / "checkpoints") == [5]


def test_what_is_removed_before_it_is_read_is_left_out(run: Path) -> None:
    (run / "a").write_text("x")
    (run / "b").write_text("x")
    target, _ = copied(run, at={1: (run / "b").unlink})
    assert (target / "a").exists()
    assert not (target / "b").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "a//b", "/a", "a/", "a\0", ".hosts", None, 7, ["a"], "a/b/.."]
)
def test_a_name_that_could_lead_elsewhere_is_no_path(name: object) -> None:
    with pytest.raises(Damaged):
        path_parts(name)
