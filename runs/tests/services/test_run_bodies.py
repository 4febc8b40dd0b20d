"""The models of requests for runs, against the table of parameters they are made of."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from runs.services.run_requests import InvalidRequest, clean_request, parameter_type, run_body
from runs.spec.kinds import EVALUATE, KINDS, SFT, Kind
from runs.spec.parameters import Parameter
from runs.tests.spec.second_kind import pairs  # noqa: F401 - a fixture

ASKED = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}
PARAMETERS = [*SFT.parameters.values(), *EVALUATE.parameters.values()]


def near(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Draw values around the bounds and choices of a parameter, and of other types."""
    bounds = [bound for bound in (parameter.minimum, parameter.maximum) if bound is not None]
    numbers = [bound + step for bound in bounds for step in (-1, -1e-9, 0, 1e-9, 1)]
    numbers += [int(bound) + step for bound in bounds for step in (-1, 0, 1)]
    names = st.sampled_from([*parameter.choices, "other"])
    return st.one_of(
        st.sampled_from([*numbers, None, True, False, 10**400, float("nan"), float("inf")]),
        st.integers(),
        st.floats(),
        names,
        st.text(max_size=3),
        st.lists(names | st.none(), max_size=3),
        st.lists(st.fixed_dictionaries({"name": st.sampled_from(["math", "other"])}), max_size=2),
    )


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
@given(data=st.data())
def test_a_field_takes_what_the_table_allows_and_nothing_else(
    parameter: Parameter, data: st.DataObject
):
    value = data.draw(near(parameter))
    try:
        TypeAdapter(parameter_type(parameter)).validate_python(value, strict=True)
    except ValidationError:
        assert parameter.problem(value) is not None
    else:
        assert parameter.problem(value) is None


@given(values=st.dictionaries(st.sampled_from(list(SFT.parameters)), st.integers() | st.text()))
def test_every_wrong_parameter_is_named_in_the_words_of_the_table(values: dict[str, Any]):
    wrong = {
        name: [f"This field {problem}."]
        for name, value in values.items()
        if (problem := SFT.parameters[name].problem(value))
    }
    try:
        clean_request(ASKED | values)
    except InvalidRequest as error:
        told = {
            name: said
            for name, said in error.errors.items()
            if said != ["This field needs lora_rank."]
        }
        assert told == {name: wrong[name] for name in told} and told.keys() == wrong.keys()
    else:
        assert wrong == {}


def test_a_model_follows_its_kind(pairs: Kind):  # noqa: F811
    fields = run_body(pairs).model_fields
    assert "beta" in fields and "packing" not in fields
    assert run_body(pairs) is run_body(pairs) is not run_body(SFT)
    assert fields.keys() >= pairs.parameters.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_schema_has_the_bounds_and_defaults_of_the_table(kind: Kind):
    properties = run_body(kind).model_json_schema()["properties"]
    for name, parameter in kind.parameters.items():
        found = properties[name]
        assert (found["default"], found["description"]) == (parameter.default, parameter.help)
        bounds = {**found, **next(iter(found.get("anyOf", [])), {})}
        least = "exclusiveMinimum" if parameter.exclusive_minimum else "minimum"
        assert (bounds.get(least), bounds.get("maximum")) == (parameter.minimum, parameter.maximum)


def test_fifty_thousand_unknown_fields_are_counted():
    with pytest.raises(InvalidRequest) as error:
        clean_request(ASKED | {f"field-{number}": 1 for number in range(50_000)})
    assert len(error.value.errors) == 51
    assert error.value.errors["non_field_errors"] == ["49,950 more unknown fields."]


@pytest.mark.parametrize("length", [1, 64])
def test_a_tag_of_1_to_64_characters_is_taken(length: int):
    assert clean_request(ASKED | {"tags": ["x" * length]}).tags == ("x" * length,)


@pytest.mark.parametrize("tag", ["", " ", "x" * 65, "a\nb", "a\x00b", "a\x7fb"])
def test_other_tags_are_refused(tag: str):
    with pytest.raises(InvalidRequest) as refused:
        clean_request(ASKED | {"tags": [tag]})

    said = "A tag has 1 to 64 characters and no control characters."
    assert refused.value.errors == {"tags": [said]}


def test_no_address_of_a_webhook_is_an_empty_one():
    assert clean_request(ASKED).webhook_url == ""
    assert clean_request(ASKED | {"webhook_url": ""}).webhook_url == ""
