"""runs.spec.manifest: every parameter at both ends of its range, unknown keys named, whatever YAML
is thrown at it."""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from runs.spec.kinds import SFT
from runs.spec.manifest import (
    OUTPUT_DEFAULTS,
    ManifestError,
    build_manifest,
    dump_manifest,
    parse_manifest,
    read_manifest,
    with_revision,
)
from runs.spec.parameters import LORA_TARGETS, Parameter
from runs.spec.wording import number_text, shortened, value_text

DATASET = {
    "key": "sums-v1",
    "path": "dataset.jsonl",
    "format": "tunix_sft",
    "fingerprint": "f",
    "examples": 3,
    "held_out": 0,
}
MODEL = {"id": "preset:tiny-llama", "path": None, "revision": None}
# The contract's table and the documented rest, written down again: (type, default, least,
# greatest).
CONTRACT = {
    "learning_rate": (float, 2e-5, 0, 1.0),
    "num_epochs": (int, 3, 1, 100),
    "batch_size": (int, 8, 1, 512),
    "max_seq_length": (int, 2048, 128, 32768),
}
NUMBERS = [parameter for parameter in SFT.parameters.values() if parameter.type in (int, float)]
CHOICES = [parameter for parameter in SFT.parameters.values() if parameter.type is str]
NOT_NUMBERS: list[Any] = ["3", True, False, [], {}, [3], "", b"3"]


def manifest(**changes: Any) -> dict[str, Any]:
    return build_manifest(run_id="r", kind=SFT, dataset=DATASET, model=MODEL, training={}) | changes


def problems_of(value: Any) -> dict[str, str]:
    with pytest.raises(ManifestError) as error:
        parse_manifest(value if isinstance(value, str) else yaml.safe_dump(value))
    return error.value.problems


@pytest.mark.parametrize("name", CONTRACT)
def test_the_parameters_of_the_contract(name: str):
    parameter = SFT.parameters[name]

    assert (parameter.type, parameter.default, parameter.minimum, parameter.maximum) == CONTRACT[
        name
    ]
    assert parameter.basic
    assert not parameter.nullable


@pytest.mark.parametrize("parameter", NUMBERS, ids=lambda parameter: parameter.name)
class TestNumbers:
    def test_both_ends_are_in(self, parameter: Parameter):
        assert parameter.minimum is not None
        assert parameter.maximum is not None
        least = parameter.minimum
        if parameter.exclusive_minimum:
            least = math.nextafter(least, math.inf) if parameter.type is float else least + 1
        for value in (least, parameter.maximum):
            assert parameter.problem(parameter.type(value)) is None
            assert parse_manifest(
                yaml.safe_dump(manifest(training={parameter.name: parameter.type(value)}))
            )

    def test_the_next_ones_are_out(self, parameter: Parameter):
        assert parameter.minimum is not None
        assert parameter.maximum is not None
        step = 1 if parameter.type is int else 1e-9
        below = parameter.minimum if parameter.exclusive_minimum else parameter.minimum - step
        above = (
            math.nextafter(parameter.maximum, math.inf)
            if parameter.type is float
            else parameter.maximum + 1
        )
        assert parameter.problem(parameter.type(below)) == (
            f"must be greater than {parameter.minimum:,}"
            if parameter.exclusive_minimum
            else f"must be at least {parameter.minimum:,}"
        )
        assert parameter.problem(above) == f"must be at most {number_text(parameter.maximum)}"

    def test_only_a_number_is_a_number(self, parameter: Parameter):
        for value in NOT_NUMBERS:
            assert parameter.problem(value) is not None, value
        for value in (math.nan, math.inf, -math.inf):
            assert parameter.problem(value) is not None, value
        if parameter.type is int:
            assert parameter.problem(float(parameter.maximum or 0)) is not None

    def test_null_where_it_has_a_meaning(self, parameter: Parameter):
        assert (parameter.problem(None) is None) is parameter.nullable
        assert not parameter.nullable or "null" in parameter.help

    def test_its_default_and_its_range_are_said(self, parameter: Parameter):
        assert parameter.problem(parameter.default) is None
        assert number_text(parameter.maximum) in parameter.range_text


@pytest.mark.parametrize("parameter", CHOICES, ids=lambda parameter: parameter.name)
def test_a_choice_is_one_of_its_names(parameter: Parameter):
    for choice in parameter.choices:
        assert parameter.problem(choice) is None
    wrong: tuple[Any, ...] = (
        "",
        parameter.choices[0].upper(),
        parameter.choices[0] + " ",
        1,
        True,
        [],
        None,
    )
    for value in wrong:
        assert parameter.problem(value) is not None, value
    assert parameter.range_text == ", ".join(parameter.choices)


