from typing import Any

import orjson
from django import forms
from django.conf import settings
from django.http import QueryDict

from datasets.files.reading import ImportRefused
from datasets.formats.table import FORMATS, KINDS, TEXT
from datasets.imports import hub
from datasets.imports.data_roots import PATH_MAX
from datasets.imports.hub import HubRequest
from datasets.imports.importers import (
    ImportRequest,
    parse_held_out,
    parse_mapping,
    parse_names,
    parse_skip_bad,
)
from datasets.imports.mapping import SHAPES, SHAPES_BY_NAME, Rows, Shape, fitting, guess, shaped
from datasets.models import Kind
from datasets.services.datasets import (
    MAX_DESCRIPTION,
    MAX_LICENCE,
    MAX_NAME,
    MAX_SOURCE,
    MAX_VERSION,
)
from datasets.services.refusals import DatasetExists, InvalidDataset
from tunixrt.forms import ChoiceField
from tunixrt.refusals import Refusal

_FORMAT_LABELS = {
    "examples": "examples in full, an export of this system",
    "tunix_sft": "tunix_sft, an export of this system",
    "tunix_preference": "tunix_preference, an export of this system",
    "tunix_prompts": "tunix_prompts, an export of this system",
    "openai_preference": "preference pairs (OpenAI)",
    "llama_factory_preference_chat": "preference pairs (LLaMA-Factory, chat)",
    "llama_factory_preference": "preference pairs (LLaMA-Factory, Alpaca)",
    "hh": "preference pairs (Anthropic HH)",
    "preference": "preference pairs (chosen / rejected)",
    "xlam": "function calls (xLAM)",
    "glaive": "function calls (Glaive)",
    "vertex": "chat (Vertex)",
    "kto": "answers with a verdict (KTO)",
    "oasst": "messages of trees (OASST)",
    "open_math": "worked mathematics (OpenMathReasoning)",
    "worked_question": "worked mathematics (question, solution, answer)",
    "open_r1": "answers to mathematics with verdicts (OpenR1-Math)",
    "worked": "worked mathematics (problem / solution)",
    "dolly": "instructions (Dolly)",
    "alpaca": "instructions (Alpaca)",
    "sharegpt": "chat (ShareGPT)",
    "messages": "chat messages (OpenAI)",
    "gsm8k": "question / answer with steps (GSM8K)",
    "question_answer": "question / answer",
    "prompt_completion_chat": "prompt / completion made of messages",
    "prompt_completion": "prompt / completion",
    "trace": "traces",
    "prompt": "prompts without an answer to learn",
    "text": "plain text",
}
_KIND_LABELS = {
    Kind.TRACE: "traces",
    Kind.CONVERSATION: "conversations",
    Kind.PREFERENCE: "preference pairs",
    Kind.PROMPT: "prompts with a reference answer",
    TEXT: "plain text, all of it learnt",
}


_HUB_FIELDS = ("revision", "config")


