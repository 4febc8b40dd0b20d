"""Pages of datasets and traces. They need no JavaScript; with it an upload shows how far it is."""

import errno
import json
import uuid
from collections.abc import Callable

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from datasets.access import get_dataset_for
from datasets.examples import content_of, parts_of
from datasets.forms import UploadForm
from datasets.importers import BadLines, import_file
from datasets.listing import search_datasets, search_traces, take_page
from datasets.models import Dataset, Kind, Trace
from datasets.uploads import NO_ROOM, guard_body
from tunixrt.accounts import person
from tunixrt.cursors import Cursor, Key, decode_number_cursor, decode_uuid_cursor
from tunixrt.refusals import BadRequest, NoRoom, Refusal
from tunixrt.roles import May, require
from tunixrt.searches import search

PAGE = 25
EXAMPLES = 10
USES = 20
SEARCH_MAX_LENGTH = 256


def _search_text(request: HttpRequest) -> str:
    return request.GET.get("q", "").replace("\x00", "").strip()[:SEARCH_MAX_LENGTH]


@login_required
@require_safe
def dataset_list(request: HttpRequest) -> HttpResponse:
    text = _search_text(request)
    cursor = _cursor(request, decode_number_cursor)
    with search(person(request), "q", reads_all=bool(text)):
        page = take_page(search_datasets(text), limit=PAGE, cursor=cursor)
    return render(
        request, "datasets/list.html", {"page": page, "text": text, "first": cursor is None}
    )


def _cursor(request: HttpRequest, decode: Callable[[str], Cursor[Key]]) -> Cursor[Key] | None:
    """Where the page starts; a cursor that cannot be read starts at the top."""
    try:
        return decode(request.GET["cursor"]) if "cursor" in request.GET else None
    except ValueError:
        return None


@login_required
@require_safe
def detail(request: HttpRequest, key: str) -> HttpResponse:
    dataset = get_dataset_for(person(request), key, may=May.READ)
    start = _position(request.GET.get("from", ""))
    items = list(
        dataset.items.filter(position__gte=start)
        .select_related("trace")
        .order_by("position")[: EXAMPLES + 1]
    )
    examples = [{"item": item, "parts": parts_of(item.trace)} for item in items[:EXAMPLES]]
    histogram = dataset.stats.get("example_characters_histogram") or []
    most = max((count for _, _, count in histogram), default=0)
    context = {
        "dataset": dataset,
        "histogram": [
            {"start": first, "end": last, "count": count, "width": 100 * count / most}
            for first, last, count in histogram
            if most
        ],
        "examples": examples,
        "next": items[EXAMPLES].position if len(items) > EXAMPLES else None,
        "start": start,
        "provenance": [
            (
                name.replace("_", " "),
                value
                if isinstance(value, str | int | float)
                else json.dumps(value, ensure_ascii=False),
            )
            for name, value in dataset.provenance.items()
        ],
        "ranges": [
            (label, dataset.stats.get(name, {}))
            for label, name in (
                ("Prompt", "prompt_characters"),
                ("Answer", "answer_characters"),
                ("Whole example", "example_characters"),
            )
        ],
    }
    return render(request, "datasets/detail.html", context)


def _position(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


@login_required
@require_safe
def traces(request: HttpRequest) -> HttpResponse:
    text = _search_text(request)
    cursor = _cursor(request, decode_uuid_cursor)
    with search(person(request), "q", reads_all=bool(text)):
        page = take_page(search_traces(text), limit=PAGE, cursor=cursor)
    return render(
        request, "datasets/traces.html", {"page": page, "text": text, "first": cursor is None}
    )


@login_required
@require_safe
def trace(request: HttpRequest, trace_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Trace, pk=trace_id)
    uses = list(Dataset.objects.filter(pk__in=found.items.order_by().values("dataset"))[: USES + 1])
    context = {
        "trace": found,
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


# only this outer half: the token is in the form, and its size must be known before the form is read
@csrf_exempt
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def upload(request: HttpRequest) -> HttpResponse:
    require(person(request), May.MAKE)
    if request.method == "POST":
        guard_body(request, settings.TUNIXRT_UPLOAD_MAX_BYTES)
    try:
        return _upload(request)
    except UnreadablePostError as error:
        raise BadRequest(f"{error} Nothing was stored.") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise NoRoom(NO_ROOM) from error


@csrf_protect
def _upload(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return render(request, "datasets/upload.html", {"form": UploadForm()})
    form = UploadForm(request.POST, request.FILES)
    scripted = request.headers.get("X-Requested-With") == "XMLHttpRequest"
    bad_lines = None
    if form.is_valid():
        try:
            dataset = import_file(**form.arguments(), by=person(request))
        except Refusal as refusal:
            bad_lines = refusal if isinstance(refusal, BadLines) else None
            form.take(refusal)
        else:
            messages.success(request, f"Stored {dataset.dataset_key}: {dataset.size:,} examples.")
            if scripted:  # upload.js goes there itself
                return JsonResponse(
                    {"location": reverse("datasets:detail", args=[dataset.dataset_key])}, status=201
                )
            return redirect("datasets:detail", key=dataset.dataset_key)
    # A script gets its answer whatever it says; a browser would complain of another code in its
    # console.
    return render(
        request,
        "datasets/upload.html",
        {"form": form, "bad_lines": bad_lines},
        status=200 if scripted else 400,
    )