def test_booleans_are_true_or_false():
    for parameter in SFT.parameters.values():
        if parameter.type is bool:
            assert parameter.problem(True) is parameter.problem(False) is None
            wrong: tuple[Any, ...] = (0, 1, "true", "yes", None, [])
            for value in wrong:
                assert parameter.problem(value) is not None, (parameter.name, value)
            assert parameter.range_text == ""


def test_lora_targets_are_some_of_the_projections():
    targets = SFT.parameters["lora_targets"]

    right: tuple[Any, ...] = (None, ["q_proj"], list(LORA_TARGETS), ("q_proj", "v_proj"))
    wrong: tuple[Any, ...] = (
        [],
        ["q"],
        ["q_proj", 7],
        "q_proj",
        {"q_proj": 1},
        7,
        [["q_proj"]],
        [None],
        ["q_proj", "q_proj"],
    )
    for value in right:
        assert targets.problem(value) is None
    for value in wrong:
        assert targets.problem(value) is not None, value


def test_every_default_is_in_its_range_and_every_parameter_explains_itself():
    assert SFT.defaults() == {name: parameter.default for name, parameter in SFT.parameters.items()}
    for parameter in SFT.parameters.values():
        assert parameter.problem(parameter.default) is None
        assert parameter.help.endswith(".")


class TestReading:
    def test_what_was_built_comes_back_as_it_was(self):
        built = manifest(resume_from="/x/checkpoints", extend_from_step=500)

        assert parse_manifest(dump_manifest(built)) == built
        assert list(yaml.safe_load(dump_manifest(built))) == list(built)

    def test_it_is_written_as_one_document(self):
        built = manifest(
            dataset=DATASET | {"key": "größe-✓: #1 'x' \"y\" {z}"},
            run_id="no",
            resume_from="/x/\u2028y",
        )

        assert dump_manifest(built) == yaml.safe_dump(built, sort_keys=False, allow_unicode=True)

    def test_text_of_all_kinds_comes_back(self):
        built = manifest(dataset=DATASET | {"key": "größe-✓: #1 'x' \"y\" {z}"}, run_id="no")

        assert parse_manifest(dump_manifest(built)) == built

    def test_what_is_left_out_gets_its_default(self):
        read = parse_manifest(
            yaml.safe_dump({"manifest_version": "1.0", "dataset": DATASET, "model": {"id": "x"}})
        )

        assert read["training"] == SFT.defaults()
        assert read["output"] == OUTPUT_DEFAULTS
        assert (read["run_id"], read["resume_from"], read["model"]["path"]) == (None, None, None)

    def test_another_place_for_an_output_is_kept(self):
        assert parse_manifest(yaml.safe_dump(manifest(output={"model": "m"})))[
            "output"
        ] == OUTPUT_DEFAULTS | {"model": "m"}

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"manifest_version": "2.0"}, "manifest_version"),
            ({"manifest_version": 1.0}, "manifest_version"),
            ({"manifest_version": None}, "manifest_version"),
            ({"run_id": 7}, "run_id"),
            ({"resume_from": ["x"]}, "resume_from"),
            ({"extend_from_step": 0}, "extend_from_step"),
            ({"extend_from_step": 1.5}, "extend_from_step"),
            ({"extend_from_step": True}, "extend_from_step"),
            ({"extend_from_step": "5"}, "extend_from_step"),
            ({"surplus": 1}, "surplus"),
            ({7: 1}, "7"),
            ({"dataset": None}, "dataset.key"),
            ({"dataset": []}, "dataset"),
            ({"dataset": DATASET | {"colour": "red"}}, "dataset.colour"),
            ({"dataset": DATASET | {"format": "csv"}}, "dataset.format"),
            ({"dataset": DATASET | {"path": 7}}, "dataset.path"),
            ({"dataset": DATASET | {"path": None}}, "dataset.path"),
            ({"dataset": DATASET | {"examples": "3"}}, "dataset.examples"),
            ({"dataset": DATASET | {"examples": True}}, "dataset.examples"),
            ({"model": {}}, "model.id"),
            ({"model": {"id": "x", "weights": "y"}}, "model.weights"),
            ({"model": "x"}, "model"),
            ({"training": []}, "training"),
            ({"training": {"learnin_rate": 1}}, "training.learnin_rate"),
            ({"training": {"num_epochs": 0}}, "training.num_epochs"),
            ({"training": {"num_epochs": None}}, "training.num_epochs"),
            ({"output": {"logs": "x"}}, "output.logs"),
            ({"output": {"model": 7}}, "output.model"),
        ],
    )
    def test_every_key_that_is_wrong_is_named(self, changes: dict[Any, Any], problem: str):
        problems = problems_of(manifest() | changes)

        assert problem in problems
        assert problem in str(ManifestError(problems))

    def test_all_that_is_wrong_is_said_at_once(self):
        wrong = manifest(
            manifest_version="9", dataset={"key": 1}, training={"seed": -1, "x": 1}, extra=1
        )

        assert {
            "manifest_version",
            "dataset.key",
            "dataset.path",
            "training.seed",
            "training.x",
            "extra",
        } <= set(problems_of(wrong))

    @pytest.mark.parametrize(
        "text",
        [
            "", "[]", "7", "text", "null", "- a", "{", "a: b: c", "\t",
            "!!python/object:os.system x", "a: *b", "a: !!timestamp x", "a: !!bool x", "a: !!int x",
            "a: !!float x", "a: !!binary x", "a: !!set {x}", "? [a]\n: b",
        ],
    )  # fmt: skip
    def test_what_is_no_mapping_is_no_manifest(self, text: str):
        assert list(problems_of(text)) == ["manifest"]

    def test_nesting_without_end_is_no_manifest(self):
        assert list(problems_of("[" * 20_000)) == ["manifest"]

    def test_a_file_that_cannot_be_read_is_said(self, tmp_path: Path):
        for content in (None, b"\xff\xfe\x00"):
            if content:
                (tmp_path / "m.yaml").write_bytes(content)
            with pytest.raises(ManifestError, match="cannot read"):
                read_manifest(tmp_path / "m.yaml")
        (tmp_path / "m.yaml").write_text(dump_manifest(manifest()))
        assert read_manifest(tmp_path / "m.yaml") == manifest()


