"""docs/manifest.md against the code."""

import re

import yaml

from runs.spec.manifest import PARAMETERS, parse_manifest
from runs.trainer import errors
from runs.trainer.tests.doc_table import parameter_rows
from runs.trainer.tests.helpers import LAUNCH

TEXT = (LAUNCH.parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")


def test_the_table_of_parameters_is_that_of_the_code():
    documented = re.findall(
        r"^\| `(\w+)` \| .*$",
        TEXT.split("## Parameters of `training`")[1].split("\n## ")[0],
        re.MULTILINE,
    )
    assert documented == list(PARAMETERS)
    for row in parameter_rows():
        assert row in TEXT.splitlines(), row


def test_every_exit_code_is_documented():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TrainerError):
            assert f"| {kind.exit_code} | {kind.kind} | " in TEXT


def test_the_example_is_a_manifest():
    example = TEXT.split("```yaml\n")[1].split("```")[0]
    manifest = parse_manifest(example)
    assert (
        manifest["training"]["batch_size"]
        == yaml.safe_load(example)["training"]["batch_size"]
        == 32
    )
