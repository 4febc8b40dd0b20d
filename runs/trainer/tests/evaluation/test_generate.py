"""Fast decoding: equal to the whole forward pass, whatever the batching; sampling with the right
distribution; compiled once."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from runs.trainer.evaluation import generate
from runs.trainer.evaluation.generate import Generator, Output
from runs.trainer.loop.devices import make_mesh
from runs.trainer.modeling import LoadedModel, apply_lora, load_model
from runs.trainer.modeling.decoding import copied_size, decoding_weights
from runs.trainer.tests.modeling_folders import CONFIGS, make_folder

VOCABULARY, NEW = 64, 14
# Longer than the sliding windows (9), of one token, two of one length; more than there are rows.
LENGTHS = (13, 1, 5, 40, 5, 27, 2)
STOPS = (7, 63)


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(11)
    return [generator.integers(0, VOCABULARY, length).tolist() for length in lengths]


def load(folder: Path, mesh: Any = None) -> LoadedModel:
    return load_model(
        model_id="tiny", path=folder, revision=None, dtype=jnp.float32, mesh=mesh, seed=0
    )


def make(loaded: LoadedModel, **changes: Any) -> Generator:
    settings = {"stop_ids": STOPS, "rows": 3, "prompt_length": 64, "max_tokens": NEW, **changes}
    return Generator(loaded.architecture, **settings)


class Reference:
    """The whole sequence through the module again for each token, without a cache."""

    LENGTH = 64

    def __init__(self, loaded: LoadedModel):
        mask = jnp.tril(jnp.ones((1, self.LENGTH, self.LENGTH), bool))
        positions = jnp.arange(self.LENGTH)[None]
        self._run = jax.jit(lambda tokens: loaded.module(tokens, positions, None, mask)[0][0])

    def logits(self, ids: list[int]) -> np.ndarray:
        padded = [*ids, *[0] * (self.LENGTH - len(ids))]
        return np.asarray(self._run(jnp.asarray([padded])), np.float64)[: len(ids)]

    def log_probs(self, prompt: list[int], tokens: list[int], temperature: float) -> np.ndarray:
        scaled = self.logits([*prompt, *tokens])[len(prompt) - 1 : -1] / temperature
        scaled -= scaled.max(axis=-1, keepdims=True)
        scaled -= np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
        return scaled[np.arange(len(tokens)), tokens]

    def greedy(self, prompt: list[int], stops: tuple[int, ...] = STOPS, most: int = NEW) -> Any:
        ids = list(prompt)
        while len(ids) < len(prompt) + most:
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] in stops:
                return ids[len(prompt) :], "stop"
        return ids[len(prompt) :], "length"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(make_folder(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(scope="module")
def weights(tiny: LoadedModel) -> Any:
    return decoding_weights(tiny.module, tiny.architecture)


def told(outputs: list[list[Output]]) -> list[list[tuple[list[int], str]]]:
    return [[(each.tokens, each.finish_reason) for each in samples] for samples in outputs]


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_outputs_equal_the_whole_forward_pass(family: str, tmp_path: Path) -> None:
    """More prompts than rows, prompts and rows longer than the windows, several stop ids."""
    loaded = load(make_folder(tmp_path / family, family))
    reference = Reference(loaded)

    outputs = make(loaded).generate(
        decoding_weights(loaded.module, loaded.architecture), prompts(), log_probs=True
    )

    expected = [reference.greedy(prompt) for prompt in prompts()]
    assert told(outputs) == [[each] for each in expected]
    assert len({token for tokens, _ in expected for token in tokens}) >= 6
    for prompt, [output] in zip(prompts(), outputs, strict=True):
        likely = reference.log_probs(prompt, output.tokens, 1.0)
        np.testing.assert_allclose(output.log_probs, likely, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.9, "samples": 3}])
def test_outputs_do_not_depend_on_rows_packs_or_order(
    settings: dict[str, Any],
    tiny: LoadedModel,
    weights: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = prompts()
    alone = told(make(tiny, rows=1).generate(weights, asked, seed=5, **settings))
    for rows in (2, 5, 32):
        assert told(make(tiny, rows=rows).generate(weights, asked, seed=5, **settings)) == alone
    monkeypatch.setattr(generate, "PACK", 16)  # shorter than the longest prompt
    monkeypatch.setattr(generate, "STEPS", 3)
    places = [3, 0, 6, 5]
    part = make(tiny).generate(
        weights, [asked[place] for place in places], numbers=places, seed=5, **settings
    )
    assert told(part) == [alone[place] for place in places]
    if settings:
        assert len({tuple(tokens) for tokens, _ in alone[0]}) > 1, "samples differ"
        assert told(make(tiny).generate(weights, asked, seed=6, **settings)) != alone


@pytest.mark.parametrize("rows", [1, 3])
def test_an_output_ends_when_it_is_found_complete(
    rows: int, tiny: LoadedModel, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "STEPS", 4)
    settings = {"temperature": 0.9, "samples": 2, "seed": 5}
    whole = make(tiny, stop_ids=()).generate(weights, prompts(), **settings)
    wanted = whole[3][1].tokens[5]

    found = make(tiny, rows=rows, stop_ids=()).generate(
        weights, prompts(), has_ended=lambda tokens: wanted in tokens, **settings
    )

    for outputs, expected in zip(found, whole, strict=True):
        for output, one in zip(outputs, expected, strict=True):
            at = one.tokens.index(wanted) + 1 if wanted in one.tokens else NEW
            assert output.tokens == one.tokens[: len(output.tokens)]
            assert at <= len(output.tokens) < at + 4
            is_cut = wanted in one.tokens
            assert output.finish_reason == (
                "stop" if is_cut and len(output.tokens) < NEW else "length"
            )
    assert len(found[3][1].tokens) == 8


def test_a_finished_row_takes_the_next_prompt_at_once(
    tiny: LoadedModel, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows, limits reached at different times: between two calls no row is without a prompt
    while prompts wait."""
    running = []
    decode = generate._decode

    def counted(weights: Any, state: Any, *arguments: Any, **options: Any) -> Any:
        running.append((int(state.active.sum()), bool(arguments[1])))
        return decode(weights, state, *arguments, **options)

    monkeypatch.setattr(generate, "_decode", counted)
    make(tiny, rows=2).generate(weights, prompts(), temperature=1.0, samples=2)
    assert {active for active, waiting in running if waiting} == {2}
    assert len(running) > 5