def test_long_text_is_shown_in_part():
    assert shortened("x" * 80) == "x" * 80
    assert shortened("x" * 81) == "x" * 79 + "…"


@effort(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dataset", "model", "training", "output", "key", "seed"])
                | st.integers(),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_any_yaml_is_a_manifest_or_named_problems(value: Any):
    problems = problems_of(value)  # never whole: it has no manifest_version

    assert problems
    assert all(sentence.strip() for sentence in problems.values())


# --- The scalars of a hand-written manifest -------------------------------------------------------


def written_by_hand(name: str, text: str) -> Any:
    """The value of a training parameter that stands in a manifest as ``text``."""
    whole = dump_manifest(manifest(training={}))
    return parse_manifest(
        f"{whole.replace('training: {}', 'training:')}".replace(
            "training:", f"training:\n  {name}: {text}"
        )
    )["training"][name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2e-05", 2e-5),
        ("1E-3", 1e-3),
        ("1e0", 1.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("+1e-1", 0.1),
        ("1", 1),
        ("2.0e-05", 2e-5),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float):
    assert written_by_hand("learning_rate", text) == value


@pytest.mark.parametrize("parameter", SFT.parameters.values(), ids=lambda parameter: parameter.name)
def test_a_default_written_as_documented_is_the_default(parameter: Parameter):
    default = parameter.default
    shown = json.dumps(default) if default is None or isinstance(default, bool) else str(default)

    assert written_by_hand(parameter.name, shown) == default


@pytest.mark.parametrize("text", ["010", "0x10", "0o20", "+16", "16"])
def test_whole_numbers_are_those_of_yaml_1_2(text: str):
    assert written_by_hand("batch_size", text) == (10 if text == "010" else 16)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("batch_size", "1_000"), ("batch_size", "1:30"), ("batch_size", "0b11"),
        ("batch_size", "2026-01-01"), ("batch_size", "1e1"), ("batch_size", "'8'"),
        ("learning_rate", "0,0001"), ("learning_rate", "1_0e-5"), ("learning_rate", "'2e-5'"),
        ("learning_rate", "2e"), ("learning_rate", ".inf"), ("learning_rate", ".nan"),
        ("learning_rate", "0x"), ("packing", "yes"), ("packing", "on"), ("packing", "n"),
        ("packing", "1"), ("packing", "'true'"),
    ],
)  # fmt: skip
def test_what_is_no_number_and_no_boolean_of_yaml_1_2_is_refused_by_name(name: str, text: str):
    with pytest.raises(ManifestError) as error:
        written_by_hand(name, text)
    assert list(error.value.problems) == [f"training.{name}"]


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "off", "y", "1_000", "1:30", "2026-01-01", "=", "<<", "0b1", "nan", "inf"],
)
def test_text_that_only_yaml_1_1_takes_for_something_else_stays_text(text: str):
    read = parse_manifest(
        f'manifest_version: "1.0"\nrun_id: {text}\ndataset: {{key: d, path: p, format:'
        " tunix_sft}\nmodel: {id: m}\n"
    )

    assert read["run_id"] == text


def test_a_key_that_is_given_twice_is_refused():
    text = dump_manifest(manifest(training={"seed": 1})).replace(
        "  seed: 1\n", "  seed: 1\n  seed: 2\n"
    )

    assert '"seed" is given twice' in problems_of(text)["manifest"]


