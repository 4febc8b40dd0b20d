"""Going on after an end that was not planned."""

import json
import os
import shutil
import signal
import threading
import time
from argparse import Namespace

import pytest
from orbax.checkpoint.utils import is_tmp_checkpoint

from runs.runfolder.checkpoints import REQUIRED, complete_steps
from runs.spec.kinds import SFT
from runs.tests.checkpoint_layout import leave_checkpoints, stage_checkpoint
from runs.trainer.loop.checkpoints import Retention
from runs.trainer.tests.helpers import PATIENCE, arithmetic, line, write_llama

# 10,000 steps in a hundred epochs: a training that no test is too slow to stop
LONG = arithmetic(800)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def test_kill_and_resume_gives_the_uninterrupted_training(make_run):
    """kill -9 in the middle: at most one interval is lost, and the numbers afterwards are those of
    a run without the kill."""
    whole = make_run("whole", num_epochs=8, checkpoint_every_steps=5)
    assert whole.train() == 0

    killed = make_run("killed", num_epochs=8, checkpoint_every_steps=5)
    process = killed.start()
    wait_for(lambda: len(killed.losses()) >= 17)
    process.kill()
    process.communicate()
    before = max(killed.losses())
    saved = killed.checkpoints()
    assert saved, "no checkpoint survived"
    # One interval, and the steps that these tiny models take while the next checkpoint is being
    # written.
    assert before - max(saved) <= 2 * 5

    assert killed.train() == 0

    assert killed.result()["resumed_from_step"] == max(saved)
    assert killed.losses() == pytest.approx(whole.losses(), rel=1e-5)
    assert killed.result()["tokens"] == whole.result()["tokens"]
    assert killed.result()["loss_first"] == whole.result()["loss_first"]
    assert killed.result()["eval_loss_before"] == whole.result()["eval_loss_before"]
    assert killed.result()["eval_loss_after"] == pytest.approx(
        whole.result()["eval_loss_after"], rel=1e-5
    )


def check_stopped(run, code, err, way):
    assert code == 17
    step = run.checkpoints()[-1]
    assert step == max(run.losses())
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith(
            f"tunix: interrupted: stopped by {way} after step {step} of 10000; a checkpoint"
        )
    )
    assert not (run.folder / "result.json").exists()
    assert not (run.folder / "model").exists()


def test_sigterm_saves_at_the_step_boundary(make_run):
    run = make_run(examples=LONG, num_epochs=100, checkpoint_every_steps=None)
    process = run.start()
    wait_for(lambda: len(run.losses()) >= 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)

    check_stopped(run, process.returncode, err, "SIGTERM")


@pytest.mark.parametrize("way", ["stop.json", "SIGINT"])
def test_other_stop_requests_save_at_the_step_boundary(make_run, capsys, way):
    """In this process, which a training makes its own for as long as it lasts."""
    run = make_run(examples=LONG, num_epochs=100, checkpoint_every_steps=None)

    def ask():
        wait_for(lambda: len(run.losses()) >= 3)
        if way == "stop.json":
            (run.folder / "stop.json").write_text(
                '{"reason": "cancel", "by": "test", "at": "2024-01-01T00:00:00.000000Z"}'
            )
        else:
            os.kill(os.getpid(), signal.SIGINT)

    asking = threading.Thread(target=ask)
    asking.start()
    code = run.train()
    asking.join()

    check_stopped(run, code, capsys.readouterr().err, way)


def test_resume_from_another_runs_checkpoints(make_run):
    first = make_run("first", num_epochs=2)
    assert first.train() == 0
    longer = make_run(
        "longer", num_epochs=4, lr_schedule="constant", resume_from="../first/checkpoints"
    )

    assert longer.train() == 0

    assert longer.result()["resumed_from_step"] == 10
    assert longer.result()["steps"] == 20
    assert min(longer.losses()) == 11
    assert first.checkpoints() == [5, 10]  # left as they were


def test_a_torn_line_of_metrics_is_dropped(make_run, trained):
    run = make_run(num_epochs=1)
    shutil.copytree(trained.folder, run.folder, dirs_exist_ok=True)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"time": 12.5, "step": 6, "val')

    assert run.train() == 0

    assert [entry for entry in run.metrics() if "plan" in entry][-1]["plan"][
        "resumed_from_step"
    ] == 5


def test_an_unfinished_checkpoint_is_passed_over(make_run):
    """What a kill in the middle of a save leaves: a folder under orbax's temporary name."""
    run = make_run(num_epochs=2, checkpoint_every_steps=5)
    assert run.train() == 0
    newest = run.folder / "checkpoints" / "10"
    os.rename(newest, newest.with_name("10.orbax-checkpoint-tmp-1"))

    assert run.train() == 0

    assert run.result()["resumed_from_step"] == 5
    assert run.checkpoints() == [5, 10]
    assert not list((run.folder / "checkpoints").glob("*tmp*"))