class UploadForm(forms.Form):
    file = forms.FileField(
        help_text="JSON Lines, JSON, CSV or TSV in UTF-8, also packed with gzip or zstd; Parquet.",
        allow_empty_file=True,
    )
    path = forms.CharField(
        required=False,
        max_length=PATH_MAX,
        label="Or a file on the server",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    hub = forms.CharField(
        required=False,
        max_length=200,
        label="Or a dataset of the Hugging Face Hub",
        help_text="owner/name. Its data files are fetched, never a script.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    revision = forms.CharField(
        required=False,
        max_length=200,
        help_text="Of the Hub: a commit, a branch or a tag; empty: main.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    config = forms.CharField(
        required=False,
        max_length=200,
        label="Configuration",
        help_text="Of the Hub: only files in a folder of this name, where there are several.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
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
    kind = ChoiceField(
        required=False,
        choices=[
            ("", "what their format is taken for"),
            *((name, _KIND_LABELS[name]) for name in KINDS),
        ],
        help_text="What the examples are to be.",
    )
    mapping = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text='For other names of fields or columns: {"prompt": "question", "completion":'
        ' "reply"}.',
    )
    ignore = forms.CharField(
        required=False,
        max_length=2_000,
        help_text="Names of fields, with commas, that say nothing about what is to be learnt,"
        " although their names look like it: score, rank.",
    )
    held_out = forms.CharField(
        required=False,
        max_length=12,
        help_text="Examples to hold out from training: a number (200) or a share (0.1).",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )

    skip_bad = forms.CharField(
        required=False,
        max_length=12,
        label="Lines to leave out",
        help_text="The share of lines that may be left out because they are not valid (0.01);"
        " empty: none.",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )
    licence = forms.CharField(
        required=False, max_length=MAX_LICENCE, help_text="Such as CC-BY-4.0."
    )
    source = forms.CharField(
        required=False,
        max_length=MAX_SOURCE,
        help_text="Where the data come from: an address, a paper.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        absent = [] if settings.TUNIX_DATA_ROOTS else ["path"]
        absent += [] if hub.is_installed() else ["hub", *_HUB_FIELDS]
        for name in absent:
            del self.fields[name]
        self.fields["file"].required = not self.fields.keys() & {"path", "hub"}

    def clean(self) -> dict[str, Any]:
        """Check that one of ``file``, ``path`` and ``hub`` is given."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        sources = ("file", "path", "hub")
        if not self.errors.keys() & set(sources):
            given = [name for name in sources if data.get(name)]
            if not given:
                self.add_error("file", "Choose a file, or name another source.")
            for name in given[1:]:
                self.add_error(name, "Give one or the other.")
        return data

    def hub_request(self) -> HubRequest:
        given = {name: self.cleaned_data[name] for name in _HUB_FIELDS}
        return HubRequest(self.cleaned_data["hub"], **{k: v for k, v in given.items() if v})

    def clean_skip_bad(self) -> float | None:
        try:
            return parse_skip_bad(self.cleaned_data["skip_bad"])
        except InvalidDataset as error:
            raise forms.ValidationError(error.errors["skip_bad"]) from error

    def clean_held_out(self) -> int | float | None:
        try:
            return parse_held_out(self.cleaned_data["held_out"])
        except InvalidDataset as error:
            raise forms.ValidationError(error.errors["held_out"]) from error

    def clean_mapping(self) -> dict[str, str]:
        try:
            return parse_mapping(self.cleaned_data["mapping"])
        except InvalidDataset as error:
            raise forms.ValidationError(error.errors["mapping"]) from error

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

    def import_request(self) -> ImportRequest:
        data = self.cleaned_data
        return ImportRequest(
            name=data["name"],
            version=data["version"],
            description=data["description"],
            format=data["format"] or None,
            kind=data["kind"] or None,
            mapping=data["mapping"],
            ignore=tuple(parse_names(data["ignore"])),
            held_out=data["held_out"],
            skip_bad=data["skip_bad"],
            licence=data["licence"],
            source=data["source"],
        )


class MappingForm(forms.Form):
    """What the columns of a file mean. Without a choice it shows the last one of this user that
    fits, else a guess.

    ``request`` is the import as it was asked for, with what is chosen here.
    """

    def __init__(
        self,
        data: QueryDict,
        *,
        asked: ImportRequest,
        rows: Rows,
        remembered: ImportRequest | None,
    ):
        shape = SHAPES_BY_NAME.get(data.get("shape", ""))
        chosen = {slot.name: data.get(slot.name, "") for slot in shape.slots} if shape else {}
        ignored = [name for name in data.getlist("ignore") if name in rows.columns]
        if shape is None:
            shape, chosen, ignored = _first_choice(rows, remembered)
        elif not any(chosen.values()):  # another shape was chosen
            chosen = fitting(shape, rows.columns)
        super().__init__(data if "shape" in data else None)
        self.shape = shape
        self.shapes = SHAPES
        mapping = {name: column for name, column in chosen.items() if column in rows.columns}
        self.request = shaped(asked, shape, mapping, ignored)
        self.slots = [(slot, rows.columns, mapping.get(slot.name, "")) for slot in shape.slots]
        rest = [column for column in rows.columns if column not in mapping.values()]
        self.rest = [(column, column in ignored) for column in rest]
        self.mapping_json = orjson.dumps(mapping, option=orjson.OPT_INDENT_2).decode()

    def clean(self) -> None:
        for slot, _, column in self.slots:
            if slot.required and not column:
                self.add_error(None, f"{slot.label}: choose a column.")

    def take(self, refusal: Refusal) -> None:
        """Show what a service refused above the form."""
        for messages in (refusal.messages or {"": [str(refusal)]}).values():
            self.add_error(None, list(messages))


def _first_choice(
    rows: Rows, remembered: ImportRequest | None
) -> tuple[Shape, dict[str, str], list[str]]:
    if remembered is not None:
        for shape in SHAPES:
            if (shape.format, shape.kind) == (remembered.format, remembered.kind):
                return shape, dict(remembered.mapping), list(remembered.ignore)
    return *guess(rows.columns), []