def test_the_end_token_stays_and_any_number_of_stop_ids_ends(
    tiny: LoadedModel, weights: Any
) -> None:
    reference, asked = Reference(tiny), prompts()
    free = make(tiny, stop_ids=()).generate(weights, asked)
    assert {output.finish_reason for [output] in free} == {"length"}
    assert {len(output.tokens) for [output] in free} == {NEW}
    seen = sorted({token for [output] in free for token in output.tokens[2:6]})
    for stops in (tuple(seen[:1]), tuple(seen)):
        outputs = make(tiny, stop_ids=stops).generate(weights, asked)
        assert told(outputs) == [[reference.greedy(prompt, stops)] for prompt in asked]
        ended = [output for [output] in outputs if output.finish_reason == "stop"]
        assert ended and all(output.tokens[-1] in stops for output in ended)


def test_one_token_and_one_row(tiny: LoadedModel, weights: Any) -> None:
    reference, asked = Reference(tiny), prompts()
    outputs = make(tiny, rows=1).generate(weights, asked, max_tokens=1)
    assert told(outputs) == [[reference.greedy(prompt, most=1)] for prompt in asked]


def test_prompts_without_an_output_are_reported(tiny: LoadedModel, weights: Any) -> None:
    generator, finished = make(tiny, prompt_length=13), []
    asked = [*prompts(), []]
    outputs = generator.generate(weights, asked, samples=2, on_finished=finished.append)
    reasons = [samples[0].finish_reason for samples in outputs]
    assert [i for i, reason in enumerate(reasons) if reason == "too_long"] == [3, 5]
    assert reasons[-1] == "empty"
    assert outputs[3][1] == Output(3, 1, [], "too_long")
    assert sorted((each.prompt, each.sample) for each in finished) == [
        (prompt, sample) for prompt in range(len(asked)) for sample in range(2)
    ]
    assert generator.generate(weights, []) == []
    assert told(generator.generate(weights, [[], [1] * 14])) == [
        [([], "empty")],
        [([], "too_long")],
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"samples": 0},
        {"max_tokens": 0},
        {"max_tokens": NEW + 1},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_settings_that_mean_nothing_are_refused(
    settings: dict[str, Any], tiny: LoadedModel, weights: Any
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make(tiny).generate(weights, prompts(), **settings)


def test_greedy_is_temperature_zero(tiny: LoadedModel, weights: Any) -> None:
    """All samples are the same, and sampling comes to the same as the temperature falls."""
    greedy = told(make(tiny).generate(weights, prompts(), temperature=0, samples=5, seed=1))
    assert all(samples == [samples[0]] * 5 for samples in greedy)
    cold = told(make(tiny).generate(weights, prompts(), temperature=1e-5, samples=2, seed=2))
    assert [samples[0] for samples in cold] == [samples[0] for samples in greedy]


DRAWS = 4000


def share_test(drawn: list[int], probabilities: np.ndarray) -> float:
    """The p-value of a chi-square test; rare tokens are counted together."""
    counts = np.bincount(drawn, minlength=VOCABULARY)
    rare = probabilities * len(drawn) < 5
    observed = [*counts[~rare], counts[rare].sum()]
    expected = [*probabilities[~rare] * len(drawn), probabilities[rare].sum() * len(drawn)]
    if expected[-1] == 0:
        assert observed[-1] == 0
        observed, expected = observed[:-1], expected[:-1]
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_samples_have_the_distribution_of_the_model(
    top_p: float, tiny: LoadedModel, weights: Any
) -> None:
    [prompt], temperature = prompts((9,)), 0.5
    scaled = Reference(tiny).logits(prompt)[-1] / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities)
    kept = order[: int((np.cumsum(probabilities[order]) < top_p).sum()) + 1]
    nucleus = np.zeros(VOCABULARY)
    nucleus[kept] = probabilities[kept] / probabilities[kept].sum()
    assert 5 < len(kept) <= VOCABULARY

    [outputs] = make(tiny, rows=64).generate(
        weights, [prompt], temperature=temperature, top_p=top_p, samples=DRAWS, max_tokens=1, seed=3
    )

    drawn = [output.tokens[0] for output in outputs]
    assert set(drawn) <= set(kept.tolist())
    assert share_test(drawn, nucleus) > 0.001
    # and the test would see another temperature
    other = np.where(nucleus > 0, nucleus**1.5, 0)
    assert share_test(drawn, other / other.sum()) < 0.001