# tensorstore's readers come back after orbax has closed the loop they were started from.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(make_run, capsys):
    run = make_run(num_epochs=2, checkpoint_every_steps=5)
    assert run.train() == 0
    for path in (run.folder / "checkpoints" / "10").rglob("*"):
        if path.is_file() and "METADATA" not in path.name.upper():
            path.write_bytes(b"")

    assert run.train() == 0

    assert "The checkpoint of step 10 cannot be read and is passed over" in capsys.readouterr().out
    assert run.result()["resumed_from_step"] == 5
    assert run.train() == 0  # step 10 has been saved again
    assert run.result()["resumed_from_step"] == 10


@pytest.mark.parametrize("name", REQUIRED)
def test_a_checkpoint_that_has_lost_a_file_is_passed_over_and_saved_again(make_run, name):
    run = make_run(num_epochs=2, checkpoint_every_steps=5)
    assert run.train() == 0
    (run.folder / "checkpoints" / "10" / name).unlink()

    assert run.train() == 0

    assert run.result()["resumed_from_step"] == 5
    assert complete_steps(run.folder / "checkpoints") == [5, 10]


def test_the_identity_is_that_of_the_training_whose_checkpoints_are_complete(make_run, trained):
    """What is left of another training's checkpoint, which nobody can restore, is in nobody's
    way."""
    run = make_run(num_epochs=1, seed=1)
    shutil.copytree(trained.folder / "checkpoints", run.folder / "checkpoints")
    (run.folder / "checkpoints" / "5" / "_CHECKPOINT_METADATA").unlink()

    assert run.train() == 0

    assert json.loads((run.folder / "checkpoints" / "identity.json").read_text())["seed"] == 1
    assert complete_steps(run.folder / "checkpoints") == [5]


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"lora_rank": 4}, "lora_rank is None there and 4 here"), ({"seed": 1}, "seed is 0")],
)
def test_checkpoints_of_other_settings_are_refused(make_run, trained, capsys, setting, words):
    other = make_run(num_epochs=1, **setting)
    shutil.copytree(trained.folder / "checkpoints", other.folder / "checkpoints")

    assert other.train() == 15

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("tunix: storage: the checkpoints in ")
    assert words in last


def test_checkpoints_of_another_model_are_refused(make_run, trained, tmp_path, capsys):
    write_llama(tmp_path / "wide", intermediate_size=80)
    other = make_run(
        num_epochs=1, model=tmp_path / "wide", resume_from=str(trained.folder / "checkpoints")
    )

    assert other.train() == 15

    assert "are of another training: model_config is" in capsys.readouterr().err


def test_resume_from_nothing_is_said(make_run, capsys):
    run = make_run(num_epochs=1, resume_from="../nowhere")
    assert run.train() == 15
    assert "there is no folder" in capsys.readouterr().err


def test_best_checkpoints_are_kept_besides_the_last(make_run):
    """What is learnt is the opposite of what is held out: the held-out loss is best early, before
    the first answer is sure."""
    examples = [
        line(f"x{i}", "which?", "no" * 9 if i >= 40 else "on" * 9, held_out=i >= 40)
        for i in range(48)
    ]
    run = make_run(examples=examples, num_epochs=8, learning_rate=2e-2, keep_last_checkpoints=1)
    assert run.train() == 0

    measured = {
        m["step"]: m["values"]["eval_loss"]
        for m in run.metrics()
        if "eval_loss" in m.get("values", {}) and m["step"]
    }
    best = min(measured, key=measured.get)
    assert best < 40
    assert run.checkpoints() == [best, 40]


def test_retention_keeps_the_newest_and_the_best():
    retention = Retention(last=2, best=2)
    retention.eval_losses.update({10: 3.0, 20: 1.0, 30: 2.0, 40: 2.0, 50: 5.0})
    steps = [Namespace(step=step) for step in (10, 20, 30, 40, 50, 60)]
    assert retention.should_preserve(steps, context=None) == [False, True, True, False, True, True]
    assert retention.is_among_best(1.5, [10, 20, 30])
    assert not retention.is_among_best(2.0, [10, 20, 30])
    assert retention.is_among_best(9.0, [20])
    assert not Retention(last=1, best=0).is_among_best(0.0, [])


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, [1, 2, 3, 4, 5]), (10_080, [5])])
def test_checkpoints_by_minutes(make_run, minutes, steps):
    """The time has passed after every step, or after none but the last, which is always saved."""
    run = make_run(
        num_epochs=1,
        checkpoint_every_steps=None,
        checkpoint_every_minutes=minutes,
        keep_last_checkpoints=1000,
    )
    assert run.train() == 0
    assert run.checkpoints() == steps


def test_what_scripted_programs_leave_unfinished_is_unfinished_for_orbax(tmp_path):
    """The same temporary name: programs that stand in for a training that is killed while it saves
    leave what it leaves."""
    leave_checkpoints(tmp_path, 5, model_id="m", training=SFT.defaults())
    stage_checkpoint(tmp_path, 6)
    staged = [
        path.name
        for path in (tmp_path / "checkpoints").iterdir()
        if path.is_dir() and is_tmp_checkpoint(path)
    ]
    assert staged == ["6.orbax-checkpoint-tmp"]
