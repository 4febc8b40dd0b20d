"""The API of examples."""

import uuid
from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import Receipt, ReceiptList, TraceAnswer, TracePage
from datasets.api.common import TRACE, caller, described, paged
from datasets.api.presentation import full_trace, receipt
from datasets.api.requests import TraceListQuery
from datasets.examples.kinds import EXAMPLE_SCHEMA
from datasets.examples.words import SearchWord, search_words
from datasets.queries.listing import find_traces, search_traces, take_page
from datasets.services.access import get_trace_for
from datasets.services.refusals import InvalidTraces
from datasets.services.traces import create_traces
from datasets.storage.word_index import waiting_count
from tunixrt.api.query import parse_uuid, read_query
from tunixrt.api.schema import Content
from tunixrt.refusals import InvalidQuery
from tunixrt.roles import May, require
from tunixrt.searches import search

TRACES_MAX = 10_000  # traces in one request; more come as a file


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
                page = take_page(search_traces(query.q, archived=archived), **given)
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
        return Response(full_trace(get_trace_for(caller(request), parsed, may=May.READ)))


def _search_words(query: TraceListQuery) -> list[SearchWord]:
    """Return the words of a query. Raise InvalidQuery."""
    if query.q:
        raise InvalidQuery({"words": ["Give one of q and words."]})
    try:
        return search_words(query.words or "")
    except ValueError as error:
        raise InvalidQuery({"words": [str(error)]}) from error
