from typing import Any

from django import forms

from datasets.formats import FORMATS
from datasets.importers import ImportRefused, parse_held_out
from datasets.services import MAX_DESCRIPTION, MAX_NAME, MAX_VERSION, DatasetExists, InvalidDataset
from tunixrt.forms import ChoiceField
from tunixrt.refusals import Refusal

_FORMAT_LABELS = {
    "tunix_sft": "tunix_sft, an export of this system",
    "messages": "chat messages",
    "gsm8k": "question / answer (GSM8K)",
    "prompt_completion": "prompt / completion",
    "trace": "traces",
}


class UploadForm(forms.Form):
    file = forms.FileField(help_text="JSONL: one JSON object a line, UTF-8.", allow_empty_file=True)
    name = forms.CharField(
        max_length=MAX_NAME, help_text="Letters, digits, dots, underscores, hyphens."
    )
    version = forms.CharField(
        max_length=MAX_VERSION,
        initial="v1",
        help_text="Name and version together are the dataset's key.",
    )
    description = forms.CharField(
        max_length=MAX_DESCRIPTION, required=False, widget=forms.Textarea(attrs={"rows": 2})
    )
    format = ChoiceField(
        required=False,
        choices=[
            ("", "recognised by the first line"),
            *((name, _FORMAT_LABELS[name]) for name in FORMATS),
        ],
    )
    held_out = forms.CharField(
        required=False,
        max_length=12,
        help_text="Examples to hold out from training: a number (200) or a share (0.1).",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )

    def clean_held_out(self) -> int | float | None:
        try:
            return parse_held_out(self.cleaned_data["held_out"])
        except InvalidDataset as error:
            raise forms.ValidationError(error.errors["held_out"]) from error

    def take(self, refusal: Refusal) -> None:
        """Show what a service refused beside its field; what has no field of its own, above the
        form."""
        for name, messages in (
            refusal.messages or {self.refused_field(refusal): [str(refusal)]}
        ).items():
            self.add_error(name if name in self.fields else None, list(messages))

    @staticmethod
    def refused_field(refusal: Refusal) -> str:
        match refusal:
            case ImportRefused():
                return "file"
            case DatasetExists():
                return "version"
            case _:
                return ""

    def arguments(self) -> dict[str, Any]:
        """The arguments of import_file."""
        data = self.cleaned_data
        return {
            "file": data["file"],
            "file_name": data["file"].name,
            "name": data["name"],
            "version": data["version"],
            "description": data["description"],
            "format": data["format"] or None,
            "held_out": data["held_out"],
        }
