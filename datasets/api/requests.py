"""What the API of traces and datasets takes."""

import uuid
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from datasets.examples.schema import json_kind
from datasets.formats.table import FORMATS, KINDS
from datasets.imports.hub import HubRequest
from datasets.imports.importers import SKIP_BAD_DEFAULT, ImportRequest
from datasets.models import ImportState
from datasets.queries.listing import OFFSET_MAX
from datasets.services.datasets import (
    MAX_DESCRIPTION,
    MAX_LICENCE,
    MAX_NAME,
    MAX_SOURCE,
    MAX_VERSION,
)
from tunixrt.api.query import CURSOR, choice, read_by, text, whole
from tunixrt.cursors import Cursor, decode_number_cursor, decode_uuid_cursor
from tunixrt.reading import Model, storable

PAGE_DEFAULT, PAGE_MAX = 20, 100
NAMES_MAX, NAME_MAX, TEXT_MAX = 100, 500, 4_096
WORD = r"^(?!.*\.\.)[A-Za-z0-9._-]+$"


class _PageQuery(Model):
    limit: Annotated[int, whole(1, PAGE_MAX)] = Field(PAGE_DEFAULT, description="Rows of a page.")
    offset: Annotated[int, whole(0, OFFSET_MAX)] = Field(0, description="Rows to pass over.")


def _decode_trace_cursor(text: str) -> Cursor[int] | Cursor[uuid.UUID]:
    """Decode the cursor of a list of traces; a list that is searched by words has numbers for
    keys."""
    try:
        return decode_number_cursor(text)
    except ValueError:
        return decode_uuid_cursor(text)


class TraceListQuery(_PageQuery):
    cursor: Annotated[Cursor[Any] | None, read_by(_decode_trace_cursor)] = Field(
        None, description=CURSOR
    )
    q: Annotated[str | None, text] = Field(
        None,
        description="Text of the prompt or the final answer, or an id. Reads every example.",
    )
    words: Annotated[str | None, text] = Field(
        None,
        description="Words that the example has, all of them and in any order. A word of"
        " three or more characters and * is the beginning of one. The order is that of indexing,"
        " the last first.",
    )
    archived: Annotated[str, choice(["true", "false"])] = Field(
        "false", description="true: those in the archive, instead of those in use."
    )


class DatasetListQuery(_PageQuery):
    cursor: Annotated[Cursor[int] | None, read_by(decode_number_cursor)] = Field(
        None, description=CURSOR
    )
    q: Annotated[str | None, text] = Field(None, description="Text of the key or the description.")
    archived: Annotated[str, choice(["true", "false"])] = Field(
        "false", description="true: those in the archive, instead of those in use."
    )


class ExportQuery(Model):
    form: Annotated[str, choice(("training", "examples"))] = Field(
        "training", description="examples: with everything that the examples say."
    )


class ImportListQuery(_PageQuery):
    cursor: Annotated[Cursor[uuid.UUID] | None, read_by(decode_uuid_cursor)] = Field(
        None, description=CURSOR
    )
    state: Annotated[str | None, choice(ImportState.values)] = Field(
        None, description="Only imports in this state."
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"Must be text, not {json_kind(value)}.")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"Must be a list of trace ids, not {json_kind(value)}.")
    return value


def _word(longest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": WORD, "minLength": 1, "maxLength": longest})


_IDS = WithJsonSchema({"type": "array", "items": {"type": "string", "format": "uuid"}})
_DESCRIPTION = WithJsonSchema({"type": "string", "maxLength": MAX_DESCRIPTION})
# The service checks the values, also those of pages and commands.
Name = Annotated[str, PlainValidator(_text), _word(MAX_NAME)]
Version = Annotated[str, PlainValidator(_text), _word(MAX_VERSION)]
Description = Annotated[str, PlainValidator(_text), _DESCRIPTION]
Licence = Annotated[
    str,
    PlainValidator(_text),
    WithJsonSchema({"type": "string", "maxLength": MAX_LICENCE}),
    Field(description="Such as CC-BY-4.0."),
]
Source = Annotated[
    str,
    PlainValidator(_text),
    WithJsonSchema({"type": "string", "maxLength": MAX_SOURCE}),
    Field(description="Where the data come from: an address, a paper."),
]
TraceIds = Annotated[list[Any], PlainValidator(_list), _IDS]
Format = Annotated[
    str,
    PlainValidator(_text),
    WithJsonSchema({"type": "string", "enum": ["", *FORMATS]}),
    Field(description="Of the lines; empty: recognised by the first one."),
]
Kind = Annotated[
    str,
    PlainValidator(_text),
    WithJsonSchema({"type": "string", "enum": ["", *KINDS]}),
    Field(description="What the examples are to be; empty: what their format is taken for."),
]


class DatasetBody(Model):
    """A dataset of stored traces."""

    name: Name
    version: Version
    trace_ids: TraceIds = Field(description="In the order of the dataset.")
    held_out_ids: TraceIds = Field([], description="Which of them are held out from training.")
    description: Description = ""


MODE = {"type": "string", "enum": ["", "sync", "async"]}


def _bounded(longest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "maxLength": longest})


