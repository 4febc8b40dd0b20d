"""The form on which a dataset's description, licence and source are edited."""

from django import forms

from datasets.services.datasets import MAX_DESCRIPTION, MAX_LICENCE, MAX_SOURCE


class EditForm(forms.Form):
    description = forms.CharField(
        required=False,
        max_length=MAX_DESCRIPTION,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    licence = forms.CharField(
        required=False, max_length=MAX_LICENCE, help_text="Such as CC-BY-4.0, or an address."
    )
    source = forms.CharField(
        required=False,
        max_length=MAX_SOURCE,
        help_text="Where the data come from: an address, a paper.",
    )

    prefix = "edit"
