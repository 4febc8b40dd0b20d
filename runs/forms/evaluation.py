"""The request for an evaluation."""

import json
from typing import Any

from django import forms

from runs.forms.start import parameter_field
from runs.services.evaluations import clean_evaluation
from runs.services.run_requests import KEY_MAX_LENGTH, InvalidRequest, RunRequest
from runs.spec.kinds import EVALUATE
from runs.spec.naming import NAME_MAX_LENGTH
from runs.spec.scorers import SCORERS
from tunixrt.forms import MultipleChoiceField

SCORERS_JSON_MAX = 100_000
# Parameters with fields of their own.
_OWN = ("scorers", "stop", "system_prompt")
BASIC = ("method", "part", "limit", "samples", "temperature", "max_tokens")


def ready_scorers() -> list[str]:
    """Return the scorers that need no parameter."""
    return [
        name
        for name, scorer in SCORERS.items()
        if all(
            parameter.nullable or parameter.default is not None
            for parameter in scorer.parameters.values()
        )
    ]


class EvaluationForm(forms.Form):
    """A request for an evaluation. ``request`` is what ``clean_evaluation`` made of it."""

    dataset_key = forms.CharField(label="Dataset", max_length=KEY_MAX_LENGTH, widget=forms.Select)
    model_id = forms.CharField(
        label="Model",
        max_length=KEY_MAX_LENGTH,
        help_text=(
            "run:<run id>, run:<run id>@<step>, preset:<name>, a folder inside TUNIX_MODEL_ROOTS,"
            " or a hub id."
        ),
        widget=forms.TextInput(
            attrs={"list": "models", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    scorers = MultipleChoiceField(
        required=False,
        choices=[(name, name) for name in ready_scorers()],
        initial=["exact_match"],
        widget=forms.CheckboxSelectMultiple,
    )
    scorers_json = forms.CharField(
        label="Scorers as JSON",
        required=False,
        max_length=SCORERS_JSON_MAX,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text='Instead of those above, with parameters: [{"name": "regex", "parameters":'
        ' {"pattern": "yes"}}]. docs/evaluation.md lists them.',
    )
    stop = forms.CharField(
        required=False,
        max_length=64,
        help_text="A text that ends an output; empty: none.",
    )
    system_prompt = forms.CharField(
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=EVALUATE.parameters["system_prompt"].help.replace("null:", "empty:"),
    )
    name = forms.CharField(
        required=False,
        max_length=NAME_MAX_LENGTH,
        help_text="What to call the evaluation; empty: two words and a number.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    reuse = forms.BooleanField(
        label="Reuse outputs",
        required=False,
        initial=True,
        help_text="Take the outputs of an earlier evaluation with equal model, questions and"
        " settings, where there is one.",
    )
    baseline = forms.CharField(
        required=False,
        max_length=36,
        help_text="The id of an evaluation of the same questions to compare with; empty: none.",
    )
    client_request_id = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, datasets: list[tuple[str, str]], **kwargs: Any):
        """Make the form. ``datasets``: ``(key, label)`` of those to choose from."""
        super().__init__(*args, **kwargs)
        for name, parameter in EVALUATE.parameters.items():
            if name not in _OWN:
                self.fields[name] = parameter_field(parameter)
        widget = self.fields["dataset_key"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = [("", "Choose a dataset …"), *datasets]
        self.request: RunRequest | None = None

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        settings = {name: cleaned[name] for name in EVALUATE.parameters if name not in _OWN}
        scorers = self._scorers(cleaned)
        if self.errors:
            return cleaned
        try:
            self.request = clean_evaluation(
                {
                    **settings,
                    **scorers,
                    "dataset_key": cleaned["dataset_key"],
                    "model_id": cleaned["model_id"],
                    "stop": [cleaned["stop"]] if cleaned["stop"] else None,
                    "system_prompt": cleaned["system_prompt"].replace("\r\n", "\n") or None,
                    "name": cleaned["name"] or None,
                    "reuse": cleaned["reuse"],
                    "baseline": cleaned["baseline"] or None,
                    "client_request_id": cleaned["client_request_id"] or None,
                }
            )
        except InvalidRequest as error:
            self.take_errors(error)
        return cleaned

    def _scorers(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        """Return the scorers of the request; none of their own for a method that has its scores."""
        if cleaned["method"] != "generate":
            return {}
        if cleaned["scorers_json"]:
            try:
                return {"scorers": json.loads(cleaned["scorers_json"])}
            except (ValueError, RecursionError) as error:
                self.add_error("scorers_json", f"This is not JSON: {error}.")
                return {}
        if not cleaned["scorers"]:
            self.add_error("scorers", "Choose at least one scorer.")
            return {}
        return {"scorers": [{"name": name} for name in cleaned["scorers"]]}

    def take_errors(self, error: InvalidRequest) -> None:
        """Show what is wrong beside the fields."""
        for name, problems in error.errors.items():
            field = "scorers_json" if name == "scorers" else name
            self.add_error(field if field in self.fields else None, problems)

    @property
    def basic_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in BASIC]

    @property
    def advanced_fields(self) -> list[forms.BoundField]:
        others = [name for name in EVALUATE.parameters if name not in (*BASIC, *_OWN)]
        return [self[name] for name in ("system_prompt", "stop", *others, "baseline", "reuse")]

    @property
    def advanced_used(self) -> bool:
        """Whether something in the folded part is wrong or not at its default."""
        return any(
            field.errors or (field.value() or "") != (field.field.initial or "")
            for field in self.advanced_fields
        )
