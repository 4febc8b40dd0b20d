"""Adding steps to a training that has reached its end."""

import json
import shutil

import numpy as np
import pytest

from runs.trainer.loop.optimizer import learning_rate, schedule_settings
from runs.trainer.tests.helpers import TRAINING, Run, arithmetic

STEADY = {"lr_schedule": "constant", "warmup_ratio": 0.0}


def checkpoints(run):
    return str(run.folder / "checkpoints")


def rates(run):
    return {
        m["step"]: m["values"]["learning_rate"]
        for m in run.metrics()
        if "learning_rate" in m.get("values", {})
    }


@pytest.fixture
def extend(make_run):
    """``extend(run, step, name=…, **training)``: a run that extends ``run`` from ``step``, not
    trained yet."""

    def make(run, step, *, name="extension", **training):
        return make_run(name, resume_from=checkpoints(run), extend_from_step=step, **training)

    return make


def test_it_goes_on_with_step_data_and_optimizer(make_run, extend):
    """With a constant learning rate it is the training that never ended."""
    whole = make_run("whole", num_epochs=3, **STEADY)
    first = make_run("first", num_epochs=1, **STEADY)
    assert (whole.train(), first.train()) == (0, 0)
    extension = extend(first, 5, num_epochs=2, **STEADY)

    assert extension.train() == 0

    assert extension.losses() == pytest.approx(
        {step: loss for step, loss in whole.losses().items() if step > 5}, rel=1e-5
    )
    result, of_first, of_whole = extension.result(), first.result(), whole.result()
    assert (result["steps"], result["resumed_from_step"], result["extended_from_step"]) == (
        15,
        5,
        5,
    )
    assert result["tokens"] == of_whole["tokens"]
    assert result["eval_loss_before"] == pytest.approx(of_first["eval_loss_after"], rel=1e-5)
    assert result["eval_loss_after"] == pytest.approx(of_whole["eval_loss_after"], rel=1e-5)
    assert result["loss_first"] == extension.losses()[6]
    assert first.checkpoints() == [5]  # left as it was
    plan = extension.metrics()[0]["plan"]
    assert (plan["total_steps"], plan["resumed_from_step"], plan["extended_from_step"]) == (
        15,
        5,
        5,
    )


def test_its_schedule_is_one_over_the_added_steps(extend, trained):
    extension = extend(trained, 5, num_epochs=2, warmup_ratio=0.2)
    assert extension.train() == 0

    settings = schedule_settings({**TRAINING, "lr_schedule": "cosine", "warmup_ratio": 0.2})
    expected = {
        6 + step: float(learning_rate(step, total=10, xp=np, **settings)) for step in range(10)
    }
    assert rates(extension) == pytest.approx(expected)


def test_max_steps_are_added_whatever_an_epoch_has(extend, trained, capsys):
    extension = extend(trained, 5, num_epochs=1, max_steps=7)
    assert extension.train() == 0
    assert (min(extension.losses()), max(extension.losses())) == (6, 12)
    out = capsys.readouterr().out
    assert "Extends a training of 5 steps by 7" in out
    assert "Trained 12 steps, 7 of them added" in out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, llama, trained):
    """An extension that ran to its end and kept all its checkpoints."""
    run = Run.write(
        tmp_path_factory.mktemp("uninterrupted") / "run",
        examples=arithmetic(48, held_out=8),
        model=llama,
        resume_from=checkpoints(trained),
        extend_from_step=5,
        training={"num_epochs": 2, "checkpoint_every_steps": 1, "keep_last_checkpoints": 100},
    )
    assert run.train() == 0
    return run


@pytest.mark.parametrize(
    "saved", [[6, 8], []], ids=["after a checkpoint", "before the first checkpoint"]
)
@pytest.mark.parametrize("where", ["same folder", "new folder"])
def test_a_killed_one_goes_on_as_if_it_had_not_been(uninterrupted, extend, trained, saved, where):
    whole = uninterrupted
    killed = extend(trained, 5, name="killed", num_epochs=2)
    shutil.copytree(whole.folder / "checkpoints", killed.folder / "checkpoints")
    for step in set(killed.checkpoints()) - set(saved):
        shutil.rmtree(killed.folder / "checkpoints" / str(step))
    source = killed if saved else trained  # the server names the nearest run that has a checkpoint
    again = killed if where == "same folder" else extend(source, 5, name="again", num_epochs=2)

    assert again.train() == 0

    begun = max(saved, default=5)
    assert again.losses() == pytest.approx(
        {step: loss for step, loss in whole.losses().items() if step > begun}, rel=1e-5
    )
    assert rates(again) == pytest.approx(
        {step: rate for step, rate in rates(whole).items() if step > begun}
    )
    result, expected = again.result(), whole.result()
    assert (result["steps"], result["resumed_from_step"], result["extended_from_step"]) == (
        15,
        begun,
        5,
    )
    for name in ("tokens", "loss_first", "eval_loss_before", "eval_loss_after"):
        assert result[name] == pytest.approx(expected[name], rel=1e-5), name


def test_an_extension_can_be_extended(extend, trained):
    first = extend(trained, 5, name="first", num_epochs=1)
    second = extend(first, 10, name="second", max_steps=3)

    assert (first.train(), second.train()) == (0, 0)

    assert sorted(second.losses()) == [11, 12, 13]
    result = second.result()
    assert (result["steps"], result["extended_from_step"]) == (13, 10)
    assert result["eval_loss_before"] == pytest.approx(first.result()["eval_loss_after"], rel=1e-5)
    assert result["loss_first"] == second.losses()[11]
    # a schedule of its own: the peak again
    assert rates(second)[11] == pytest.approx(TRAINING["learning_rate"])


def test_a_checkpoint_of_another_step_is_refused(extend, trained, capsys):
    assert extend(trained, 4, num_epochs=1).train() == 15
    assert "is of step 5, not of step 4" in capsys.readouterr().err


def test_without_a_checkpoint_there_is_nothing_to_extend(make_run, capsys):
    run = make_run(extend_from_step=5, num_epochs=1)
    assert run.train() == 15
    assert "there is no checkpoint of step 5 to extend" in capsys.readouterr().err


def test_validation_counts_the_added_steps(extend, trained):
    code, out, _ = extend(trained, 5, num_epochs=2).finish("validate", "--json")
    assert code == 0
    assert json.loads(out)["total_steps"] == 15
