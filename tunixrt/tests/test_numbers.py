"""Numbers as people type them: read, or refused with what to type instead."""

import pytest
from django import forms

from datasets.forms.imports import UploadForm
from runs.forms.history import HistoryFilter
from runs.forms.start import StartForm
from tunixrt.admin.accounts import NewTokenForm
from tunixrt.numbers import NumberField, WholeNumberField, parse_number, parse_whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.0001", 1e-4),
        ("1e-4", 1e-4),
        ("2E-05", 2e-5),
        (" .5 ", 0.5),
        ("3", 3.0),
        ("3.", 3.0),
        ("-1.5", -1.5),
        ("+2", 2.0),
    ],
)
def test_a_number(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("0,0001", "write 0.0001, "), (",5", "write 0.5, "), ("2,5e-4", "write 2.5e-4, "),
        ("-0,5", "write -0.5, "), ("1,000", "write 1.000 or 1000, "),
        ("1,000,000", "write 1000000, "), ("1,000.5", "write 1000.5, "),
        ("1.000,5", "as in 1000.5"), ("0,1,2", "as in 1000.5"),
    ],
)  # fmt: skip
def test_a_comma_is_named_with_what_to_type(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match="has a comma") as refusal:
        parse_number(text)
    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1_000",
        "1 000",
        "0x10",
        "nan",
        "inf",
        "\u0661",
        "1e",
        "--1",
        "1e999",
        "a,b",
        ",",
        "1" * 5000,
        "\u22121",
    ],
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        parse_number(text)


@pytest.mark.parametrize(("text", "number"), [("1000", 1000), ("-3", -3), ("+3", 3), (" 7 ", 7)])
def test_a_whole_number(text: str, number: int) -> None:
    assert parse_whole_number(text) == number


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("1,000", "has a comma: write 1000,"), ("2,5", "no whole number"),
        ("2.5", "no whole number"), ("1e3", "no whole number"), ("1_0", "no whole number"),
        ("3.0", "no whole number"), ("10.000", "no whole number"), ("\u0663", "no whole number"),
        ("9" * 5000, "no whole number"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_whole_number(text)


def test_no_form_has_a_number_field_of_the_browser() -> None:
    """``type=number`` drops what its language does not know: ``0,0001`` became 1.0 in an English
    browser."""
    fields = [
        field
        for form in (StartForm(datasets=[]), UploadForm(), HistoryFilter(), NewTokenForm())
        for field in form.fields.values()
    ]
    assert [field for field in fields if isinstance(field.widget, forms.NumberInput)] == []
    for field in fields:
        if isinstance(field, forms.IntegerField):
            assert isinstance(field, NumberField | WholeNumberField), field.label
