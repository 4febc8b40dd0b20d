"""The list of examples, and one example."""

import json
import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from datasets.examples.kinds import content_of, parts_of
from datasets.examples.words import SearchWord, search_words
from datasets.models import Dataset, Kind, Trace
from datasets.queries.listing import find_traces, is_id, search_traces, shortened, take_page
from datasets.services.access import get_trace_for
from datasets.storage.word_index import waiting_count
from datasets.views.lists import PAGE, read_cursor, search_text
from tunixrt.accounts import person
from tunixrt.cursors import Cursor, decode_number_cursor, decode_uuid_cursor
from tunixrt.roles import May, why_not
from tunixrt.searches import search

USES = 20


@login_required
@require_safe
def traces(request: HttpRequest) -> HttpResponse:
    text, words = search_text(request), search_text(request, "words")
    by_words = bool(words) and not is_id(words)
    cursor: Cursor[Any] | None
    asked: list[SearchWord] = []
    archived = request.GET.get("archived") == "true"
    waiting, problem = 0, ""
    if by_words:
        try:
            asked = search_words(words)
        except ValueError as error:
            problem = str(error)
        cursor = read_cursor(request, decode_number_cursor)
        waiting = waiting_count()
        with search(person(request), "words"):
            page = find_traces(
                asked,
                archived=archived,
                limit=PAGE,
                cursor=cursor,
                traces=shortened(Trace.objects.all()),
            )
    else:
        cursor = read_cursor(request, decode_uuid_cursor)
        with search(person(request), "q", reads_all=bool(text)):
            found = search_traces(words or text, archived=archived)
            page = take_page(shortened(found), limit=PAGE, cursor=cursor)
    context = {
        "page": page,
        "text": words or text,
        "name": "q" if text and not words else "words",
        "first": cursor is None,
        "archived": archived,
        "waiting": waiting,
        "problem": problem,
    }
    return render(request, "datasets/traces.html", context)


@login_required
@require_safe
def trace(request: HttpRequest, trace_id: uuid.UUID) -> HttpResponse:
    found = get_trace_for(person(request), trace_id, may=May.READ)
    uses = list(Dataset.objects.filter(pk__in=found.items.order_by().values("dataset"))[: USES + 1])
    context = {
        "trace": found,
        "may_act": not why_not(person(request), May.ACT, owner_id=found.created_by_id),
        "parts": [] if found.kind == Kind.TRACE else parts_of(found),
        "tools": json.dumps(content_of(found).get("tools"), indent=2, ensure_ascii=False)
        if "tools" in content_of(found)
        else "",
        "meta": json.dumps(found.meta, indent=2, ensure_ascii=False, sort_keys=True)
        if found.meta
        else "",
        "uses": uses[:USES],
        "more_uses": len(uses) > USES,
    }
    return render(request, "datasets/trace.html", context)
