"""A training whose output root goes away for a moment, or for the rest of its time."""

import json
from contextlib import contextmanager

import pytest

from runs.runfolder.checkpoints import complete_steps
from runs.trainer.tests.helpers import PATIENCE, Run
from runs.trainer.tests.loop.test_resume import LONG, wait_for


@contextmanager
def away(root, *, mount_point):
    """Rename ``root``; with ``mount_point`` an empty folder is where it was, as after an unmount.

    Yield where the root is now. Fails if somebody created the root or wrote into the mount point.
    """
    aside = root.with_name("aside")
    root.rename(aside)
    if mount_point:
        root.mkdir()
    try:
        yield aside
        if mount_point:
            root.rmdir()
        assert not root.exists(), "the training created a second output root"
    finally:
        aside.rename(root)


@pytest.mark.parametrize("mount_point", [False, True], ids=["renamed", "unmounted"])
def test_a_training_saves_and_stops_while_its_root_is_away(make_run, tmp_path, mount_point):
    run = make_run("root/runs/one", examples=LONG, num_epochs=100, checkpoint_every_steps=1)
    root = tmp_path / "root"
    process = run.start()
    wait_for(lambda: complete_steps(run.folder / "checkpoints") or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]

    with away(root, mount_point=mount_point) as aside:
        hidden = Run(aside / "runs" / "one")
        before = max(hidden.checkpoints())
        wait_for(lambda: max(complete_steps(hidden.folder / "checkpoints")) >= before + 3)
    (run.folder / "stop.json").write_text(json.dumps({"reason": "cancel", "by": "test"}))
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 17, err
    assert max(complete_steps(run.folder / "checkpoints")) == max(run.losses())


def test_a_training_ends_while_its_root_is_away(make_run, tmp_path):
    run = make_run("root/runs/one", num_epochs=8, checkpoint_every_steps=1)
    process = run.start()
    wait_for(lambda: run.losses() or process.poll() is not None)

    with away(tmp_path / "root", mount_point=False):
        _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, err
    assert run.result()["checkpoint"].startswith("checkpoints/")
    assert (run.folder / "model" / "config.json").is_file()


def test_a_message_names_the_folder_by_its_own_path(make_run, tmp_path):
    run = make_run(resume_from="nowhere")
    code, _, err = run.finish()

    assert code == 15
    assert f"there is no folder {run.folder}/nowhere" in err
    assert "/proc/" not in err
