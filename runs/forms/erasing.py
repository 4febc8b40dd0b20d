"""The form on which operators say whose content is to be erased."""

import re
from uuid import UUID

from django import forms

from runs.services.erasing import TRACES_MAX

_IDS_MAX = TRACES_MAX * 40


class ErasureForm(forms.Form):
    trace_ids = forms.CharField(
        required=False,
        max_length=_IDS_MAX,
        label="Ids of examples",
        help_text="One in a line, or with commas.",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "mono"}),
    )
    dataset = forms.CharField(
        required=False,
        max_length=256,
        label="Or: all examples that only this dataset uses",
        help_text="Key of a dataset.",
    )
    confirm = forms.IntegerField(
        required=False,
        min_value=0,
        label="Number of examples to erase",
        help_text="Type the number that is shown. Nothing brings the content back.",
    )

    def clean_trace_ids(self) -> list[UUID]:
        words = [word for word in re.split(r"[\s,]+", self.cleaned_data["trace_ids"]) if word]
        try:
            return [UUID(word) for word in words]
        except ValueError:
            raise forms.ValidationError("Enter ids of examples (UUIDs) only.") from None

    def clean(self) -> dict[str, object]:
        found: dict[str, object] = super().clean() or self.cleaned_data
        if not self.errors and bool(found.get("trace_ids")) == bool(found.get("dataset")):
            raise forms.ValidationError("Give either ids or a dataset.")
        return found