def test_a_draw_falls_where_the_running_sum_passes() -> None:
    """More entries than are summed at once, zeros at the end, numbers at both ends."""
    values = np.random.default_rng(0).random((600, 5)).astype(np.float32)
    values[::3] = 0
    values[500:] = 0
    uniform = np.array([0.0, 0.25, 0.5, 0.9, np.nextafter(np.float32(1), np.float32(0))])
    drawn = np.asarray(generate._draw(jnp.asarray(values), jnp.asarray(uniform, jnp.float32)))
    sums = np.cumsum(values.astype(np.float64), axis=0)
    for row, index in enumerate(drawn):
        assert values[index, row] > 0
        below, above = (sums[index - 1, row] if index else 0.0), sums[index, row]
        assert below - 1e-3 <= uniform[row] * sums[-1, row] <= above + 1e-3


def test_log_probabilities_are_those_of_the_whole_forward_pass(
    tiny: LoadedModel, weights: Any
) -> None:
    """Of samples, at their temperature; ``top_p`` does not change them."""
    reference, asked = Reference(tiny), prompts()
    outputs = make(tiny).generate(
        weights, asked, temperature=0.7, top_p=0.8, samples=2, log_probs=True
    )
    for prompt, samples in zip(asked, outputs, strict=True):
        for output in samples:
            expected = reference.log_probs(prompt, output.tokens, 0.7)
            np.testing.assert_allclose(output.log_probs, expected, atol=1e-4)
    assert make(tiny).generate(weights, asked)[0][0].log_probs is None


def move_lora(loaded: LoadedModel, seed: int = 0) -> None:
    """Change the LoRA matrices as a training would."""
    leaves, structure = jax.tree.flatten(nnx.state(loaded.module, nnx.LoRAParam))
    generator = np.random.default_rng(seed)
    moved = [leaf + 0.3 * generator.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    nnx.update(loaded.module, jax.tree.unflatten(structure, moved))


@pytest.mark.parametrize(
    ("family", "copy"),
    [
        *((family, True) for family in ("llama", "qwen3", "gemma", "gemma3")),
        *((family, False) for family in ("llama", "gemma", "gemma3")),
    ],
)
def test_lora_counts_whether_merged_or_beside_and_the_weights_stay(
    family: str, copy: bool, tmp_path: Path
) -> None:
    loaded = load(make_folder(tmp_path / family, family))
    base = make(loaded).generate(decoding_weights(loaded.module, loaded.architecture), prompts())
    apply_lora(loaded, rank=2, alpha=4.0, targets=None, seed=0)
    move_lora(loaded)
    before = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(loaded.module))]
    reference = Reference(loaded)

    outputs = make(loaded).generate(
        decoding_weights(loaded.module, loaded.architecture, copy=copy), prompts(), log_probs=True
    )

    assert told(outputs) == [[reference.greedy(prompt)] for prompt in prompts()]
    assert told(outputs) != told(base)
    for prompt, [output] in zip(prompts(), outputs, strict=True):
        likely = reference.log_probs(prompt, output.tokens, 1.0)
        np.testing.assert_allclose(output.log_probs, likely, atol=1e-4)
    after = jax.tree.leaves(nnx.state(loaded.module))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("family", CONFIGS)
