"""The filters of the history."""

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.auth.models import AbstractBaseUser

from runs.models import RunMode, RunStatus
from runs.queries import filters
from runs.queries.columns import parse_columns
from runs.queries.selection import Selection, parse_moment
from tunixrt.cursors import Cursor, decode_uuid_cursor
from tunixrt.forms import ChoiceField
from tunixrt.terms import FilterError, Term

TEXT_MAX_LENGTH = 256


class MomentField(forms.CharField):
    """A date, or a date and time (UTC), as ``parse_moment`` reads them."""

    widget = forms.DateInput(attrs={"type": "date"})

    def to_python(self, value: Any) -> datetime | None:  # type: ignore[override]
        text = super().to_python(value)
        if not text:
            return None
        try:
            return parse_moment(text)
        except ValueError as error:
            raise forms.ValidationError(f"The date {error}") from error


class FilterField(forms.CharField):
    """Text in the filter language; its terms. A refusal knows the text and the place: ``params`` of
    the error."""

    def clean(self, value: Any) -> list[Term]:
        text = super().clean(value)
        try:
            return filters.parse(text)
        except FilterError as error:
            place = {"text": text, "position": error.position}
            raise forms.ValidationError(error.problem, code="filter", params=place) from error


class CursorField(forms.CharField):
    def to_python(self, value: Any) -> Cursor[uuid.UUID] | None:  # type: ignore[override]
        text = super().to_python(value)
        if not text:
            return None
        try:
            return decode_uuid_cursor(text)
        except ValueError as error:
            raise forms.ValidationError(
                "This link does not lead to a page of this list."
            ) from error


class ColumnsField(forms.CharField):
    def to_python(self, value: Any) -> tuple[str, ...] | None:  # type: ignore[override]
        text = super().to_python(value)
        if not text:
            return None
        try:
            return parse_columns(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


def _any(choices: list[tuple[str, str]], label: str) -> list[tuple[str, str]]:
    return [("", label), *choices]


class HistoryFilter(forms.Form):
    """What a history page shows. Its query string is the saved view; names are those of the API.

    templates/runs/_filters.html writes the fields itself: a template for each widget took 1.3 ms of
    the page's 17.
    """

    q = FilterField(label="Search", required=False, max_length=TEXT_MAX_LENGTH)
    status = ChoiceField(
        choices=_any([(value, value) for value in RunStatus.values], "any status"), required=False
    )
    mode = ChoiceField(
        choices=_any([(value, value) for value in RunMode.values], "any mode"), required=False
    )
    dataset_key = forms.CharField(label="Dataset", required=False, max_length=TEXT_MAX_LENGTH)
    model_id = forms.CharField(label="Model", required=False, max_length=TEXT_MAX_LENGTH)
    tag = forms.CharField(required=False, max_length=TEXT_MAX_LENGTH)
    owner = forms.CharField(required=False, max_length=TEXT_MAX_LENGTH)
    after = MomentField(label="From (UTC)", required=False)
    before = MomentField(label="Until before (UTC)", required=False)
    columns = ColumnsField(required=False, widget=forms.HiddenInput)
    cursor = CursorField(required=False, widget=forms.HiddenInput)

    FILTERS = ("q", "status", "mode", "dataset_key", "model_id", "tag", "owner", "after", "before")
    RARE = ("dataset_key", "model_id", "tag", "owner", "after", "before")

    def selection(self, *, by: AbstractBaseUser) -> Selection:
        """Return the selection of a valid form; ``by`` is who looks."""
        given = self.cleaned_data
        return Selection(
            status=given["status"] or None,
            mode=given["mode"] or None,
            dataset_key=given["dataset_key"] or None,
            model_id=given["model_id"] or None,
            owner=given["owner"] or None,
            tag=given["tag"] or None,
            after=given["after"],
            before=given["before"],
            extra=filters.condition(given["q"], by=by),
            reads_all=filters.reads_all(given["q"]),
            names_kind=filters.names_kind(given["q"]),
        )

    @property
    def filter_error(self) -> dict[str, str] | None:
        """Where the typed filter is wrong: the text up to there, the character there, and the
        rest."""
        for error in self.errors.as_data().get("q", []):
            if error.code == "filter" and error.params:
                text, position = error.params["text"], error.params["position"]
                return {
                    "before": text[:position],
                    "at": text[position : position + 1],
                    "after": text[position + 1 :],
                }
        return None

    @property
    def query(self) -> str:
        """The filters and columns as a query string, in one order, without the cursor and without
        what is empty."""
        return urlencode(
            [(name, self.data[name]) for name in (*self.FILTERS, "columns") if self.data.get(name)]
        )

    @property
    def is_filtered(self) -> bool:
        return any(self.data.get(name) for name in self.FILTERS)

    @property
    def rare_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.RARE]

    @property
    def rare_filters_used(self) -> bool:
        return any(self.data.get(name) for name in self.RARE)
