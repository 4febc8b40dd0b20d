"""Numbers that people type: into a form, a filter, a field of an upload.

Forms use text fields with ``inputmode``: a browser's ``type=number`` drops characters that its
language does not know, so that an English one makes 00001 of ``0,0001`` and sends 1 without a word.
"""

import math
import re
from typing import Any

from django import forms

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_ONE_COMMA = re.compile(r"([+-]?\d*),(\d+(?:e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", re.ASCII)
SHOWN_CHARACTERS = 40


def parse_number(text: str) -> float:
    """Return ``text`` as a finite number. Raise ValueError with a sentence that says what to type
    instead."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(
            _comma(text)
            or f"{_shown(text)} is no number: write digits, with a point for decimals, as in"
            " 0.0001."
        )
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_shown(text)} is no number that fits: it is too large.")
    return number


def parse_whole_number(text: str) -> int:
    """Return ``text`` as a whole number. Raise ValueError with a sentence that says what to type
    instead."""
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    if _THOUSANDS.fullmatch(text) and "." not in text:
        raise ValueError(
            f"{_shown(text)} has a comma: write {text.replace(',', '')}, without separators."
        )
    raise ValueError(f"{_shown(text)} is no whole number: write digits only, without separators.")


def _comma(text: str) -> str | None:
    """Return what to write instead of a number with a comma; None for other text."""
    thousands = text.replace(",", "") if _THOUSANDS.fullmatch(text) else None
    decimal = f"{match[1] or '0'}.{match[2]}" if (match := _ONE_COMMA.fullmatch(text)) else None
    meant = " or ".join(one for one in (decimal, thousands) if one)
    if meant:
        return (
            f"{_shown(text)} has a comma: write {meant}, with a point for decimals and without"
            " separators."
        )
    if "," in text and re.fullmatch(r"[+-]?[\d.,]*\d[\d.,]*", text, re.ASCII):
        return (
            f"{_shown(text)} has a comma: write digits, with a point for decimals and without"
            " separators, as in 1000.5."
        )
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…")


class NumberField(forms.FloatField):
    """A decimal number as ``parse_number`` reads it."""

    widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})

    def to_python(self, value: Any) -> float | None:  # type: ignore[override]  # FloatField is an IntegerField
        if value in self.empty_values:
            return None
        try:
            return parse_number(str(value))
        except ValueError as error:
            raise forms.ValidationError(str(error), code="invalid") from error


class WholeNumberField(forms.IntegerField):
    """A whole number as ``parse_whole_number`` reads it."""

    widget = forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off"})

    def to_python(self, value: Any) -> int | None:
        if value in self.empty_values:
            return None
        try:
            return parse_whole_number(str(value))
        except ValueError as error:
            raise forms.ValidationError(str(error), code="invalid") from error
