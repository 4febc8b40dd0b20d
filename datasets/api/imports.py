"""The API of imports: their list, how far one is, and the lines that it left out."""

from django.http import FileResponse
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import ImportAnswer, ImportPage
from datasets.api.common import IMPORT, caller, described, paged
from datasets.api.presentation import import_answer
from datasets.api.requests import HUB_FIELDS, ImportBody, ImportListQuery
from datasets.examples.schema import NAMED_FIELDS
from datasets.imports.importing import cancel_import, open_skipped, submit_hub, submit_path
from datasets.queries.listing import filter_imports, take_page
from datasets.services.access import get_import_for, hide_reasons, require_lines
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import parse_uuid, read_query
from tunixrt.api.schema import Content
from tunixrt.reading import read_body
from tunixrt.roles import May, require


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
        hide_reasons(caller(request), page.rows)
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
        require_lines(caller(request), row)
        return FileResponse(
            open_skipped(row),
            as_attachment=True,
            filename=f"{row.dataset_key}-skipped.jsonl",
            content_type="application/x-ndjson; charset=utf-8",
        )
