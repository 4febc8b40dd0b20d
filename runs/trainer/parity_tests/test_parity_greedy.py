"""Greedy outputs token by token equal to those of ``transformers``: 50 prompts for every way a
family computes.

Two computations round differently, so an output is compared until the reference's two best tokens
differ by less than CLOSE; from there on either may be right.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from runs.trainer.evaluation.generate import Generator, Output
from runs.trainer.modeling import load_model
from runs.trainer.modeling.decoding import decoding_weights
from runs.trainer.parity_tests.reference import (
    CASES,
    VOCABULARY,
    load_reference,
    make_checkpoint,
    reference_logits,
)

PROMPTS, LONGEST, NEW, ROWS = 50, 90, 24, 7
GENERATED = 4  # prompts for which the reference generates as well, which takes it long
STOPS = (5, 7, 20, 33, 51, 77)
CLOSE = 1e-3


def reference_choices(model: Any, prompt: list[int], tokens: list[int]) -> tuple[list[int], int]:
    """The reference's best token at the place of each of ``tokens``, in one pass over prompt and
    tokens, and how many of them are sure."""
    logits = reference_logits(model, np.array([*prompt, *tokens]))[len(prompt) - 1 : -1]
    second, first = np.partition(logits, -2, axis=-1)[:, -2:].T
    close = np.flatnonzero(first - second < CLOSE)
    return logits.argmax(axis=-1).tolist(), int(close[0]) if len(close) else len(tokens)


def reference_output(model: Any, prompt: list[int]) -> list[int]:
    """What the reference generates with its cache, the end token included."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=list(STOPS),
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", CASES)
def test_greedy_outputs_equal_the_reference(name: str, checkpoints: Path) -> None:
    """Prompts from one token to longer than every window; fewer rows than prompts; with weights
    that are copies, and with the module's own."""
    folder = make_checkpoint(checkpoints, name)
    loaded = load_model(
        model_id=name, path=folder, revision=None, dtype=jnp.float32, mesh=None, seed=0
    )
    draw = np.random.default_rng(13)
    prompts = [
        draw.integers(1, VOCABULARY, length).tolist()
        for length in [1, LONGEST, *draw.integers(1, LONGEST, PROMPTS - 2)]
    ]
    reference = load_reference(folder)

    generator = Generator(
        loaded.architecture, stop_ids=STOPS, rows=ROWS, prompt_length=LONGEST, max_tokens=NEW
    )
    for copy in (True, False):
        weights = decoding_weights(loaded.module, loaded.architecture, copy=copy)
        check_outputs(reference, prompts, generator.generate(weights, prompts))


def check_outputs(reference: Any, prompts: list[list[int]], outputs: list[list[Output]]) -> None:
    compared, generated = 0, 0
    for place, (prompt, [output]) in enumerate(zip(prompts, outputs, strict=True)):
        tokens = output.tokens
        choices, sure = reference_choices(reference, prompt, tokens)
        assert tokens[:sure] == choices[:sure]
        assert set(tokens[:-1]).isdisjoint(STOPS)
        ended = tokens[-1] in STOPS
        assert output.finish_reason == ("stop" if ended else "length")
        assert ended or len(tokens) == NEW
        compared += sure
        if place < GENERATED and sure == len(tokens):
            assert tokens == reference_output(reference, prompt)
            generated += 1
    assert compared > 0.5 * sum(len(output.tokens) for [output] in outputs)
    assert generated
    assert {output.finish_reason for [output] in outputs} == {"stop", "length"}
