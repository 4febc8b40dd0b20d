"""Our logits against the reference's: every family, padding, packing, positions past 1,000, in
float32."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from runs.trainer.modeling import forward_hidden, load_model, project
from runs.trainer.parity_tests.comparing import PIECES, Piece, make_rows, our_logits
from runs.trainer.parity_tests.reference import (
    CASES,
    VOCABULARY,
    load_reference,
    make_checkpoint,
    reference_logits,
)

TOLERANCE = 1e-3


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_reference(name: str, checkpoints: Path) -> None:
    folder = make_checkpoint(checkpoints, name)
    loaded = load_model(
        model_id=name, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    reference = load_reference(folder)
    rows = make_rows(VOCABULARY)
    ours = our_logits(loaded, rows)
    spread = []
    for piece in PIECES:
        span = slice(piece.start, piece.start + piece.length)
        expected = reference_logits(
            reference, rows["tokens"][piece.row, span], piece.first_position
        )
        spread.append(expected.std())
        assert np.abs(ours[piece.row, span] - expected).max() <= TOLERANCE
    assert min(spread) > 0.5, "the checkpoint is too quiet to show a difference"


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
def test_hidden_states_and_projection_are_the_models_own_logits(
    name: str, checkpoints: Path
) -> None:
    folder = make_checkpoint(checkpoints, name)
    loaded = load_model(
        model_id=name, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    rows = make_rows(VOCABULARY, length=150, pieces=(Piece(row=0, start=0, length=130),))
    tokens, positions, mask = (jnp.asarray(rows[key]) for key in ("tokens", "positions", "mask"))
    own, cache = loaded.module(tokens, positions, None, mask)
    assert cache is None
    hidden = forward_hidden(loaded.module, tokens, positions, mask)
    np.testing.assert_allclose(project(loaded.module, hidden)[0, :130], own[0, :130], atol=1e-5)
    picked = project(loaded.module, hidden[0, 5:9])  # a chunk of positions, without the batch axis
    np.testing.assert_allclose(picked, own[0, 5:9], atol=1e-5)


def check_real_model(folder: Path) -> float:
    """Largest logit difference on a packed row of a real model; positions go past 1,000."""
    loaded = load_model(
        model_id=folder.name, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    pieces = (
        Piece(row=0, start=0, length=700),
        Piece(row=0, start=700, length=300, first_position=1200),
    )
    rows = make_rows(loaded.vocab_size, length=1024, pieces=pieces)
    ours = our_logits(loaded, rows)
    reference = load_reference(folder)
    worst = 0.0
    for piece in pieces:
        span = slice(piece.start, piece.start + piece.length)
        expected = reference_logits(reference, rows["tokens"][0, span], piece.first_position)
        worst = max(worst, float(np.abs(ours[0, span] - expected).max()))
    return worst


if "TUNIXRT_PARITY_MODEL" in os.environ:

    def test_a_real_model_equals_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
        folder = Path(os.environ["TUNIXRT_PARITY_MODEL"])
        worst = check_real_model(folder)
        with capsys.disabled():
            print(f"\n{folder.name}: largest logit difference {worst:.2e}")
        assert worst <= TOLERANCE
