import hashlib
import itertools
import json

import pytest

from datasets.examples.arithmetic import HELD_OUT, TRAINING, addition, generate
from datasets.examples.kinds import answer_text
from datasets.examples.schema import parse_trace


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        (35, 82, ["5+2=7", "3+8+0=11", "117"]),
        (35, 87, ["5+7=12", "3+8+1=12", "122"]),
        (10, 10, ["0+0=0", "1+1+0=2", "20"]),
        (99, 99, ["9+9=18", "9+9+1=19", "198"]),
    ],
)
def test_a_worked_addition(a, b, lines):
    trace = parse_trace(addition(a, b))
    assert trace.prompt == f"{a}+{b}=?"
    assert answer_text(trace).split("\n") == lines


def test_every_addition_is_right():
    for trace in itertools.chain(*generate()):
        a, b = map(int, trace["prompt"].removesuffix("=?").split("+"))
        units, tens = (int(step["content"].split("=")[1]) for step in trace["steps"])
        assert a + b == int(trace["final_answer"]) == tens * 10 + units % 10
        assert 10 <= a <= 99
        assert 10 <= b <= 99


def test_no_held_out_pair_is_in_the_training_part_in_either_order():
    shown, held_out = generate()
    assert (len(shown), len(held_out)) == (TRAINING, HELD_OUT)
    pairs = [
        {frozenset(trace["prompt"].removesuffix("=?").split("+")) for trace in part}
        for part in (shown, held_out)
    ]
    assert not pairs[0] & pairs[1]
    assert len({trace["prompt"] for trace in shown + held_out}) == TRAINING + HELD_OUT


def test_the_same_traces_on_every_machine():
    # Whoever changes the generator has to raise arithmetic.VERSION too: datasets never change.
    digest = hashlib.sha256(json.dumps(generate(), sort_keys=True).encode()).hexdigest()
    assert digest == "c79a75e186442be07b73507ed2ed4434ae3e0076626abd3629196b66b5e52721"


def test_another_seed_is_another_draw():
    assert generate(seed=1) != generate(seed=0)


def test_numbers_at_both_ends():
    assert generate(training=0, held_out=0) == ([], [])
    assert len(generate(training=8_100, held_out=0)[0]) == 8_100
    with pytest.raises(ValueError, match="There are not 8101 training"):
        generate(training=8_101, held_out=0)
    with pytest.raises(ValueError, match="8101 held-out"):
        generate(training=0, held_out=8_101)
