"""Schedules, weight decay, clipping, float32 masters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from runs.spec.kinds import SFT
from runs.trainer.loop.optimizer import (
    across_layers,
    decayed,
    float32_master,
    learning_rate,
    make_optimizer,
)

SETTINGS = {"peak": 1.0, "total": 100, "warmup_ratio": 0.1}


def rates(shape, **settings):
    return [
        float(learning_rate(step, shape=shape, xp=np, **{**SETTINGS, **settings}))
        for step in range(100)
    ]


def test_warm_up_rises_and_starts_above_zero():
    assert rates("cosine")[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates("constant", warmup_ratio=0.0)[0] == 1.0


def test_cosine_linear_and_constant():
    cosine, linear, constant = rates("cosine"), rates("linear"), rates("constant")
    assert cosine[10] == linear[10] == constant[99] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert linear[55] == pytest.approx(0.5)
    assert cosine[32] == pytest.approx(0.5 * (1 + np.cos(np.pi * 22 / 90)))
    assert 0 < cosine[99] < 0.001
    assert linear[99] == pytest.approx(1 / 90, rel=1e-4)


def test_the_log_and_the_compiled_step_agree():
    for shape in ("cosine", "linear", "constant"):
        compiled = jax.jit(lambda step, shape=shape: learning_rate(step, shape=shape, **SETTINGS))
        steps = (0, 9, 10, 50, 99)
        assert [float(compiled(step)) for step in steps] == pytest.approx(
            [rates(shape)[s] for s in steps], rel=1e-4
        )


PARAMS = {
    "layers": {
        "0": {
            "q_proj": {"w": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))},
            "input_layernorm": {"w": jnp.ones(2)},
        }
    }
}


def test_norms_and_biases_do_not_decay():
    assert decayed(PARAMS) == {
        "layers": {"0": {"q_proj": {"w": True, "bias": False}, "input_layernorm": {"w": False}}}
    }
    optimizer = make_optimizer(
        {**SFT.defaults(), "weight_decay": 0.5, "learning_rate": 0.1, "warmup_ratio": 0.0},
        total=10,
    )
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS
    )
    layer = updates["layers"]["0"]
    np.testing.assert_allclose(layer["q_proj"]["w"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(layer["q_proj"]["bias"], 0)
    np.testing.assert_array_equal(layer["input_layernorm"]["w"], 0)


def test_layers_are_updated_together_as_they_would_be_apart():
    def of(seed):
        keys = iter(jax.random.split(jax.random.key(seed), 99))
        # Layers of different shapes are not alike.
        return {
            "layers": {
                layer: {
                    "q_proj": {
                        "q_lora_a": jax.random.normal(next(keys), (width, 2)),
                        "q_lora_b": jax.random.normal(next(keys), (2, 3)),
                    }
                }
                for layer, width in ((0, 4), (1, 4), (2, 5), (10, 4))
            }
        }

    settings = {
        **SFT.defaults(),
        "weight_decay": 0.1,
        "learning_rate": 0.1,
        "lora_rank": None,
    }
    apart, params = make_optimizer(settings, total=10), of(0)
    together = across_layers(apart)
    assert {leaf.shape for leaf in jax.tree.leaves(together.init(params))} == {
        (),
        (3, 4, 2),
        (1, 5, 2),
        (4, 2, 3),
    }
    results = []
    for optimizer in (apart, together):
        weights, state = params, optimizer.init(params)
        for seed in (1, 2, 3):
            updates, state = optimizer.update(of(seed), state, weights)
            weights = optax.apply_updates(weights, updates)
        results.append(weights)
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_state_keeps_its_form_when_settings_change():
    """A resumed run may switch clipping or decay on and off."""
    defaults = SFT.defaults()
    forms = {
        jax.tree.structure(
            jax.tree.leaves(make_optimizer({**defaults, **change}, total=10).init(PARAMS))
        )
        for change in (
            {},
            {"max_grad_norm": None},
            {"weight_decay": 0.1},
            {"lr_schedule": "linear"},
        )
    }
    assert len(forms) == 1


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_the_schedule_of_an_extension_is_one_over_the_added_steps(shape):
    settings = {"peak": 0.1, "warmup_ratio": 0.1, "shape": shape, "xp": np}
    added = [
        float(learning_rate(1000 + step, start=1000, total=1050, **settings)) for step in range(50)
    ]
    assert added == [float(learning_rate(step, total=50, **settings)) for step in range(50)]


def test_equal_to_optax_adamw():
    training = {
        **SFT.defaults(),
        "weight_decay": 0.1,
        "learning_rate": 0.01,
        "lr_schedule": "constant",
        "warmup_ratio": 0.0,
    }
    ours, theirs = (
        make_optimizer(training, total=10),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01, weight_decay=0.1)),
    )
    params = other = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]])}
    state, other_state = ours.init(params), theirs.init(other)
    for step in range(5):
        gradients = {"w": jnp.array([[0.1, 5.0], [-2.0, 0.3]]) * (step + 1)}
        updates, state = ours.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        updates, other_state = theirs.update(gradients, other_state, other)
        other = optax.apply_updates(other, updates)
    np.testing.assert_allclose(params["w"], other["w"], rtol=1e-6)


def test_small_updates_of_bfloat16_weights_are_not_lost():
    """1,000 steps of 1e-5 from 1.0: each alone rounds to nothing in bfloat16."""
    plain, ours = optax.sgd(1e-5), float32_master(optax.sgd(1e-5))
    start = jnp.ones((2, 2), jnp.bfloat16)
    gradient = jnp.ones((2, 2), jnp.bfloat16)

    def run(optimizer):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, optimizer.init(start)), None, length=1000)[0][0]

    assert run(plain).dtype == run(ours).dtype == jnp.bfloat16
    assert float(run(plain)[0, 0]) == 1.0
    assert float(run(ours)[0, 0]) == float(jnp.bfloat16(0.99))


def test_only_narrow_weights_have_a_second_copy():
    def numbers(dtype, **training):
        params = {"w": jnp.ones(30, dtype)}
        state = make_optimizer({**SFT.defaults(), **training}, total=10, dtype=dtype).init(params)
        return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)

    assert numbers(jnp.float32) == numbers(jnp.bfloat16, lora_rank=4) == 60
    assert numbers(jnp.bfloat16) == 90