def test_shared_weights_take_no_memory(family: str, tmp_path: Path) -> None:
    """All matrices are the module's own arrays, but those of Gemma's that are counted."""
    loaded = load(make_folder(tmp_path / family, family))
    apply_lora(loaded, rank=2, alpha=4.0, targets=None, seed=0)
    of_module = {id(leaf) for leaf in jax.tree.leaves(nnx.state(loaded.module))}
    for copy in (True, False):
        weights = decoding_weights(loaded.module, loaded.architecture, copy=copy)
        arrays = [leaf for leaf in jax.tree.leaves(weights) if isinstance(leaf, jax.Array)]
        copied = sum(leaf.size for leaf in arrays if id(leaf) not in of_module)
        assert copied == copied_size(loaded.architecture, copy=copy)
    matrices = copied_size(loaded.architecture, copy=True)
    assert copied < (0.5 if loaded.architecture.is_gemma else 0.02) * matrices


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "shared"])
def test_new_weights_change_the_outputs_and_compile_nothing(
    copy: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rollout has the weights of the step before it."""
    loaded = load(make_folder(tmp_path / "llama", "llama"))
    apply_lora(loaded, rank=2, alpha=4.0, targets=None, seed=0)
    generator, outputs = make(loaded), []
    for seed in (1, 2):
        move_lora(loaded, seed)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            weights = decoding_weights(loaded.module, loaded.architecture, copy=copy)
            outputs.append(told(generator.generate(weights, prompts((9, 4)))))
    assert [text for text in caplog.messages if text.startswith("Finished XLA compilation")] == []
    assert outputs[0] != outputs[1]


def test_what_generating_takes_is_counted(tiny: LoadedModel, weights: Any) -> None:
    a, rows, length = tiny.architecture, 16, 40
    state = jax.eval_shape(
        lambda: generate._empty(
            weights["norm"],
            architecture=a,
            dtype=jnp.float32,
            rows=rows,
            capacity=generate._capacity(length + NEW),
            max_tokens=NEW,
            placement=None,
        )
    )
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    sizes = {"rows": rows, "prompt_length": length, "max_tokens": NEW, "itemsize": 4}
    taken = generate.generation_bytes(a, **sizes)
    assert taken > 2 * cache, "there are two while it moves"
    assert generate.generation_bytes(a, **sizes | {"rows": 2 * rows}) > taken + cache


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "llama", "llama")
    loaded = load_model(
        model_id="tiny", path=folder, revision=None, dtype=jnp.bfloat16, mesh=None, seed=0
    )
    weights = decoding_weights(loaded.module, loaded.architecture)
    matrices = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim == 2]
    assert {leaf.dtype for leaf in matrices} == {jnp.dtype(jnp.bfloat16)}
    [[output]] = make(loaded).generate(weights, prompts((9,)), log_probs=True)
    likely = Reference(loaded).log_probs(*prompts((9,)), output.tokens, 1.0)
    np.testing.assert_allclose(output.log_probs, likely, atol=0.1)


@pytest.mark.parametrize("on_mesh", [False, True])
def test_nothing_is_compiled_after_the_first_time(
    on_mesh: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = make_mesh(data_parallel=None, fsdp_parallel=None) if on_mesh else None
    loaded = load(make_folder(tmp_path / "llama", "llama"), mesh)
    weights = decoding_weights(loaded.module, loaded.architecture)

    def compiled(lengths: tuple[int, ...], **settings: Any) -> list[str]:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            # no other test has this limit
            generator = make(loaded, max_tokens=NEW - 1)
            generator.generate(weights, prompts(lengths), temperature=1.0, **settings)
        return [text for text in caplog.messages if text.startswith("Finished XLA compilation")]

    assert compiled(LENGTHS, seed=1)
    assert compiled(tuple(reversed(LENGTHS)), seed=2) == []
    assert compiled((20, 31, 40, 3, 3, 3, 3, 3), seed=3, samples=2) == []


class Asked(Exception):
    pass


def test_a_stop_request_loses_nothing_that_was_finished(
    tiny: LoadedModel, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "STEPS", 4)
    generator, asked = make(tiny), prompts()
    whole = generator.generate(weights, asked)
    finished: list[Output] = []

    def check_stop() -> None:
        if len(finished) >= 3:
            raise Asked

    with pytest.raises(Asked):
        generator.generate(weights, asked, on_finished=finished.append, check_stop=check_stop)

    assert 3 <= len(finished) < len(asked)
    assert all(output == whole[output.prompt][0] for output in finished)
    # and it can be used again
    assert generator.generate(weights, asked) == whole
