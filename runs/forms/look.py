"""How examples are to be shown: for which model, and what is left of long ones."""

from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator

from runs.forms.start import parameter_field
from runs.services.run_requests import KEY_MAX_LENGTH
from runs.spec.kinds import DEFAULT_KIND, KINDS
from tunixrt.refusals import Refusal

PARAMETERS = ("max_seq_length", "too_long", "prompt_style")


class LookForm(forms.Form):
    """The form of a page that shows examples in tokens. Sent by GET: the address names what is
    seen."""

    model_id = forms.CharField(
        label="Model",
        max_length=KEY_MAX_LENGTH,
        help_text="preset:<name>, or a folder inside TUNIX_MODEL_ROOTS with a tokenizer.",
        widget=forms.TextInput(
            attrs={"list": "models", "autocomplete": "off", "spellcheck": "false"}
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in PARAMETERS:
            parameter = KINDS[DEFAULT_KIND].parameters[name]
            field = self.fields[name] = parameter_field(parameter)
            field.required = False
            field.help_text = ""
            if parameter.type is int:
                field.widget.attrs["placeholder"] = parameter.default
            if parameter.minimum is not None and parameter.maximum is not None:
                field.validators += [
                    MinValueValidator(parameter.minimum),
                    MaxValueValidator(parameter.maximum),
                ]

        self.order_fields(self.field_order)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters to use, with defaults for empty fields."""
        defaults = KINDS[DEFAULT_KIND].defaults()
        return {
            name: self.cleaned_data[name] or defaults[name]
            for name in PARAMETERS
            if name in self.fields
        }

    def take(self, refusal: Refusal) -> None:
        """Show beside the model why nothing can be shown."""
        self.add_error("model_id", "; ".join(refusal.messages.get("model_id", [refusal.detail])))


class ExampleForm(LookForm):
    field_order = ("model_id", *PARAMETERS, "tokens")

    tokens = forms.BooleanField(label="Show where each token ends", required=False)
