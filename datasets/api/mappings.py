"""The API of imports that wait for a mapping: what is known of their columns, what a mapping would
make of the first rows, and the mapping itself."""

from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import ImportAnswer
from datasets.api.common import IMPORT, caller, described
from datasets.api.presentation import import_answer
from datasets.api.requests import Format, Kind, Mapping, Names
from datasets.examples.kinds import example_line
from datasets.files.folders import folder_of
from datasets.formats.lines import LineError
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import NO_DRAFT, remembered_mapping, submit_draft
from datasets.imports.mapping import SHAPES, Preview, cells_of, guess, preview, rows_of
from datasets.models import Import, ImportState
from datasets.services.access import get_import_for, require_lines
from tunixrt.api.query import choice, parse_uuid, read_query
from tunixrt.api.schema import Answer
from tunixrt.reading import Model, read_body
from tunixrt.refusals import Conflict
from tunixrt.roles import May


class MappingQuery(Model):
    dry_run: Annotated[str, choice(["true", "false"])] = Field(
        "false", description="true: say what the first rows would become, and import nothing."
    )


class MappingBody(Model):
    """What the columns of a file mean: ``mapping``, ``format``, or both."""

    format: Format = ""
    kind: Kind = ""
    mapping: Mapping = Field({}, description="By the name of a field, the column that is meant.")
    ignore: Names = Field(
        [], description="Names of columns that say nothing about what is to be learnt."
    )

    def applied_to(self, request: ImportRequest) -> ImportRequest:
        return replace(
            request,
            format=self.format or None,
            kind=self.kind or None,
            mapping=self.mapping,
            ignore=tuple(self.ignore),
        )


class ShapeField(Answer):
    name: str
    label: str
    required: bool


class ShapeAnswer(Answer):
    """What a row can be."""

    title: str
    format: str
    kind: str | None
    fields: list[ShapeField] = Field(description="For which columns are chosen.")


class Choice(Answer):
    """The body of a request."""

    format: str
    kind: str
    mapping: dict[str, str]
    ignore: list[str]


class FirstRow(Answer):
    number: int = Field(description="Line of the file, item of an array, or row of a table.")
    row: dict[str, str] = Field(description="The beginning of each value, as text.")
    problem: str = Field(description="Why the line cannot be read.")


class ColumnsAnswer(Answer):
    columns: list[str]
    rows: list[FirstRow]
    shapes: list[ShapeAnswer]
    suggestion: Choice = Field(
        description="The last mapping of this account that fits, or a guess by names."
    )


class PreviewRow(Answer):
    number: int
    example: dict[str, Any] | None = Field(description="As form=examples exports it.")
    problem: str = Field(description="Why the row would be refused.")


class PreviewAnswer(Answer):
    rows: list[PreviewRow]


class ImportMapping(APIView):
    """GET: the columns of an import that waits for a mapping. POST: say what they mean."""

    @described(
        "readColumns",
        summary="The columns and first rows of a file of no known format, and a suggestion",
        path=IMPORT,
        answers={200: ColumnsAnswer},
        refused=(400, 409),
    )
    def get(self, request: Request, import_id: str) -> Response:
        row = _draft(request, import_id)
        rows = rows_of(row.source, folder_of(row.pk))
        return Response(
            {
                "columns": rows.columns,
                "rows": [
                    {"number": number, "row": {}, "problem": str(found)}
                    if isinstance(found, LineError)
                    else {"number": number, "row": dict(cells_of(found)), "problem": ""}
                    for number, found in rows.found
                ],
                "shapes": [
                    {
                        "title": shape.title,
                        "format": shape.format,
                        "kind": shape.kind,
                        "fields": [
                            {"name": slot.name, "label": slot.label, "required": slot.required}
                            for slot in shape.slots
                        ],
                    }
                    for shape in SHAPES
                ],
                "suggestion": _suggestion(rows.columns, request),
            }
        )

    @described(
        "mapImport",
        summary="Say what the columns of a file mean, and import it",
        description="With dry_run, says what the first rows would become.",
        path=IMPORT,
        query=MappingQuery,
        body=MappingBody,
        answers={200: PreviewAnswer, 202: ImportAnswer},
        refused=(409, 507),
        example_query={"dry_run": "true"},
        example={
            "format": "prompt_completion",
            "mapping": {"prompt": "frage", "completion": "antwort"},
        },
    )
    def post(self, request: Request, import_id: str) -> Response:
        query = read_query(MappingQuery, request)
        row = _draft(request, import_id)
        body = read_body(MappingBody, request.data)
        if not body.format and not body.mapping:
            raise ValidationError({"mapping": ["Say what the columns mean, or give a format."]})
        asked = body.applied_to(ImportRequest.from_json(row.request))
        asked.check()
        rows = rows_of(row.source, folder_of(row.pk))
        if query.dry_run == "true":
            return Response({"rows": [_preview_row(found) for found in preview(rows, asked)]})
        submitted = submit_draft(row=row, request=asked, by=caller(request))
        return Response(import_answer(submitted), status=202)


def _draft(request: Request, import_id: str) -> Import:
    row = get_import_for(caller(request), parse_uuid(import_id, "import_id"), may=May.ACT)
    require_lines(caller(request), row)
    if row.state != ImportState.DRAFT:
        raise Conflict(NO_DRAFT)
    return row


def _suggestion(columns: list[str], request: Request) -> dict[str, Any]:
    if kept := remembered_mapping(columns, caller(request)):
        return {
            "format": kept.format or "",
            "kind": kept.kind or "",
            "mapping": dict(kept.mapping),
            "ignore": list(kept.ignore),
        }
    shape, mapping = guess(columns)
    return {"format": shape.format, "kind": shape.kind or "", "mapping": mapping, "ignore": []}


def _preview_row(found: Preview) -> dict[str, Any]:
    example = None
    if found.example is not None:
        example = orjson.loads(example_line(found.example, "train"))
        del example["split"]
    return {"number": found.number, "example": example, "problem": found.problem}
