"""docs/manifest.md against the code."""

import yaml

from runs.spec.kinds import EVALUATE, KINDS, SFT
from runs.spec.manifest import parse_manifest
from runs.trainer import errors
from runs.trainer.tests.doc_table import parameter_rows
from runs.trainer.tests.helpers import LAUNCH

TEXT = (LAUNCH.parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")


def test_the_tables_of_parameters_are_those_of_the_code():
    for kind in (*KINDS.values(), EVALUATE):
        section = TEXT.split(f"\n## Parameters of `{kind.section}`\n")[1].split("\n## ")[0]
        table = section.split(f"\n### `{kind.name}`\n")[1].split("\n###")[0]
        documented = [line for line in table.splitlines() if line.startswith("| `")]
        assert documented == parameter_rows(kind)


def test_the_document_names_what_a_training_measures():
    written = TEXT.split("\n## What is written\n")[1].split("\n## ")[0]
    for name in (*SFT.metrics, *SFT.results):
        assert f"`{name}`" in written or f'"{name}":' in written, name


def test_every_exit_code_is_documented():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TrainerError):
            assert f"| {kind.exit_code} | {kind.kind} | " in TEXT


def test_the_examples_are_manifests():
    training, evaluation = (part.split("```")[0] for part in TEXT.split("```yaml\n")[1:])
    assert (
        parse_manifest(training)["training"]["batch_size"]
        == yaml.safe_load(training)["training"]["batch_size"]
        == 32
    )
    assert parse_manifest(evaluation)["evaluation"]["max_tokens"] == 32