class DatasetEdit(Model):
    """What changes; what is not given stays."""

    description: Description = ""
    licence: Annotated[str, PlainValidator(_text), _bounded(MAX_LICENCE)] = Field(
        "", description="Such as CC-BY-4.0."
    )
    source: Annotated[str, PlainValidator(_text), _bounded(MAX_SOURCE)] = Field(
        "", description="Where the data come from: an address, a paper."
    )


class UploadFields(Model):
    """What is said about an uploaded file."""

    name: Name
    version: Version
    description: Description = ""
    format: Format = ""
    kind: Kind = ""
    mapping: Description = Field(
        "",
        description="JSON object: the name of a field that a format knows, and the field or column"
        " of the file that is meant.",
    )
    ignore: Description = Field(
        "",
        description="Names of fields, with commas, that say nothing about what is to be learnt.",
    )
    held_out: Description = Field(
        "", description="Examples to hold out: a number, or a share such as 0.1."
    )
    skip_bad: Description = Field(
        "",
        description="Leave out lines that are not valid: true (up to 1 % of them), or the share"
        " that may be left out, such as 0.05.",
    )
    licence: Licence = ""
    source: Source = ""


class UploadQuery(UploadFields):
    """The same as the query of an upload whose body is the lines; a form has them as fields."""

    name: Name = ""
    version: Version = ""
    mode: Annotated[str, PlainValidator(_text), WithJsonSchema(MODE)] = Field(
        "", description="async: answer at once, and let a process import the file."
    )


def _typed(name: str, *kinds: type) -> PlainValidator:
    """Return a validator that accepts values of these types; the importer checks the value
    itself."""

    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"Must be {name}, not {json_kind(value)}.")
        return value

    return PlainValidator(check)


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("Must be a list of texts.")
    if len(value) > NAMES_MAX:
        raise ValueError(f"Has {len(value):,} items; the limit is {NAMES_MAX:,}.")
    return [_short(name, NAME_MAX) for name in value]


def _short(value: Any, longest: int = TEXT_MAX) -> str:
    text = storable(_text(value))
    if len(text) > longest:
        raise ValueError(f"Has {len(text):,} characters; the limit is {longest:,}.")
    return text


_NAMES = WithJsonSchema(
    {
        "type": "array",
        "items": {"type": "string", "maxLength": NAME_MAX},
        "maxItems": NAMES_MAX,
    }
)
Names = Annotated[list[str], PlainValidator(_names), _NAMES]
Text = Annotated[
    str,
    PlainValidator(_short),
    WithJsonSchema({"type": "string", "maxLength": TEXT_MAX}),
]

Mapping = Annotated[
    dict[str, Any],
    _typed("an object", dict),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]

HUB_FIELDS = tuple(field.name for field in fields(HubRequest) if field.name != "hub")


class ImportBody(Model):
    """An import of what is not uploaded: ``path`` names a file on the server, ``hub`` a dataset of
    the Hugging Face Hub. The other fields are those of an upload."""

    path: Text = Field("", description="Absolute path of a file inside TUNIX_DATA_ROOTS.")
    hub: Text = Field("", description="Id of a dataset on the Hub: owner/name.")
    revision: Text = Field("main", description="Of the Hub: a commit, a branch or a tag.")
    files: Names = Field(
        [], description="Of the Hub: names or patterns of the files; empty: all files of data."
    )
    config: Text = Field("", description="Of the Hub: only files in a folder of this name.")
    split: Text = Field("", description="Of the Hub: only files with this word in their names.")
    held_out_files: Names = Field(
        [], description="Of the Hub: names or patterns of the files whose examples are held out."
    )
    name: Name
    version: Version
    description: Description = ""
    format: Format = ""
    kind: Kind = ""
    mapping: Mapping = Field(
        {},
        description="The name of a field that a format knows, and the field or column of the file"
        " that is meant.",
    )
    ignore: Names = Field(
        [], description="Names of fields that say nothing about what is to be learnt."
    )
    held_out: Annotated[
        int | float | None,
        _typed("a number", int, float, type(None)),
        WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0}),
    ] = Field(None, description="Examples to hold out: a number, or a share such as 0.1.")
    skip_bad: Annotated[
        bool | float,
        _typed("true, false or a share", bool, int, float),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "number", "maximum": 0.5}]}),
    ] = Field(
        False,
        description="Leave out lines that are not valid: true (up to 1 % of them), or the share"
        " that may be left out, such as 0.05.",
    )
    licence: Licence = ""
    source: Source = ""

    def hub_request(self) -> HubRequest:
        return HubRequest(**{field.name: getattr(self, field.name) for field in fields(HubRequest)})

    def import_request(self) -> ImportRequest:
        return ImportRequest(
            name=self.name,
            version=self.version,
            description=self.description,
            format=self.format or None,
            kind=self.kind or None,
            mapping=self.mapping,
            ignore=tuple(self.ignore),
            held_out=self.held_out,
            skip_bad=SKIP_BAD_DEFAULT if self.skip_bad is True else self.skip_bad or None,
            licence=self.licence,
            source=self.source,
        )
