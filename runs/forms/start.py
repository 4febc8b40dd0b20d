"""The request for a run."""

from typing import Any

from django import forms
from django.conf import settings

from runs.forms.tags import split_tags
from runs.models import RunMode
from runs.services.run_requests import (
    AUTO_RETRY_MAX,
    KEY_MAX_LENGTH,
    PRIORITY_RANGE,
    InvalidRequest,
    RunRequest,
    clean_request,
)
from runs.spec.kinds import DEFAULT_KIND, KINDS
from runs.spec.naming import NAME_MAX_LENGTH
from runs.spec.parameters import Parameter
from runs.spec.wording import number_text
from tunixrt.forms import ChoiceField, MultipleChoiceField
from tunixrt.numbers import NumberField, WholeNumberField

TEXT_MAX_LENGTH = 256


_WORDS = {
    "lora": "LoRA",
    "lr": "learning rate",
    "fsdp": "FSDP",
    "seq": "sequence",
    "dtype": "number type",
    "num": "",
}


def parameter_label(parameter: Parameter) -> str:
    """Return the label of a parameter as people write it: ``lora_rank`` becomes LoRA rank."""
    label = " ".join(_WORDS.get(word, word) for word in parameter.name.split("_")).strip()
    return label[:1].upper() + label[1:]


def parameter_help(parameter: Parameter) -> str:
    """Return the parameter's help and range; what is null in a request is an empty field in a
    form."""
    text = parameter.help.replace("null:", "empty:").replace("null ", "empty ")
    if parameter.minimum is None or parameter.maximum is None:
        return text
    low, high = f"{parameter.minimum:,.15g}", f"{parameter.maximum:,.15g}"
    return f"{text} {f'{low} < x ≤ {high}' if parameter.exclusive_minimum else f'{low} to {high}'}."


def parameter_field(parameter: Parameter) -> forms.Field:
    """Return the form field of a training parameter, whose text becomes the type that
    ``clean_request`` takes."""
    label, help_text = parameter_label(parameter), parameter_help(parameter)
    common: dict[str, Any] = {"label": label, "help_text": help_text, "initial": parameter.default}
    if parameter.type is bool:
        return forms.BooleanField(required=False, **common)
    if parameter.type is list:
        choices = [(name, name) for name in parameter.choices]
        return MultipleChoiceField(
            required=not parameter.nullable,
            choices=choices,
            widget=forms.CheckboxSelectMultiple,
            **common,
        )
    if parameter.choices:
        return ChoiceField(choices=[(name, name) for name in parameter.choices], **common)
    if parameter.type is int:
        return WholeNumberField(required=not parameter.nullable, **common)
    if parameter.type is float:
        return NumberField(required=not parameter.nullable, **common)
    return forms.CharField(required=not parameter.nullable, **common)


