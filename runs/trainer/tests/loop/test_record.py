"""What a training remembers of itself, in the form in which checkpoints hold it."""

from runs.trainer.loop.training import TrainingRecord

# As orbax returned it from a checkpoint of the version that named the fields one by one.
EARLIER = {
    "tokens": 378,
    "loss_first": 5.5,
    "loss_last": 4.25,
    "eval_loss_before": 5.75,
    "eval_loss_last": None,
    "exact_match_before": 0.0,
    "outputs_before": ["4", "2"],
    "start": 5,
    "eval_loss": 4.5,
    "saved_at": 1.75e9,
}


def test_a_checkpoint_of_an_earlier_version_is_read():
    record = TrainingRecord.from_state(EARLIER)
    assert (record.tokens, record.start, record.outputs_before) == (378, 5, ["4", "2"])
    assert record.values == {
        "loss_first": 5.5,
        "loss_last": 4.25,
        "eval_loss_before": 5.75,
        "exact_match_before": 0.0,
    }


def test_names_in_checkpoints_stay():
    """An earlier version reads what is written today."""
    own = EARLIER.keys() - {"eval_loss", "saved_at", "eval_loss_last"}
    state = TrainingRecord.from_state(EARLIER).state()
    assert state == {name: EARLIER[name] for name in own}
    assert TrainingRecord.from_state(state).state() == state


def test_the_first_value_of_a_metric_stays():
    record = TrainingRecord()
    for value in (3.0, 2.0, 1.0):
        record.add_step("loss", value)
    assert record.values == {"loss_first": 3.0, "loss_last": 1.0}