# Everything that a reader of YAML 1.1 or 1.2 may take for a number, a boolean, null or a time, and
# plain text.
_texts = (
    st.from_regex(
        r"[-+]?[0-9]{0,3}[._:eE]{0,2}[-+]?[0-9]{0,3}|0[xob][0-9a-f]{0,3}|[0-9]{4}-[0-9]{2}-[0-9]{2}",
        fullmatch=True,
    )
    | st.sampled_from(
        [
            "no",
            "Yes",
            "ON",
            "off",
            "~",
            "null",
            "NULL",
            "true",
            "FALSE",
            ".inf",
            "-.INF",
            ".nan",
            "<<",
            "=",
            "y",
            "",
        ]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)


@st.composite
def _trainings(draw: st.DrawFn) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(list(SFT.parameters)), max_size=6, unique=True)):
        parameter = SFT.parameters[name]
        if parameter.type is int:
            kind: st.SearchStrategy[Any] = st.integers(
                int(parameter.minimum or 0) + 1, int(parameter.maximum or 0)
            )
        elif parameter.type is float:
            kind = st.floats(parameter.minimum, parameter.maximum, exclude_min=True)
        elif parameter.type is bool:
            kind = st.booleans()
        elif parameter.type is list:
            kind = st.lists(st.sampled_from(parameter.choices), min_size=1, unique=True)
        else:
            kind = st.sampled_from(parameter.choices)
        values[name] = draw(st.none() | kind if parameter.nullable else kind)
    return values


COMMIT = "1234567890" * 4  # all digits: unquoted it would be a number
HEAD = 'manifest_version: "1.0"\ndataset: {key: k, path: p, format: tunix_sft}\n'


@pytest.mark.parametrize(
    "model",
    [
        "model:\n  id: owner/name\n",
        "model:\n  id: owner/name  # ours\n  revision: main  # for now\n",
        "model:\n    revision:\n    id: 'owner/name'\n",
        "model:\n  id: owner/name\n  path: null\n  revision: null\ntraining:\n  seed: 7\n",
        "model: {id: owner/name}\n",
        'model: {"id": owner/name, "revision": "v1.0"}  # a tag\n',
        "model: {id: owner/name, revision: }\n",
    ],
)
def test_a_revision_is_written_into_a_manifest_and_nothing_else_is_changed(model: str):
    text = f"# by hand\n{HEAD}{model}# the end\n"
    before = parse_manifest(text)

    changed = with_revision(text, COMMIT)

    assert parse_manifest(changed) == before | {"model": before["model"] | {"revision": COMMIT}}
    assert [line.partition("#")[2] for line in changed.splitlines() if "#" in line] == [
        line.partition("#")[2] for line in text.splitlines() if "#" in line
    ]
    assert with_revision(changed, COMMIT) == changed


@pytest.mark.parametrize(
    "model",
    ["model:\n  id: &name owner/name\n  revision: *name\n", 'model:\n  id: "owner\\\n    /name"\n'],
)
def test_a_manifest_of_an_unusual_form_is_left_alone_or_right(model: str):
    before = parse_manifest(HEAD + model)

    after = parse_manifest(with_revision(HEAD + model, COMMIT))

    assert after in (before, before | {"model": before["model"] | {"revision": COMMIT}})


@effort(max_examples=60)
@given(
    run_id=_texts, key=_texts, model=_texts, resume_from=st.none() | _texts, training=_trainings()
)
def test_any_manifest_that_was_written_is_read_as_it_was(
    run_id: str, key: str, model: str, resume_from: str | None, training: dict[str, Any]
):
    built = build_manifest(
        run_id=run_id,
        kind=SFT,
        dataset=DATASET | {"key": key},
        model=MODEL | {"id": model},
        training=training,
        resume_from=resume_from,
    )

    text = dump_manifest(built)

    assert parse_manifest(text) == built
    assert yaml.safe_load(text) == built  # and by a reader of YAML 1.1


def test_values_are_said_as_they_stand_in_a_request():
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    said = {
        True: "true",
        None: "null",
        0.5: "0.5",
        "é": '"é"',
        "a\n": '"a\\n"',
        "\u202e": '"\\u202e"',
        "\ud800": '"\\ud800"',
    }
    for value, text in said.items():
        assert value_text(value) == text
    assert value_text(["x", 1]) == '["x", 1]'
    assert value_text(date(2026, 1, 2)) == '"2026-01-02"'
    assert value_text(10**5000) == value_text(nested) == "this"
    assert len(value_text("x" * 1000)) == 80


def test_numbers_are_said_in_full():
    said = {
        10**8: "100,000,000",
        31_536_000.0: "31,536,000",
        2e-5: "0.00002",
        1.0: "1",
        0.5: "0.5",
        1e-9: "0.000000001",
    }
    for value, text in said.items():
        assert number_text(value) == text
