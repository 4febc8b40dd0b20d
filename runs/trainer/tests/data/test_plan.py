"""Packing, buckets, and the order of the data."""

import itertools

import numpy as np
import pytest

from runs.trainer.data.packing import bucket_lengths, pack
from runs.trainer.data.plan import DataPlan, held_out_batches, total_steps

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(5, 120, size=203)


def make_plan(lengths=LENGTHS, **settings):
    settings = {
        "batch_size": 8,
        "accumulation": 1,
        "max_length": 128,
        "packing": False,
        "seed": 3,
        **settings,
    }
    return DataPlan(pieces=np.arange(len(lengths)) + 1000, lengths=lengths, **settings)


def first_epoch(plan):
    return list(plan.epoch(0)[0:])


@pytest.mark.parametrize("capacity", [120, 128, 500])
def test_packing_never_overfills_and_nearly_fills(capacity):
    row_of, rows = pack(LENGTHS, capacity)
    fill = np.bincount(row_of, weights=LENGTHS, minlength=rows)
    assert fill.max() <= capacity
    assert fill.min() > 0
    fewest = -(-LENGTHS.sum() // capacity)
    assert rows <= 11 / 9 * fewest + 1


def test_packing_puts_each_into_the_fullest_row_that_has_room():
    row_of, rows = pack(np.array([6, 5, 4, 3, 2]), 10)
    assert rows == 2
    assert row_of.tolist() == [0, 1, 0, 1, 1]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_sequence_once_an_epoch(packing, accumulation):
    plan = make_plan(packing=packing, accumulation=accumulation)
    for epoch in (0, 1):
        seen = [piece for step in plan.epoch(epoch)[0:] for row in step.rows for piece in row]
        assert sorted(seen) == list(range(1000, 1203))


def test_every_step_but_the_last_is_full():
    steps = first_epoch(make_plan())
    assert [len(step.rows) for step in steps] == [8] * 25 + [3]


def test_rows_fit_their_length_and_lengths_are_few():
    plan = make_plan()
    for step in first_epoch(plan):
        assert step.length in plan.row_lengths
        assert max(LENGTHS[row[0] - 1000] for row in step.rows) <= step.length
    assert 1 < len(plan.row_lengths) <= 4


def test_packed_rows_hold_no_more_than_their_length():
    plan = make_plan(packing=True)
    for step in first_epoch(plan):
        assert step.length == 128
        assert all(LENGTHS[row - 1000].sum() <= 128 for row in step.rows)
    assert plan.padding_waste() < make_plan(packing=False).padding_waste()


@pytest.mark.parametrize("packing", [False, True])
def test_steps_from_the_middle_are_those_of_the_whole(packing):
    plan = make_plan(packing=packing)
    whole = list(itertools.islice(plan.steps(), 3 * plan.steps_per_epoch))
    start = plan.steps_per_epoch + 5
    late = list(itertools.islice(make_plan(packing=packing).steps(start=start), 10))
    for (step, rows), (other, expected) in zip(late, whole[start:], strict=False):
        assert step == other
        assert [row.tolist() for row in rows.rows] == [row.tolist() for row in expected.rows]


def test_epochs_and_seeds_differ_in_order():
    def order(plan, epoch):
        return [int(row[0]) for step in plan.epoch(epoch)[0:] for row in step.rows]

    assert order(make_plan(), 0) != order(make_plan(), 1)
    assert order(make_plan(), 0) != order(make_plan(seed=4), 0)
    assert order(make_plan(), 0) == order(make_plan(), 0)


def test_accumulation_takes_the_same_sequences_as_the_big_batch():
    big = first_epoch(make_plan(batch_size=24))
    small = first_epoch(make_plan(batch_size=8, accumulation=3))
    assert [[row.tolist() for row in step.rows] for step in big] == [
        [row.tolist() for row in step.rows] for step in small
    ]


def test_a_batch_larger_than_the_dataset_shrinks_to_it():
    plan = make_plan(LENGTHS[:5], batch_size=64, accumulation=4)
    assert plan.smaller_than_batch
    assert (plan.micro_batches, plan.rows_per_batch, plan.steps_per_epoch) == (1, 5, 1)


def test_one_length_is_one_bucket():
    assert bucket_lengths(np.full(100, 37), 128) == [48]


def test_buckets_are_worth_their_compilation():
    few_long = np.concatenate([np.full(1000, 30), [1000]])
    assert bucket_lengths(few_long, 2048) == [32, 1024]


def test_the_longest_bucket_is_at_most_the_longest_row():
    assert bucket_lengths(np.array([100, 127]), 127)[-1] == 127


def test_held_out_batches_hold_everything_once():
    pieces, lengths = np.arange(30), LENGTHS[:30]
    for packing in (False, True):
        batches = held_out_batches(
            pieces, lengths, rows_per_batch=4, max_length=128, packing=packing, row_lengths=[64]
        )
        assert sorted(int(p) for batch in batches for row in batch.rows for p in row) == list(
            range(30)
        )
        assert all(lengths[row].sum() <= batch.length for batch in batches for row in batch.rows)
        assert len({batch.length for batch in batches}) <= 2


def test_total_steps():
    assert total_steps(10, num_epochs=3, max_steps=None) == 30
    assert total_steps(10, num_epochs=3, max_steps=7) == 7
    assert total_steps(10, num_epochs=3, max_steps=70) == 30


def test_an_extension_adds_its_steps():
    assert total_steps(10, num_epochs=3, max_steps=None, extend_from=25) == 55
    assert total_steps(10, num_epochs=3, max_steps=7, extend_from=25) == 32
    assert total_steps(10, num_epochs=3, max_steps=70, extend_from=25) == 95
