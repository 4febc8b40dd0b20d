"""The chunked loss against a plain one, and packed against unpacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from runs.trainer.data.batches import BatchBuilder
from runs.trainer.data.plan import StepRows
from runs.trainer.data.tokens import PIECE, TokenisedData
from runs.trainer.modeling import apply_lora, load_model
from runs.trainer.objectives import loss as loss_module
from runs.trainer.objectives.loss import answer_loss, answer_losses, model_inputs
from runs.trainer.tests.helpers import write_llama


@pytest.fixture(params=["tied", "untied"])
def module(request, tmp_path):
    write_llama(tmp_path / "m", tie_word_embeddings=request.param == "tied", vocab_size=300)
    return load_model(
        model_id="./m", path=tmp_path / "m", revision=None, dtype=jnp.float32, mesh=None, seed=0
    ).module


@pytest.fixture(scope="module")
def data():
    """Sequences of 5 to 40 tokens, of which all after the third are learnt."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(5, 40, size=12)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    pieces = np.array([(s, 0, n, False) for s, n in zip(starts, lengths, strict=True)], dtype=PIECE)
    tokens = generator.integers(0, 256, size=lengths.sum()).astype(np.int32)
    learnt = np.concatenate([np.arange(length) >= 3 for length in lengths])
    return TokenisedData(pieces, tokens, learnt, np.empty(0, np.int64), {}, "key")


def batch(data, rows, length):
    built = BatchBuilder(data).build(
        0, StepRows(length, [np.array(r) for r in rows]), micro_batches=1, rows_per_batch=len(rows)
    )
    return {
        name: jnp.asarray(getattr(built.batch, name)[0])
        for name in ("tokens", "segments", "answer")
    }


def plain_loss(module, tokens, positions, attention_mask, labels, weights):
    """The textbook form: all logits, optax's cross entropy."""
    logits, _ = module(tokens, positions, None, attention_mask)
    return jnp.sum(
        optax.softmax_cross_entropy_with_integer_labels(logits, labels) * weights
    ), weights.sum()


def gradients(module, function, inputs, kind=nnx.Param):
    graph, *states = nnx.split(module, kind, ...)
    trained, rest = states
    run = jax.jit(
        jax.value_and_grad(lambda t: function(nnx.merge(graph, t, rest), **inputs), has_aux=True)
    )
    (total, count), found = run(trained)
    return float(total), float(count), dict(nnx.to_flat_state(found))


@pytest.mark.parametrize("chunk_logits", [2**24, 300 * 64])
def test_value_and_gradients_equal_the_plain_loss(module, data, monkeypatch, chunk_logits):
    """With one chunk, and with several of which some are empty and the last is filled up."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk_logits)
    inputs = model_inputs(**batch(data, [[i] for i in range(6)], 50))

    total, count, found = gradients(
        module, lambda m, **i: answer_loss(m, train_head=True, **i), inputs
    )
    plain_total, plain_count, expected = gradients(module, plain_loss, inputs)

    assert count == plain_count == int((data.pieces["length"][:6] - 3).sum())
    assert total == pytest.approx(plain_total, rel=1e-6)
    assert found.keys() == expected.keys()
    for path, gradient in found.items():
        np.testing.assert_allclose(
            gradient[...], expected[path][...], rtol=2e-4, atol=2e-5, err_msg=str(path)
        )


@pytest.mark.parametrize("chunk_logits", [2**24, 300 * 64])
def test_losses_of_rows_are_those_of_each_row_alone(module, data, monkeypatch, chunk_logits):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk_logits)
    inputs = model_inputs(**batch(data, [[i] for i in range(6)], 50))
    graph, state = nnx.split(module)

    found = jax.jit(lambda state: answer_losses(nnx.merge(graph, state), **inputs))(state)

    of_rows = [
        plain_loss(module, **{name: value[row : row + 1] for name, value in inputs.items()})[0]
        for row in range(6)
    ]
    np.testing.assert_allclose(found, of_rows, rtol=1e-5)


def test_lora_gradients_equal_the_plain_loss(tmp_path, data):
    write_llama(tmp_path / "m")
    loaded = load_model(
        model_id="./m", path=tmp_path / "m", revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    apply_lora(loaded, rank=4, alpha=8.0, targets=None, seed=0)
    inputs = model_inputs(**batch(data, [[0], [1], [2]], 48))

    total, _, found = gradients(
        loaded.module, lambda m, **i: answer_loss(m, train_head=False, **i), inputs, nnx.LoRAParam
    )
    plain_total, _, expected = gradients(loaded.module, plain_loss, inputs, nnx.LoRAParam)

    assert total == pytest.approx(plain_total, rel=1e-6)
    assert len(found) == 14
    for path, gradient in found.items():
        np.testing.assert_allclose(
            gradient[...], expected[path][...], rtol=2e-4, atol=2e-5, err_msg=str(path)
        )


def test_packed_and_unpacked_give_the_same_loss_and_gradients(module, data):
    alone = model_inputs(**batch(data, [[i] for i in range(12)], 40))
    packed = model_inputs(**batch(data, [[0, 5, 7, 2], [1, 3, 4], [6, 8, 9], [10, 11]], 150))

    one = gradients(module, lambda m, **i: answer_loss(m, train_head=True, **i), alone)
    two = gradients(module, lambda m, **i: answer_loss(m, train_head=True, **i), packed)

    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert two[1] == one[1]
    for path, gradient in one[2].items():
        np.testing.assert_allclose(
            two[2][path][...], gradient[...], rtol=1e-3, atol=1e-4, err_msg=str(path)
        )


def test_inputs_of_a_packed_row():
    row = {
        "tokens": jnp.array([[5, 6, 7, 8, 9, 0]]),
        "segments": jnp.array([[1, 1, 1, 2, 2, 0]]),
        "answer": jnp.array([[False, True, True, False, True, False]]),
    }
    inputs = model_inputs(**row)
    assert inputs["positions"][0, :5].tolist() == [0, 1, 2, 0, 1]
    assert inputs["weights"].tolist() == [[1, 1, 0, 1, 0, 0]]
    assert inputs["labels"][0, :2].tolist() == [6, 7]
    assert inputs["attention_mask"][0, 4].tolist() == [False, False, False, True, True, False]


def test_no_array_of_all_logits_is_made(data, tmp_path):
    """Neither in the loss nor in its gradient: nothing of the size rows × length × vocabulary."""
    write_llama(tmp_path / "m", vocab_size=50_000)
    loaded = load_model(
        model_id="./m", path=tmp_path / "m", revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    graph, state = nnx.split(loaded.module)
    rows = batch(data, [[i % 12] for i in range(16)], 128)

    def run(state):
        return answer_loss(nnx.merge(graph, state), train_head=True, **model_inputs(**rows))[0]

    sizes = {
        int(np.prod(variable.aval.shape))
        for equation in _equations(jax.make_jaxpr(jax.grad(run))(state).jaxpr)
        for variable in equation.outvars
    }
    assert max(sizes) < 16 * 128 * 50_000 / 4


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
                elif hasattr(inner, "jaxpr"):
                    yield from _equations(inner.jaxpr)
