"""What goes by the kind of a run: parameters of requests, forms and manifests."""

from typing import Any

import pytest
import yaml

from runs.forms.start import StartForm, initial_from_config
from runs.services.run_requests import InvalidRequest, clean_request
from runs.spec.kinds import DEFAULT_KIND, KINDS, SFT, Kind
from runs.spec.manifest import ManifestError, build_manifest, dump_manifest, parse_manifest
from runs.tests.spec.second_kind import pairs as pairs

DATASET = {"key": "sums-v1", "path": "dataset.jsonl"}
MODEL = {"id": "preset:tiny-llama", "path": None, "revision": None}
ASKED = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}


def made(kind: Kind, **training: Any) -> dict[str, Any]:
    dataset = DATASET | {"format": kind.dataset_formats[0]}
    return build_manifest(run_id="r", kind=kind, dataset=dataset, model=MODEL, training=training)


def manifest_problems(manifest: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ManifestError) as error:
        parse_manifest(yaml.safe_dump(manifest))
    return error.value.problems


def request_errors(**fields: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidRequest) as error:
        clean_request(ASKED | fields)
    return error.value.errors


def test_every_kind_is_found_by_its_name_and_every_entry_by_its_own():
    for name, kind in KINDS.items():
        assert kind.name == name
        for table in (kind.parameters, kind.metrics, kind.results):
            assert [entry.name for entry in table.values()] == list(table)
    assert DEFAULT_KIND in KINDS


class TestManifest:
    def test_it_has_the_parameters_of_its_kind(self, pairs: Kind):
        read = parse_manifest(dump_manifest(made(pairs, beta=0.5)))

        assert read["kind"] == "pairs"
        assert read["training"] == pairs.defaults() | {"beta": 0.5}
        assert list(read["training"]) == list(pairs.parameters)

    def test_without_a_kind_it_is_of_the_default(self):
        manifest = made(SFT)
        del manifest["kind"]

        assert parse_manifest(yaml.safe_dump(manifest)) == made(SFT) | {
            "dataset": made(SFT)["dataset"] | dict.fromkeys(("fingerprint", "examples", "held_out"))
        }

    def test_a_parameter_of_another_kind_is_refused_and_says_whose_it_is(self, pairs: Kind):
        assert manifest_problems(made(SFT) | {"training": {"beta": 0.5}}) == {
            "training.beta": "is a parameter of pairs, not of sft"
        }
        assert manifest_problems(made(pairs) | {"training": {"packing": True}}) == {
            "training.packing": "is a parameter of sft, not of pairs"
        }

    def test_the_dataset_has_the_format_of_the_kind(self, pairs: Kind):
        wrong = made(pairs)["dataset"] | {"format": SFT.dataset_formats[0]}

        assert manifest_problems(made(pairs) | {"dataset": wrong}) == {
            "dataset.format": "must be tunix_pairs"
        }

    @pytest.mark.parametrize("kind", ["dpo", "SFT", "", 1, True, ["sft"], {"sft": 1}])
    def test_a_kind_that_there_is_not_is_refused(self, kind: Any):
        [problem] = manifest_problems(made(SFT) | {"kind": kind}).items()
        assert problem[0] == "kind"
        assert problem[1].startswith("must be sft or evaluate, not ")


class TestRequest:
    def test_it_takes_the_parameters_of_its_kind(self, pairs: Kind):
        asked = clean_request(ASKED | {"kind": "pairs", "beta": 0.5})

        assert asked.kind == "pairs"
        assert asked.training == pairs.defaults() | {"beta": 0.5}
        assert clean_request(asked.as_config()) == asked

    def test_a_parameter_of_another_kind_is_refused_and_says_whose_it_is(self, pairs: Kind):
        assert request_errors(beta=0.5) == {
            "beta": ["This field is a parameter of pairs, not of sft."]
        }
        assert request_errors(kind="pairs", packing=True) == {
            "packing": ["This field is a parameter of sft, not of pairs."]
        }
        assert request_errors(gamma=1) == {"gamma": ["Unknown field."]}

    @pytest.mark.parametrize("kind", ["dpo", "SFT", "", None, 1, True, ["sft"], {}])
    def test_a_kind_that_there_is_not_is_refused_and_those_there_are_named(self, kind: Any):
        assert request_errors(kind=kind) == {"kind": ["This field must be one of sft, evaluate."]}

    def test_the_default_kind_leaves_no_trace_in_the_stored_request(self):
        """Requests are known again by it: those stored before there were kinds stay valid."""
        assert (
            clean_request(ASKED | {"kind": "sft"}).as_config() == clean_request(ASKED).as_config()
        )
        assert "kind" not in clean_request(ASKED).as_config()


class TestForm:
    def test_it_has_the_fields_of_its_kind(self, pairs: Kind):
        form = StartForm(datasets=[], kind="pairs")

        assert "beta" in form.fields
        assert "packing" not in form.fields
        assert [field.name for field in form.basic_fields] == [
            name for name, parameter in pairs.parameters.items() if parameter.basic
        ]
        assert "beta" in [field.name for field in form.advanced_fields]

    def test_it_asks_for_its_kind(self, pairs: Kind):
        empty = StartForm(datasets=[], kind="pairs")
        given = {name: field.initial for name, field in empty.fields.items() if field.initial}
        form = StartForm(
            given
            | ASKED
            | {"priority": "0", "beta": "0.5", "exact_match_examples": "0"}
            | {"warmup_ratio": "0", "weight_decay": "0", "seed": "0"},
            datasets=[("sums-v1", "sums-v1")],
            kind="pairs",
        )

        assert form.is_valid(), form.errors
        assert form.request is not None
        assert (form.request.kind, form.request.training["beta"]) == ("pairs", 0.5)

    def test_a_clone_shows_the_parameters_of_its_kind(self, pairs: Kind):
        config = clean_request(ASKED | {"kind": "pairs", "beta": 0.5}).as_config()

        assert initial_from_config(config)["beta"] == 0.5
        assert "beta" not in initial_from_config(clean_request(ASKED).as_config())
