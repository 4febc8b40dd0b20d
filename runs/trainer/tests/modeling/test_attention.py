"""Attention and LoRA are hand-written for speed; they must equal the textbook in value and
gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runs.spec.architectures import Rope
from runs.trainer.modeling.attention import (
    MASKED,
    attention,
    causal_attention,
    inverse_frequencies,
    rotary_tables,
    rotate,
)
from runs.trainer.modeling.lora import adapted

BATCH, LENGTH, HEADS, GROUPS, HEAD_DIM = 2, 260, 4, 2, 8


@pytest.fixture(autouse=True)
def _exact():
    with jax.default_matmul_precision("highest"):
        yield


def inputs(length: int = LENGTH) -> tuple[jax.Array, ...]:
    """Queries, keys, values, and a packed causal mask with padding at the end."""
    generator = np.random.default_rng(0)
    shapes = (
        (BATCH, length, HEADS, HEAD_DIM),
        (BATCH, length, GROUPS, HEAD_DIM),
        (BATCH, length, GROUPS, HEAD_DIM),
    )
    arrays = [jnp.asarray(generator.standard_normal(shape), jnp.float32) for shape in shapes]
    segments = np.minimum(np.arange(length) // 90, 2) + 1
    segments[-7:] = 0
    mask = (
        (segments[:, None] == segments[None, :])
        & (segments[:, None] > 0)
        & np.tril(np.ones((length, length), bool))
    )
    return (*arrays, jnp.asarray(np.broadcast_to(mask, (BATCH, length, length))))


def textbook(
    queries: Any, keys: Any, values: Any, mask: Any, window: int | None, softcap: float | None
) -> jax.Array:
    keys, values = (jnp.repeat(x, HEADS // GROUPS, axis=2) for x in (keys, values))
    scores = jnp.einsum("btnh,bsnh->bnts", queries, keys)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    distance = jnp.arange(queries.shape[1])[:, None] - jnp.arange(keys.shape[1])[None, :]
    seen = mask if window is None else mask & (distance < window)
    return jnp.einsum(
        "bnts,bsnh->btnh", jax.nn.softmax(jnp.where(seen[:, None], scores, MASKED)), values
    )


@pytest.mark.parametrize(
    ("length", "window", "softcap"),
    [(40, None, None), (LENGTH, None, 2.0), (LENGTH, 50, None), (LENGTH, 1, 2.0), (40, 99, None)],
)
def test_causal_attention_and_its_gradient(
    length: int, window: int | None, softcap: float | None
) -> None:
    queries, keys, values, mask = inputs(length)
    # what padding gives does not matter, as long as it is finite
    real = mask.any(-1)[:, :, None, None]

    def loss(function: Any) -> Any:
        def total(*arrays: jax.Array) -> jax.Array:
            mixed = function(*arrays, mask, window, softcap)
            return jnp.where(real, jnp.sin(mixed), 0).sum(), mixed

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))

    (_, ours), gradients = loss(causal_attention)(queries, keys, values)
    (_, expected), expected_gradients = loss(textbook)(queries, keys, values)
    assert jnp.isfinite(ours).all()
    np.testing.assert_allclose(jnp.where(real, ours, 0), jnp.where(real, expected, 0), atol=2e-5)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=2e-4)


def test_attention_with_a_cache_equals_the_causal_one() -> None:
    queries, keys, values, mask = inputs(40)
    np.testing.assert_allclose(
        attention(queries, keys, values, mask, None)[:, :33],
        causal_attention(queries, keys, values, mask, None, None)[:, :33],
        atol=2e-5,
    )


def test_rotation_depends_on_distance_only() -> None:
    queries, keys, *_ = inputs(2)
    rope = Rope(10_000.0)
    products = []
    for first in (0, 7000):
        table = rotary_tables((rope,), HEAD_DIM, jnp.asarray([[first, first + 3]] * BATCH))[0]
        turned, others = rotate(queries, table), rotate(jnp.repeat(keys, 2, axis=2), table)
        products.append(jnp.einsum("bnh,bnh->bn", turned[:, 0], others[:, 1]))
    np.testing.assert_allclose(products[0], products[1], atol=2e-3)


def test_scaled_frequencies() -> None:
    plain = inverse_frequencies(Rope(10_000.0), 8)
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    np.testing.assert_allclose(inverse_frequencies(Rope(10_000.0, "linear", 4.0), 8), plain / 4)
    scaled = inverse_frequencies(Rope(10_000.0, "llama3", 8.0, 1.0, 4.0, 64), 8)
    # Wavelengths 6, 63, 628, 6283 against 64/4 and 64/1: kept, blended, slowed, slowed.
    np.testing.assert_allclose(scaled[[0, 2, 3]], [1.0, 0.01 / 8, 0.001 / 8], rtol=1e-6)
    smooth = (64 * 0.1 / (2 * np.pi) - 1) / 3
    np.testing.assert_allclose(scaled[1], (1 - smooth) * 0.1 / 8 + smooth * 0.1, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.15)])
def test_adapted_projection_and_its_gradient(dtype: Any, tolerance: float) -> None:
    generator = np.random.default_rng(1)
    x, matrix, a, b = (
        jnp.asarray(generator.standard_normal(shape), jnp.float32)
        for shape in ((2, 5, 6), (6, 7), (6, 3), (3, 7))
    )
    cotangent = jnp.asarray(generator.standard_normal((2, 5, 7)), jnp.float32)

    def ours(x: Any, a: Any, b: Any) -> jax.Array:
        return (
            adapted(x.astype(dtype), matrix.astype(dtype), a, b, 0.5).astype(jnp.float32)
            * cotangent
        ).sum()

    def textbook(x: Any, a: Any, b: Any) -> jax.Array:
        return ((x @ matrix + 0.5 * (x @ a) @ b) * cotangent).sum()

    got, expected = (
        jax.value_and_grad(function, argnums=(0, 1, 2))(x, a, b) for function in (ours, textbook)
    )
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.abs(other).max()))
    assert got[1][1].dtype == jnp.float32


def test_frozen_weights_get_no_gradient() -> None:
    ones = jnp.ones((2, 2))
    assert not jax.grad(lambda w: adapted(ones, w, ones, ones, 1.0).sum())(ones).any()


def test_small_updates_survive_bfloat16() -> None:
    """An update too small for the rounding of a bfloat16 weight still moves the output."""
    x = jnp.ones((1, 64), jnp.bfloat16)
    # the product is zero
    matrix = jnp.where(jnp.arange(64)[:, None] % 2 == 0, 1.0, -1.0).astype(jnp.bfloat16)
    a, b = jnp.full((64, 1), 1e-3), jnp.ones((1, 1))
    assert float(adapted(x, matrix, a, b, 1.0)[0, 0]) == pytest.approx(0.064, rel=0.02)
