"""The step: accumulation, what is trained, several devices."""

import os

import pytest

from runs.tests.ports import HeldPort
from runs.trainer.tests.helpers import PATIENCE, Run, arithmetic, line


def uneven(count):
    """Answers of very different length, so that micro-batches have very different numbers of learnt
    tokens."""
    return [line(f"x{i}", f"q{i}", "ab" * (1 + (i * i) % 29)) for i in range(count)]


def test_accumulated_steps_equal_big_batches(make_run):
    # one shape to compile
    settings = {
        "examples": uneven(48),
        "num_epochs": 2,
        "weight_decay": 0.1,
        "packing": True,
    }
    big = make_run("big", batch_size=6, **settings)
    small = make_run("small", batch_size=2, gradient_accumulation_steps=3, **settings)
    assert big.train() == small.train() == 0

    assert len(big.losses()) == 2 * big.metrics()[0]["plan"]["steps_per_epoch"] >= 6
    assert small.losses() == pytest.approx(big.losses(), rel=1e-4)
    norms = [
        [m["values"]["grad_norm"] for m in run.metrics() if "grad_norm" in m.get("values", {})]
        for run in (big, small)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_packed_training_starts_from_the_loss_of_unpacked_training(make_run):
    """One step over the whole training part: the same tokens, the same loss, the same gradient."""
    packed = make_run("packed", batch_size=512, num_epochs=1, packing=True)
    unpacked = make_run("unpacked", batch_size=512, num_epochs=1, packing=False)
    assert packed.train() == unpacked.train() == 0

    one, two = (
        [m["values"] for m in run.metrics() if "loss" in m.get("values", {})]
        for run in (packed, unpacked)
    )
    assert len(one) == len(two) == 1
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-5)
    assert one[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], rel=1e-4)
    assert one[0]["tokens"] == two[0]["tokens"]
    assert packed.result()["eval_loss_after"] == pytest.approx(
        unpacked.result()["eval_loss_after"], rel=1e-4
    )


def test_gradient_checkpointing_changes_no_number(make_run, trained):
    recomputed = make_run(num_epochs=1, gradient_checkpointing=True)
    assert recomputed.train() == 0
    assert recomputed.losses() == pytest.approx(trained.losses(), rel=1e-5)


def test_bfloat16_trains(make_run):
    run = make_run(num_epochs=4, dtype="bfloat16", learning_rate=1e-2, eval_every_steps=20)
    assert run.train() == 0
    assert run.result()["dtype"] == "bfloat16"
    assert run.result()["loss_last"] < 0.8 * run.result()["loss_first"]


SIX_ROWS = {"examples": arithmetic(30, held_out=5), "batch_size": 6}


@pytest.fixture(scope="module")
def one(tmp_path_factory, llama):
    """What several devices are compared with."""
    settings = {name: value for name, value in SIX_ROWS.items() if name != "examples"}
    run = Run.write(
        tmp_path_factory.mktemp("one") / "run",
        examples=SIX_ROWS["examples"],
        model=llama,
        resume_from=None,
        training={**settings, "num_epochs": 1},
    )
    assert run.train() == 0
    return run


def test_four_devices_give_the_numbers_of_one(make_run, one):
    """On simulated devices, two groups of two; the batch of 6 rows is not a multiple of 4."""
    mesh = {"data_parallel": 2, "fsdp_parallel": 2}
    four = make_run(
        "four", **SIX_ROWS, num_epochs=1, exact_match_examples=2, exact_match_max_tokens=4, **mesh
    )

    code, _, err = four.finish(
        XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    )

    assert code == 0, err
    assert four.result()["devices"] == 4
    assert four.losses() == pytest.approx(one.losses(), rel=1e-4)
    assert four.result()["eval_loss_after"] == pytest.approx(
        one.result()["eval_loss_after"], rel=1e-4
    )
    # And a checkpoint of four devices is one that a single device can resume from.
    longer = make_run("longer", **SIX_ROWS, num_epochs=2, resume_from="../four/checkpoints")
    assert longer.train() == 0
    assert longer.result()["resumed_from_step"] == one.result()["steps"]


def test_two_processes_give_the_numbers_of_one(make_run, one):
    """``jax.distributed`` on one machine: each process builds its own rows, the first one
    writes."""
    two = make_run("two", **SIX_ROWS, num_epochs=1)
    port = HeldPort()
    environment = {"JAX_COORDINATOR_ADDRESS": port.address, "JAX_NUM_PROCESSES": "2"}
    processes = [two.start(**environment, JAX_PROCESS_ID=str(index)) for index in range(2)]
    outcomes = [process.communicate(timeout=PATIENCE) for process in processes]
    port.close()

    assert [process.returncode for process in processes] == [0, 0], [err for _, err in outcomes]
    assert two.result()["devices"] == 2
    assert two.losses() == pytest.approx(one.losses(), rel=1e-4)
