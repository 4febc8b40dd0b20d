"""Forms of the pages on which new versions are made and compared."""

import json
from collections.abc import Iterator
from typing import Any

from django import forms

from datasets.cleaning.operation import Operation
from datasets.cleaning.recipe import OPERATIONS, RECIPE_MAX, InvalidRecipe, Recipe, parse_recipe
from datasets.services.datasets import MAX_DESCRIPTION, MAX_NAME, MAX_VERSION
from datasets.services.refusals import DatasetExists
from tunixrt.forms import ChoiceField, MultipleChoiceField
from tunixrt.numbers import parse_number, parse_whole_number
from tunixrt.refusals import Refusal

_TITLES = [(name, model.title) for name, model in OPERATIONS.items()]
PREFIX = "step-"


class CleanForm(forms.Form):
    """The recipe as JSON, the other parents, and what the new version is called."""

    recipe = forms.CharField(
        required=False,
        max_length=RECIPE_MAX,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "mono"}),
        label="Recipe as JSON",
        help_text="Steps that you add appear here. You can also write or paste a recipe.",
    )
    parents = forms.CharField(
        required=False,
        max_length=6_000,
        label="Further datasets",
        help_text="Keys with commas, for a recipe that begins with Merge or Mix by weights.",
    )
    operation = ChoiceField(choices=_TITLES, required=False, label="Operation")
    name = forms.CharField(required=False, max_length=MAX_NAME, label="Name of the new dataset")
    version = forms.CharField(
        required=False, max_length=MAX_VERSION, label="Version of the new dataset"
    )
    description = forms.CharField(
        required=False,
        max_length=MAX_DESCRIPTION,
        widget=forms.Textarea(attrs={"rows": 2}),
        label="Description of the new dataset",
    )

    def other_keys(self) -> list[str]:
        """Return the keys of the further datasets."""
        return [key for part in self.cleaned_data["parents"].split(",") if (key := part.strip())]

    def take(self, refusal: Refusal) -> None:
        """Show what was refused beside its field."""
        if isinstance(refusal, DatasetExists):
            self.add_error("version", str(refusal))
            return
        for place, said in (refusal.messages or {"": [str(refusal)]}).items():
            named = place.split(".")[0]
            shown = [f"{_spoken(place)}{text}" for text in said]
            self.add_error(named if named in self.fields else None, shown)


def _spoken(place: str) -> str:
    """Return ``recipe.steps[0].n`` as the beginning of a sentence."""
    return f"{place.removeprefix('recipe.')}: " if place.startswith("recipe.") else ""


class StepForm(forms.Form):
    """The parameters of one operation, as fields made of its model."""

    def __init__(self, operation: type[Operation], data: Any = None):
        super().__init__(data, prefix=PREFIX + operation.model_fields["operation"].default)
        self.operation = operation
        schema = operation.model_json_schema()
        needed = schema.get("required", [])
        for name, field in schema["properties"].items():
            if name != "operation":
                self.fields[name] = _field(name, field, required=name in needed)

    def step(self) -> dict[str, Any]:
        """Return the step that the fields describe; empty ones are left out."""
        values = {name: value for name, value in self.cleaned_data.items() if value not in ("", [])}
        return {"operation": self.operation.model_fields["operation"].default} | {
            name: value for name, value in values.items() if value is not None
        }

    def take(self, refusal: Refusal) -> None:
        for place, said in refusal.messages.items():
            name = place.removeprefix("recipe.steps[0].")
            self.add_error(name if name in self.fields else None, list(said))


def _field(name: str, schema: dict[str, Any], *, required: bool) -> forms.Field:
    """Return the field of a parameter with this JSON Schema."""
    kinds = [schema, *schema.get("anyOf", ())]
    found = next((kind for kind in kinds if kind.get("type") not in (None, "null")), schema)
    shared: dict[str, Any] = {
        "required": required,
        "label": name.replace("_", " ").capitalize(),
        "help_text": schema.get("description", ""),
        "initial": schema.get("default"),
    }
    text = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
    match found.get("type"):
        case "string" if "enum" in found:
            return ChoiceField(choices=[(one, _spaced(one)) for one in found["enum"]], **shared)
        case "array":
            return MultipleChoiceField(
                choices=[(one, _spaced(one)) for one in found["items"]["enum"]],
                widget=forms.CheckboxSelectMultiple,
                **shared,
            )
        case "object":
            return _JsonField(**shared)
        case "integer":
            return _NumberField(whole=True, **shared)
        case "number":
            return _NumberField(whole=False, **shared)
    return forms.CharField(max_length=2_000, widget=text, **shared)


def _spaced(word: str) -> str:
    return word.replace("_", " ")


class _NumberField(forms.CharField):
    def __init__(self, *, whole: bool, **arguments: Any):
        super().__init__(
            max_length=40,
            widget=forms.TextInput(
                attrs={"inputmode": "numeric" if whole else "decimal", "autocomplete": "off"}
            ),
            **arguments,
        )
        self._parse = parse_whole_number if whole else parse_number

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return self._parse(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class _JsonField(forms.CharField):
    def __init__(self, **arguments: Any):
        super().__init__(
            max_length=10_000,
            widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "class": "mono"}),
            **arguments,
        )
        self.help_text = f"{self.help_text} As a JSON object."

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError("Must be a JSON object.") from error


def read_steps(text: str) -> list[Any]:
    """Return the steps in the recipe of a form; none where it is empty. Raise InvalidRecipe."""
    if not text.strip():
        return []
    return list(parse_recipe(text).as_json()["steps"])


def write_recipe(steps: list[Any]) -> str:
    return json.dumps({"steps": steps}, ensure_ascii=False, indent=1) if steps else ""


def recipe_of(text: str) -> Recipe:
    """Return the recipe of a form. Raise InvalidRecipe."""
    if not text.strip():
        raise InvalidRecipe(messages={"recipe": ["Add at least one step."]})
    return parse_recipe(text)


def described(steps: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the steps for people: title and the parameters that were given."""
    for step in steps:
        model = OPERATIONS[step["operation"]]
        yield {
            "title": model.title,
            "parameters": [
                (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
                for name, value in step.items()
                if name != "operation" and value is not None
            ],
        }
