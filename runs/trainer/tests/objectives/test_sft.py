"""What is particular to supervised fine-tuning."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runs.trainer.data.batches import Batch
from runs.trainer.data.conversation import Conversation
from runs.trainer.data.dataset import Example
from runs.trainer.data.tokenizer import ByteTokenizer
from runs.trainer.modeling import load_model
from runs.trainer.objectives.sft import SupervisedFineTuning, encode
from runs.trainer.tests.helpers import write_llama


def test_answers_are_learnt_and_questions_are_not():
    messages = [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "yes"}]
    tokenizer = ByteTokenizer()
    example = Example(1, 0, 100, "x", Conversation.of_trace(messages), None, held_out=False)
    [[encoded]] = encode(tokenizer, [example])
    learnt = [i for start, end in encoded.learnt for i in encoded.ids[start:end]]
    assert learnt == [*b"yes", *tokenizer.stop_ids]


def test_the_loss_is_a_sum_over_the_answer_tokens(tmp_path):
    """Twice the same row: twice the loss, and twice the tokens that it is divided by."""
    write_llama(tmp_path / "m")
    module = load_model(
        model_id="./m", path=tmp_path / "m", revision=None, dtype=jnp.float32, mesh=None, seed=0
    ).module
    tokens = np.array([[5, 6, 7, 8, 0, 0]])
    segments, answer = (tokens > 0).astype(np.int32), tokens >= 7
    run = jax.jit(partial(SupervisedFineTuning({}).loss, train_head=True))
    one, two = (
        run(module, Batch(*(np.repeat(x, rows, axis=0) for x in (tokens, segments, answer))))
        for rows in (1, 2)
    )
    assert set(one[1]) == {SupervisedFineTuning.denominator}
    assert (float(one[1]["answer_tokens"]), float(two[1]["answer_tokens"])) == (2, 4)
    assert float(two[0]) == pytest.approx(2 * float(one[0]), rel=1e-5)


def test_the_held_out_metrics_are_loss_and_perplexity():
    metrics = SupervisedFineTuning({}).held_out_metrics
    assert metrics({"loss": 1.5}) == {"eval_loss": 1.5, "eval_perplexity": math.exp(1.5)}
    assert metrics({"loss": 1e6})["eval_perplexity"] == math.inf
