"""The API of traces and datasets. Paths and codes are fixed by docs/datasets.md."""

import errno
import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.http import FileResponse, HttpRequest, QueryDict, StreamingHttpResponse
from django.http.request import UnreadablePostError
from rest_framework.exceptions import NotFound, ParseError, ValidationError
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import (
    DatasetPage,
    ImportAnswer,
    ImportPage,
    Manifest,
    Receipt,
    ReceiptList,
    TraceAnswer,
    TracePage,
)
from datasets.api.presentation import (
    dataset_row,
    full_trace,
    import_answer,
    manifest,
    receipt,
)
from datasets.api.requests import (
    HUB_FIELDS,
    MODE,
    DatasetBody,
    DatasetEdit,
    DatasetListQuery,
    ExportQuery,
    ImportBody,
    ImportListQuery,
    TraceListQuery,
    UploadFields,
    UploadQuery,
)
from datasets.examples.kinds import EXAMPLE_SCHEMA
from datasets.examples.schema import NAMED_FIELDS
from datasets.examples.words import SearchWord, search_words
from datasets.files.reading import Readable
from datasets.files.uploads import NO_ROOM, guard_body
from datasets.imports.importers import (
    ImportRequest,
    parse_held_out,
    parse_mapping,
    parse_names,
    parse_skip_bad,
)
from datasets.imports.importing import (
    cancel_import,
    import_file,
    open_skipped,
    submit_file,
    submit_hub,
    submit_path,
)
from datasets.models import Trace
from datasets.queries.listing import (
    Page,
    filter_imports,
    find_traces,
    search_datasets,
    search_traces,
    take_page,
)
from datasets.services.access import get_dataset_for, get_import_for
from datasets.services.curation import edit_dataset
from datasets.services.datasets import create_dataset
from datasets.services.exports import export_lines, export_parquet
from datasets.services.refusals import InvalidTraces
from datasets.services.traces import create_traces
from datasets.storage.word_index import waiting_count
from tunixrt.api.authentication import READ_ONLY
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import parse_uuid, read_query
from tunixrt.api.schema import Content, Path, operation
from tunixrt.models import ApiToken
from tunixrt.reading import read_body, try_body
from tunixrt.refusals import InvalidQuery, NoRoom, NotAllowed
from tunixrt.roles import May, require
from tunixrt.searches import search

TRACES_MAX = 10_000  # traces in one request; more come as a file


DATASET = {"key": Path("Key of a dataset: name-version.", {"type": "string"}, "sums-v1")}
TRACE = {
    "trace_id": Path(
        "Id of a trace.",
        {"type": "string", "format": "uuid"},
        "5b0c2c3e-8b1d-4c39-9a55-5d0c7a1f2e10",
    )
}
GIVES_DATASET = {"key": "/dataset_key"}
described = partial(operation, tag="Datasets")


def caller(request: Request) -> User:
    return cast(User, request.user)  # every view asks for a login (DEFAULT_PERMISSION_CLASSES)


def paged(data: list[Any], limit: int, offset: int, page: Page) -> Response:
    more = page.next_cursor is not None
    pagination = {
        "limit": limit,
        "offset": offset,
        "next_offset": offset + limit if more else None,
        "next_cursor": page.next_cursor,
    }
    return Response({"data": data, "pagination": pagination})


def _search_words(query: TraceListQuery) -> list[SearchWord]:
    """Raises InvalidQuery."""
    if query.q:
        raise InvalidQuery({"words": ["Give one of q and words."]})
    try:
        return search_words(query.words or "")
    except ValueError as error:
        raise InvalidQuery({"words": [str(error)]}) from error


