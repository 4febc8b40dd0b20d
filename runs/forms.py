"""Forms of the run pages: the filters of the history and the request for a run."""

from datetime import datetime
from typing import Any

from django import forms

from runs.models import RunMode, RunStatus
from runs.selection import Cursor, Selection, parse_moment

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


class CursorField(forms.CharField):
    def to_python(self, value: Any) -> Cursor | None:  # type: ignore[override]
        text = super().to_python(value)
        if not text:
            return None
        try:
            return Cursor.decode(text)
        except ValueError as error:
            raise forms.ValidationError("This link does not lead to a page of this list.") from error


def _any(choices: list[tuple[str, str]], label: str) -> list[tuple[str, str]]:
    return [("", label), *choices]


class HistoryFilter(forms.Form):
    """What a history page shows. Its query string is the saved view; names are those of the API."""

    q = forms.CharField(
        label="Search",
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Dataset, model, note or run id"}),
    )
    status = forms.ChoiceField(choices=_any([(value, value) for value in RunStatus.values], "any status"), required=False)
    mode = forms.ChoiceField(choices=_any([(value, value) for value in RunMode.values], "any mode"), required=False)
    dataset_key = forms.CharField(label="Dataset", required=False, max_length=TEXT_MAX_LENGTH)
    model_id = forms.CharField(label="Model", required=False, max_length=TEXT_MAX_LENGTH)
    tag = forms.CharField(required=False, max_length=TEXT_MAX_LENGTH)
    owner = forms.CharField(required=False, max_length=TEXT_MAX_LENGTH)
    after = MomentField(label="From", required=False)
    before = MomentField(label="Until before", required=False)
    cursor = CursorField(required=False, widget=forms.HiddenInput)

    FILTERS = ("q", "status", "mode", "dataset_key", "model_id", "tag", "owner", "after", "before")
    RARE = ("dataset_key", "model_id", "tag", "owner", "after", "before")

    def selection(self) -> Selection:
        """The selection of a valid form."""
        given = {name: self.cleaned_data[name] or None for name in self.FILTERS}
        given["text"] = given.pop("q")
        return Selection(**given)

    @property
    def is_filtered(self) -> bool:
        return any(self.data.get(name) for name in self.FILTERS)

    @property
    def rare_filters_used(self) -> bool:
        return any(self.data.get(name) for name in self.RARE)
