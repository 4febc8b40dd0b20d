"""What an evaluation may be asked, and its manifest."""

from typing import Any

import pytest
import yaml

from runs.spec.evaluation import PARAMETERS, settings_hash, settings_problems
from runs.spec.kinds import EVALUATE, KINDS, SFT, kind_named
from runs.spec.manifest import (
    EVALUATION_OUTPUT_DEFAULTS,
    ManifestError,
    build_evaluation_manifest,
    dump_manifest,
    parse_manifest,
    with_revision,
)

DATASET = {
    "key": "sums-v1",
    "path": "dataset.jsonl",
    "format": "tunix_prompts",
    "fingerprint": "f",
    "examples": 3,
    "held_out": 0,
}
MODEL = dict.fromkeys(("path", "revision", "adapter", "checkpoints", "step", "seed"))
MODEL = {"id": "preset:tiny-llama"} | MODEL
DIGEST = "0a" * 32


def made(outputs_from: dict[str, str] | None = None, **evaluation: Any) -> dict[str, Any]:
    return build_evaluation_manifest(
        run_id="r",
        dataset=DATASET,
        model=MODEL,
        evaluation=evaluation,
        outputs_from=outputs_from,
    )


def problems_of(manifest: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ManifestError) as error:
        parse_manifest(yaml.safe_dump(manifest))
    return error.value.problems


def test_an_evaluation_is_a_kind_of_run_and_no_training():
    assert kind_named("evaluate") is EVALUATE
    assert kind_named("sft") is SFT
    assert kind_named("other") is None
    assert "evaluate" not in KINDS


def test_every_default_is_allowed_and_every_parameter_explains_itself():
    assert [parameter.name for parameter in PARAMETERS.values()] == list(PARAMETERS)
    for parameter in PARAMETERS.values():
        assert parameter.problem(parameter.default) is None
        assert parameter.help.endswith(".")
    assert settings_problems(EVALUATE.defaults()) == {}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (
            "scorers",
            ([{"name": "math"}], [{"name": "numeric", "weight": 2, "parameters": {"absolute": 1}}]),
            ([], "math", [{"name": "none"}], [{"name": "math"}] * 2, [{}], None, {"name": "math"}),
        ),
        ("stop", (None, ["\n\n"], list("abcd")), ([], [""], "a", list("abcde"), ["a", "a"], [1])),
        ("system_prompt", (None, "Be brief."), ("", " \n", 1, "x" * 10_001)),
        ("top_p", (1, 0.1), (0, 1.1)),
        ("max_tokens", (1, 8192), (0, 8193, None)),
        ("method", ("generate", "choices", "perplexity"), ("other", None)),
    ],
)
def test_settings_are_checked(name: str, right: tuple[Any, ...], wrong: tuple[Any, ...]):
    for value in right:
        assert PARAMETERS[name].problem(value) is None, value
    for value in wrong:
        assert PARAMETERS[name].problem(value), value


def test_what_was_built_comes_back_as_it_was():
    built = made({"path": "/x/items.jsonl", "sha256": DIGEST}, stop=["\n"], limit=5)

    assert parse_manifest(dump_manifest(built)) == built
    assert list(yaml.safe_load(dump_manifest(built))) == list(built)
    assert list(built["evaluation"]) == list(EVALUATE.parameters)
    assert built["output"] == EVALUATION_OUTPUT_DEFAULTS
    assert "training" not in built


def test_the_commit_of_a_model_is_written_into_the_manifest():
    text = dump_manifest(made())
    assert parse_manifest(with_revision(text, "c0ffee"))["model"] == MODEL | {"revision": "c0ffee"}


@pytest.mark.parametrize(
    ("changes", "where", "problem"),
    [
        ({"training": {}}, "training", "unknown section"),
        ({"resume_from": "x"}, "resume_from", "unknown section"),
        ({"evaluation": {"sampels": 1}}, "evaluation.sampels", "unknown parameter"),
        ({"evaluation": {"packing": True}}, "evaluation.packing", "is a parameter of sft"),
        ({"evaluation": {"samples": 5}}, "evaluation.samples", "must be 1 with temperature 0"),
        ({"evaluation": {"samples": 0}}, "evaluation.samples", "must be at least 1"),
        (
            {"evaluation": {"method": "choices", "temperature": 1}},
            "evaluation.temperature",
            "is a setting of method generate, not of choices",
        ),
        ({"evaluation": {"scorers": []}}, "evaluation.scorers", "at least one scorer"),
        ({"dataset": DATASET | {"format": "csv"}}, "dataset.format", "tunix_sft or tunix_prompts"),
        ({"model": MODEL | {"step": 3}}, "model.step", "with checkpoints"),
        ({"model": MODEL | {"checkpoints": "c"}}, "model.step", "with checkpoints"),
        ({"model": MODEL | {"checkpoints": "c", "step": 0}}, "model.step", "at least 1"),
        (
            {"model": MODEL | {"checkpoints": "c", "step": 1, "adapter": "a"}},
            "model.adapter",
            "must not be given with checkpoints",
        ),
        ({"model": MODEL | {"seed": -1}}, "model.seed", "at least 0"),
        ({"outputs_from": {"path": "p"}}, "outputs_from.sha256", "is missing"),
        ({"outputs_from": {"path": "p", "sha256": "x"}}, "outputs_from.sha256", "64 hexadecimal"),
        ({"outputs_from": "p"}, "outputs_from", "must be a mapping"),
        (
            {
                "outputs_from": {"path": "p", "sha256": DIGEST},
                "evaluation": {"method": "perplexity"},
            },
            "evaluation.method",
            "must be generate with outputs_from",
        ),
        ({"output": {"model": "m"}}, "output.model", "unknown key"),
    ],
)
def test_every_key_that_is_wrong_is_named(changes: dict[str, Any], where: str, problem: str):
    assert problem in problems_of(made() | changes)[where]


def test_equal_settings_have_an_equal_hash():
    settings = EVALUATE.defaults()
    assert settings_hash(settings) == settings_hash(dict(reversed(settings.items())))
    for name, value in {"seed": 1, "system_prompt": "\udc80", "stop": ["x"]}.items():
        assert settings_hash(settings | {name: value}) != settings_hash(settings)