class TraceList(APIView):
    """GET: a page of examples, newest first. POST: store one, or a list of them, all or none."""

    @described(
        "listTraces",
        tag="Traces",
        summary="A page of examples, newest first",
        query=TraceListQuery,
        answers={200: TracePage},
        example_query={"limit": 20, "q": "30"},
        gives={"trace_id": "/data/0/id"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(TraceListQuery, request)
        given: dict[str, Any] = {
            "limit": query.limit,
            "offset": query.offset,
            "cursor": query.cursor,
        }
        archived = query.archived == "true"
        waiting = None
        if query.words:
            words = _search_words(query)
            waiting = waiting_count()
            with search(caller(request), "words"):
                page = find_traces(words, archived=archived, **given)
        else:
            if query.cursor is not None and not isinstance(query.cursor.key, uuid.UUID):
                reason = "belongs to a list that was searched by words."
                raise InvalidQuery({"cursor": [reason]})
            with search(caller(request), "q", reads_all=bool(query.q)):
                found = search_traces(query.q).filter(archived_at__isnull=not archived)
                page = take_page(found, **given)
        answer = paged([full_trace(trace) for trace in page.rows], query.limit, query.offset, page)
        answer.data["not_indexed"] = waiting
        return answer

    @described(
        "storeTraces",
        tag="Traces",
        summary="Store one example, or a list of them, all or none",
        description="The same example is stored once.",
        body=Content(
            ("application/json",),
            {"anyOf": [EXAMPLE_SCHEMA, {"type": "array", "items": EXAMPLE_SCHEMA}]},
        ),
        answers={201: (Receipt, ReceiptList)},
        example={
            "prompt": "What is 12 + 30?",
            "steps": [{"i": 0, "type": "reason", "content": "12 + 30 = 42"}],
            "final_answer": "42",
        },
        gives={"trace_id": "/id"},
    )
    def post(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        data = request.data
        items = data if isinstance(data, list) else [data]
        if len(items) > TRACES_MAX:
            reason = (
                f"{len(items):,} traces are more than the limit of {TRACES_MAX:,} in one request;"
                " upload them as a file."
            )
            raise ValidationError({"non_field_errors": [reason]})
        try:
            traces = create_traces(items=items, by=caller(request))
        except InvalidTraces as error:
            raise (error if isinstance(data, list) else error.of_the_first) from error
        receipts = [receipt(trace) for trace in traces]
        return Response(receipts if isinstance(data, list) else receipts[0], status=201)


class TraceDetail(APIView):
    @described(
        "readTrace",
        tag="Traces",
        summary="One example in full",
        path=TRACE,
        answers={200: TraceAnswer},
    )
    def get(self, request: Request, trace_id: str) -> Response:
        parsed = parse_uuid(trace_id, "trace_id")
        trace = Trace.objects.filter(pk=parsed).first()
        if trace is None:
            raise NotFound(f"Trace not found: {parsed}")
        return Response(full_trace(trace))


class DatasetList(APIView):
    """GET: a page of datasets, newest first. POST: make a dataset of stored traces."""

    @described(
        "listDatasets",
        summary="A page of datasets, newest first",
        query=DatasetListQuery,
        answers={200: DatasetPage},
        example_query={"limit": 20, "q": "sums"},
        gives={"key": "/data/0/dataset_key"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(DatasetListQuery, request)
        archived = query.archived == "true"
        with search(caller(request), "q", reads_all=bool(query.q) or archived):
            page = take_page(
                search_datasets(query.q, archived=archived),
                limit=query.limit,
                offset=query.offset,
                cursor=query.cursor,
            )
        return paged(
            [dataset_row(dataset) for dataset in page.rows], query.limit, query.offset, page
        )

    @described(
        "createDataset",
        summary="Make a dataset of stored traces",
        body=DatasetBody,
        answers={201: Manifest},
        refused=(409,),
        example={"name": "none", "version": "v1", "trace_ids": [], "description": "Nothing yet."},
        gives=GIVES_DATASET,
    )
    def post(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        body = read_body(DatasetBody, request.data, named=NAMED_FIELDS)
        dataset = create_dataset(
            **body.model_dump(), provenance={"source": "api"}, by=caller(request)
        )
        return Response(manifest(dataset), status=201)


# Of a file as the body. What is in it is told from its first bytes.
FILE_TYPES = (
    *("application/x-ndjson", "application/jsonl", "application/json", "text/csv"),
    *("application/gzip", "application/zstd", "application/vnd.apache.parquet"),
    "application/octet-stream",
)


class RawParser(BaseParser):
    """Hands the body on as it is: it is read piece by piece."""

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


IMPORT = {
    "import_id": Path(
        "Id of an import.",
        {"type": "string", "format": "uuid"},
        "0198c2d3-8b1d-7c39-9a55-5d0c7a1f2e10",
    )
}


class ImportList(APIView):
    """GET: a page of imports, newest first. POST: import what is not uploaded."""

    @described(
        "listImports",
        summary="A page of imports, newest first",
        query=ImportListQuery,
        answers={200: ImportPage},
        example_query={"limit": 20, "state": "completed"},
        gives={"import_id": "/data/0/id"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(ImportListQuery, request)
        page = take_page(
            filter_imports(query.state),
            limit=query.limit,
            offset=query.offset,
            cursor=query.cursor,
        )
        return paged([import_answer(row) for row in page.rows], query.limit, query.offset, page)

    @described(
        "createImport",
        summary="Import a file of the server, or a dataset of the Hugging Face Hub",
        description="A process of its own reads and stores it; the answer comes at once.",
        body=ImportBody,
        answers={202: ImportAnswer},
        refused=(409, 501, 507),
        example={"hub": "openai/gsm8k", "config": "main", "name": "gsm8k", "version": "v3"},
        gives={"import_id": "/id"},
    )
    def post(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        body = read_body(ImportBody, request.data, named=NAMED_FIELDS)
        if bool(body.path) == bool(body.hub):
            reason = "Give one of path, a file on the server, and hub, a dataset of the Hub."
            raise ValidationError({"path": [reason], "hub": [reason]})
        asked, by = body.import_request(), caller(request)
        if body.path:
            if alien := sorted(body.model_fields_set & set(HUB_FIELDS)):
                raise ValidationError({name: ["Belongs to hub."] for name in alien})
            row = submit_path(path=body.path, request=asked, by=by)
        else:
            row = submit_hub(asked=body.hub_request(), request=asked, by=by)
        return Response(import_answer(row), status=202)


class ImportDetail(APIView):
    """GET: how far an import is. DELETE: cancel it."""

    @described(
        "readImport", summary="How far an import is", path=IMPORT, answers={200: ImportAnswer}
    )
    def get(self, request: Request, import_id: str) -> Response:
        parsed = parse_uuid(import_id, "import_id")
        return Response(import_answer(get_import_for(caller(request), parsed, may=May.READ)))

    @described(
        "cancelImport",
        summary="Cancel an import; nothing of it stays",
        path=IMPORT,
        answers={202: ImportAnswer},
        refused=(409,),
    )
    def delete(self, request: Request, import_id: str) -> Response:
        parsed = parse_uuid(import_id, "import_id")
        row = get_import_for(caller(request), parsed, may=May.ACT)
        return Response(import_answer(cancel_import(row=row, by=caller(request))), status=202)


class ImportSkipped(APIView):
    """GET: the lines that an import has left out."""

    content_negotiation_class = OneForm

    @described(
        "readSkippedLines",
        summary="The lines that an import has left out, with the reason for each",
        path=IMPORT,
        answers={200: Content(("application/x-ndjson",))},
    )
    def get(self, request: Request, import_id: str) -> FileResponse:
        parsed = parse_uuid(import_id, "import_id")
        row = get_import_for(caller(request), parsed, may=May.READ)
        return FileResponse(
            open_skipped(row),
            as_attachment=True,
            filename=f"{row.dataset_key}-skipped.jsonl",
            content_type="application/x-ndjson; charset=utf-8",
        )


def read_upload(request: Request) -> tuple[Readable, str, ImportRequest, bool]:
    """File, its name, what is asked of the import, and whether it is to be done later. Raises
    InvalidDataset, ValidationError."""
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
    """Whether the import is to be done later, and the rest of the query. Raises
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


class DatasetDetail(APIView):
    """GET: the manifest. PATCH: change what it says about the dataset."""

    @described(
        "readDataset", summary="The manifest of a dataset", path=DATASET, answers={200: Manifest}
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(manifest(get_dataset_for(caller(request), key, may=May.READ)))

    @described(
        "editDataset",
        summary="Change description, licence or source; none is part of the fingerprint",
        path=DATASET,
        body=DatasetEdit,
        answers={200: Manifest},
        example={"licence": "CC-BY-4.0"},
    )
    def patch(self, request: Request, key: str) -> Response:
        by = caller(request)
        dataset = get_dataset_for(by, key, may=May.ACT)
        changes = read_body(DatasetEdit, request.data).model_dump(exclude_unset=True)
        return Response(manifest(edit_dataset(dataset=dataset, changes=changes, by=by)))


class DatasetExport(APIView):
    """GET: the dataset as JSONL in its training format, streamed."""

    content_negotiation_class = OneForm

    @described(
        "exportDataset",
        summary="The lines that a training reads, or the examples in full",
        description="With form=examples, lines with everything that the examples say: what storing"
        " examples takes, and the part. Imported again, they are the same dataset.",
        path=DATASET,
        query=ExportQuery,
        answers={200: Content(("application/x-ndjson",))},
    )
    def get(self, request: Request, key: str) -> StreamingHttpResponse:
        query = read_query(ExportQuery, request)
        dataset = get_dataset_for(caller(request), key, may=May.READ)
        response = StreamingHttpResponse(
            in_pieces(export_lines(dataset, in_full=query.form == "examples")),
            content_type="application/x-ndjson; charset=utf-8",
        )
        response["Content-Disposition"] = f'attachment; filename="{dataset.dataset_key}.jsonl"'
        return response


class DatasetParquet(APIView):
    """GET: the dataset as Parquet, streamed while it is written."""

    content_negotiation_class = OneForm

    @described(
        "exportDatasetAsParquet",
        summary="The examples in full, as Parquet",
        path=DATASET,
        answers={200: Content(("application/vnd.apache.parquet",))},
        refused=(501,),
    )
    def get(self, request: Request, key: str) -> StreamingHttpResponse:
        dataset = get_dataset_for(caller(request), key, may=May.READ)
        response = StreamingHttpResponse(
            export_parquet(dataset), content_type="application/vnd.apache.parquet"
        )
        response["Content-Disposition"] = f'attachment; filename="{dataset.dataset_key}.parquet"'
        return response


def in_pieces(lines: Iterable[bytes], count: int = 100) -> Iterator[bytes]:
    """Every piece costs the server a round of its own, so lines go out a hundred at a time."""
    iterator = iter(lines)
    while piece := b"".join(islice(iterator, count)):
        yield piece