class StartForm(forms.Form):
    """A request for a run. ``request`` is what ``clean_request``, the one validation, made of
    it."""

    HANDLING = (
        "output_dir",
        "priority",
        "timeout_seconds",
        "auto_retry",
        "webhook_url",
        "preflight",
        "smoke",
    )

    dataset_key = forms.CharField(label="Dataset", max_length=KEY_MAX_LENGTH, widget=forms.Select)
    model_id = forms.CharField(
        label="Model",
        max_length=KEY_MAX_LENGTH,
        help_text=(
            "preset:<name>, a folder inside TUNIX_MODEL_ROOTS, or a hub id such as"
            " google/gemma-2b-it."
        ),
        widget=forms.TextInput(
            attrs={"list": "models", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    output_dir = forms.CharField(
        label="Output folder",
        required=False,
        help_text="Below the output root; empty: named by the run id.",
        max_length=1000,
    )
    name = forms.CharField(
        required=False,
        max_length=NAME_MAX_LENGTH,
        help_text="What to call the run; empty: two words and a number.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    tags = forms.CharField(required=False, help_text="Separated by commas.", max_length=2000)
    notes = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 3}), help_text="Markdown."
    )
    priority = WholeNumberField(
        initial=0,
        help_text=f"Higher starts earlier. {PRIORITY_RANGE[0]} to {PRIORITY_RANGE[1]}.",
        # the keys of inputmode=numeric have no minus on some phones
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    timeout_seconds = NumberField(
        label="Time limit",
        required=False,
        help_text="Seconds of training; empty: only the system's limit.",
    )
    webhook_url = forms.CharField(
        label="Webhook", required=False, help_text="Is told when the run ends.", max_length=2000
    )
    preflight = ChoiceField(
        label="Depth of dry runs",
        choices=[
            ("quick", "quick: without the runtime"),
            ("full", "full: tokens, steps and memory"),
        ],
        initial="quick",
        required=False,
    )
    smoke = forms.BooleanField(
        label="Smoke step",
        required=False,
        help_text="A dry run also trains one step, and keeps nothing.",
    )
    auto_retry = WholeNumberField(
        label="Automatic retries",
        initial=0,
        required=False,
        help_text=(
            "How often the system tries again by itself when the training was lost with its"
            " process or its host, or its host was stopped; not after an error of the training. 0"
            f" to {AUTO_RETRY_MAX}."
        ),
    )
    run_async = forms.BooleanField(
        label="Run Async",
        required=False,
        initial=True,
        help_text="Put the run into the queue and come back at once.",
    )
    client_request_id = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(
        self,
        *args: Any,
        datasets: list[tuple[str, str]],
        kind: str = DEFAULT_KIND,
        **kwargs: Any,
    ):
        """Make the form of a kind. ``datasets``: ``(key, label)`` of those to choose from."""
        super().__init__(*args, **kwargs)
        self.kind = KINDS[kind]
        self.fields["kind"] = forms.CharField(
            required=False, widget=forms.HiddenInput, initial=kind
        )
        for name, parameter in self.kind.parameters.items():
            self.fields[name] = parameter_field(parameter)
        widget = self.fields["dataset_key"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = [("", "Choose a dataset …"), *datasets]
        self.fields["timeout_seconds"].help_text = time_limit_help()
        self.request: RunRequest | None = None
        self.not_looked_at = ""  # why a check could not look deeper

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        training = {name: cleaned[name] for name in self.kind.parameters}
        training["lora_targets"] = training["lora_targets"] or None
        try:
            self.request = clean_request(
                {
                    "dataset_key": cleaned["dataset_key"],
                    "model_id": cleaned["model_id"],
                    "output_dir": cleaned["output_dir"] or None,
                    "kind": cleaned["kind"] or self.kind.name,
                    "dry_run": self.data.get("action") != RunMode.LOCAL,
                    "name": cleaned["name"] or None,
                    "tags": split_tags(cleaned["tags"]),
                    "notes": cleaned["notes"].replace("\r\n", "\n"),
                    "priority": cleaned["priority"],
                    "timeout_seconds": cleaned["timeout_seconds"],
                    "webhook_url": cleaned["webhook_url"],
                    "preflight": cleaned["preflight"] or "quick",
                    "smoke": cleaned["smoke"],
                    "auto_retry": cleaned["auto_retry"] or 0,
                    "client_request_id": cleaned["client_request_id"] or None,
                    **training,
                }
            )
        except InvalidRequest as error:
            self.take_errors(error)
        return cleaned

    def take_errors(self, error: InvalidRequest) -> None:
        """Show what is wrong beside its field, or above the form where no field is seen."""
        for name, problems in error.errors.items():
            if name in self.fields and not self[name].is_hidden:
                self.add_error(name, problems)
            else:
                self.add_error(None, [f"{name}: {problem}" for problem in problems])

    @property
    def basic_fields(self) -> list[forms.BoundField]:
        return [self[name] for name, one in self.kind.parameters.items() if one.basic]

    @property
    def advanced_fields(self) -> list[forms.BoundField]:
        parameters = [name for name, one in self.kind.parameters.items() if not one.basic]
        return [self[name] for name in (*parameters, *self.HANDLING)]

    @property
    def advanced_used(self) -> bool:
        """Is anything in the folded part wrong or not at its default? Then it is shown unfolded."""
        return any(
            field.errors or _shown(field.value()) != _shown(field.field.initial)
            for field in self.advanced_fields
        )


def time_limit_help() -> str:
    queued = settings.TUNIX_RUN_TIMEOUT_SECONDS
    at_most = f", and {number_text(queued)} at most" if queued else ""
    return (
        f"Seconds of training; empty: only the system's limit{at_most}."
        f" Without Run Async it is cut to {number_text(settings.TUNIX_SYNC_TIMEOUT_SECONDS)} s."
    )


def _shown(value: Any) -> str:
    """Return a field's value as the page shows it: nothing, no tick and an empty list look
    alike."""
    return "" if value in (None, False, []) else str(value)


def initial_from_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the form of a clone shows: the request of the run, in a folder and under a name
    of its own."""
    parameters = KINDS[config.get("kind", DEFAULT_KIND)].parameters
    initial = {
        name: value
        for name, value in config.items()
        if name in StartForm.base_fields or name in parameters
    }
    return initial | {"name": "", "output_dir": "", "tags": ", ".join(config.get("tags", []))}
