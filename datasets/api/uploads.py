"""The API of uploads: a file becomes examples and a dataset."""

import errno
from typing import Any, cast

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, QueryDict
from django.http.request import UnreadablePostError
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import ImportAnswer, Manifest
from datasets.api.common import GIVES_DATASET, caller, described
from datasets.api.presentation import import_answer, manifest
from datasets.api.requests import MODE, UploadFields, UploadQuery
from datasets.examples.schema import NAMED_FIELDS
from datasets.files.reading import Readable
from datasets.files.uploads import NO_ROOM, guard_body
from datasets.imports.importers import (
    ImportRequest,
    parse_held_out,
    parse_mapping,
    parse_names,
    parse_skip_bad,
)
from datasets.imports.importing import import_file, submit_file
from tunixrt.api.authentication import READ_ONLY
from tunixrt.api.schema import Content
from tunixrt.models import ApiToken
from tunixrt.reading import try_body
from tunixrt.refusals import NoRoom, NotAllowed
from tunixrt.roles import May, require

# Of a file as the body. What is in it is told from its first bytes.
FILE_TYPES = (
    *("application/x-ndjson", "application/jsonl", "application/json", "text/csv"),
    *("application/gzip", "application/zstd", "application/vnd.apache.parquet"),
    "application/octet-stream",
)


class RawParser(BaseParser):
    """A parser that returns the body as it is: it is read piece by piece."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return stream


RAW_PARSERS = [
    type("FileParser", (RawParser,), {"media_type": media_type}) for media_type in FILE_TYPES
]


def _form_schema() -> dict[str, Any]:
    fields = UploadFields.model_json_schema()
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {
        "type": "object",
        "required": ["file", *fields["required"]],
        "properties": {"file": file, **fields["properties"]},
    }


FORM = _form_schema()


class DatasetIngest(APIView):
    """POST: a file becomes examples and a dataset, all or nothing.

    Either a form (multipart) with ``file``, ``name``, ``version`` and, if wanted, ``description``,
    ``format``, ``held_out``; or the file as the body (of FILE_TYPES) and the fields as
    query parameters.
    """

    parser_classes = [MultiPartParser, *RAW_PARSERS]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # Before authentication: looking for a CSRF token reads the form.
        guard_body(request, settings.TUNIXRT_UPLOAD_MAX_BYTES)
        return super().initialize_request(request, *args, **kwargs)

    @described(
        "uploadDataset",
        summary="Turn a file into examples and a dataset, all or nothing",
        description="Either a form with the file and the fields, or the content of the file as the"
        " body and the fields in the query. JSON Lines, JSON, CSV, Parquet; gzip and zstd.",
        query=UploadQuery,
        body=Content(FILE_TYPES, also={"multipart/form-data": FORM}),
        answers={201: Manifest, 202: ImportAnswer},
        refused=(409, 507),
        gives=GIVES_DATASET,
    )
    def post(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        try:
            file, file_name, asked, later = read_upload(request)
            if later:
                row = submit_file(file=file, file_name=file_name, request=asked, by=caller(request))
                return Response(import_answer(row), status=202)
            dataset = import_file(file=file, file_name=file_name, request=asked, by=caller(request))
        except UnreadablePostError as error:
            raise ParseError(f"{error} Nothing was stored.") from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoRoom(NO_ROOM) from error
            raise
        return Response(manifest(dataset), status=201)


class UploadPermission(APIView):
    """GET: 204 if the user may upload a dataset. The front asks before it receives the body."""

    @described(
        "mayUpload",
        summary="204 for an account that may upload a dataset",
        answers={204: None},
    )
    def get(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        if isinstance(request.auth, ApiToken) and request.auth.read_only:
            raise NotAllowed(READ_ONLY)
        return Response(status=204)


def read_upload(request: Request) -> tuple[Readable, str, ImportRequest, bool]:
    """Return the file, its name, what is asked of the import, and whether it is to be done later.
    Raise InvalidDataset, ValidationError."""
    data = request.data
    later, query = _mode(request)
    if isinstance(data, QueryDict):
        files = data.getlist("file")
        given = {
            name: data.getlist(name) for name in data if name not in ("file", "csrfmiddlewaretoken")
        }
        if query:
            reason = "Give it as a field of the form, not in the address."
            raise ValidationError({name: [reason] for name in query})
        if len(files) != 1 or not isinstance(files[0], UploadedFile):
            raise ValidationError({"file": ["Give one file."]})
        return cast(Readable, files[0]), files[0].name or "", upload_fields(given), later
    fields = upload_fields(query)
    if not hasattr(data, "read"):
        raise ValidationError({"file": ["The body is empty."]})
    return cast(Readable, data), "", fields, later


def _mode(request: Request) -> tuple[bool, dict[str, list[Any]]]:
    """Return whether the import is to be done later, and the rest of the query. Raise
    ValidationError."""
    query = {name: request.query_params.getlist(name) for name in request.query_params}
    mode = query.pop("mode", [""])
    if len(mode) > 1 or mode[0] not in MODE["enum"]:
        raise ValidationError({"mode": ['Must be "sync" or "async".']})
    return mode[0] == "async", query


def upload_fields(given: dict[str, list[Any]]) -> ImportRequest:
    repeated = {name: ["Is given more than once."] for name in given if len(given[name]) > 1}
    files = {
        name: ["Must be text, not a file."]
        for name, values in given.items()
        if isinstance(values[0], UploadedFile)
    }
    first = {name: values[0] for name, values in given.items()}
    read, errors = try_body(UploadFields, first, named=NAMED_FIELDS)
    if read is None or repeated or files:
        raise ValidationError(errors | repeated | files)
    fields: dict[str, Any] = read.model_dump(exclude_unset=True)
    fields["held_out"] = parse_held_out(fields.get("held_out", ""))
    fields["format"] = fields.get("format") or None
    fields["kind"] = fields.get("kind") or None
    fields["mapping"] = parse_mapping(fields.get("mapping", ""))
    fields["ignore"] = tuple(parse_names(fields.get("ignore", "")))
    fields["skip_bad"] = parse_skip_bad(fields.get("skip_bad", ""))
    return ImportRequest(**fields)
