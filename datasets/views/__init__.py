"""Pages of datasets and traces. They need no JavaScript; with it an upload shows how far it is."""

import errno
import json
import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from datasets.access import get_dataset_for, get_import_for
from datasets.comparison.overlaps import known_about, overlaps_of
from datasets.examples.kinds import content_of, parts_of
from datasets.examples.words import SearchWord, search_words
from datasets.files import parquet
from datasets.files.folders import folder_of
from datasets.files.uploads import NO_ROOM, guard_body
from datasets.forms.curation import EditForm
from datasets.forms.imports import MappingForm, UploadForm
from datasets.imports.data_roots import PATH_MAX, list_folder
from datasets.imports.importers import BadLines, ImportRequest
from datasets.imports.importing import (
    cancel_import,
    import_file,
    import_progress,
    keep_draft,
    remembered_mapping,
    submit_draft,
    submit_file,
    submit_hub,
    submit_path,
)
from datasets.imports.mapping import first_rows, needs_mapping, preview, rows_of
from datasets.models import Dataset, Import, ImportState, Kind, Trace
from datasets.queries.listing import (
    filter_imports,
    find_traces,
    is_id,
    search_datasets,
    search_examples,
    search_traces,
    shortened,
    take_page,
)
from datasets.services.curation import EDITABLE
from datasets.storage.word_index import waiting_count
from tunixrt.accounts import person
from tunixrt.cursors import Cursor, Key, decode_number_cursor, decode_uuid_cursor
from tunixrt.refusals import BadRequest, Missing, NoRoom, Refusal
from tunixrt.roles import May, require, why_not
from tunixrt.searches import search

PAGE = 25
EXAMPLES = 10
USES = 20
SEARCH_MAX_LENGTH = 256
# A larger file is imported by a process of its own, and the request is answered at once.
IN_REQUEST_BYTES = 8 * 1024 * 1024
IN_REQUEST_PACKED_BYTES = 16 * 1024  # it may unpack to a thousand times as much


def _search_text(request: HttpRequest, name: str = "q") -> str:
    return request.GET.get(name, "").replace("\x00", "").strip()[:SEARCH_MAX_LENGTH]


@login_required
@require_safe
def dataset_list(request: HttpRequest) -> HttpResponse:
    text = _search_text(request)
    cursor = _cursor(request, decode_number_cursor)
    archived = request.GET.get("archived") == "true"
    with search(person(request), "q", reads_all=bool(text) or archived):
        page = take_page(search_datasets(text, archived=archived), limit=PAGE, cursor=cursor)
    context = {"page": page, "text": text, "first": cursor is None, "archived": archived}
    return render(request, "datasets/list.html", context)


def _cursor(request: HttpRequest, decode: Callable[[str], Cursor[Key]]) -> Cursor[Key] | None:
    """Where the page starts; a cursor that cannot be read starts at the top."""
    try:
        return decode(request.GET["cursor"]) if "cursor" in request.GET else None
    except ValueError:
        return None


@login_required
@require_safe
def detail(request: HttpRequest, key: str) -> HttpResponse:
    user = person(request)
    dataset = get_dataset_for(user, key, may=May.READ)
    start, text = _position(request.GET.get("from", "")), _search_text(request)
    with search(user, "q", reads_all=bool(text)):
        found = search_examples(dataset, text).filter(position__gte=start)
        items = list(found[: EXAMPLES + 1])
    examples = [{"item": item, "parts": parts_of(item.trace)} for item in items[:EXAMPLES]]
    overlaps = overlaps_of(dataset)
    roles = dataset.stats.get("roles") or {}
    context = {
        "dataset": dataset,
        "parquet": parquet.is_installed(),
        "may_act": not why_not(user, May.ACT, owner_id=dataset.created_by_id),
        "edit": EditForm(initial={name: getattr(dataset, name) for name in EDITABLE}),
        "histogram": _bars(dataset.stats.get("example_characters_histogram") or []),
        "turns": _bars(dataset.stats.get("messages_histogram") or []),
        "roles": [
            {"role": role, "count": count, "percent": 100 * count / sum(roles.values())}
            for role, count in roles.items()
        ],
        "examples": examples,
        "next": items[EXAMPLES].position if len(items) > EXAMPLES else None,
        "start": start,
        "text": text,
        "overlaps": overlaps,
        "not_computed": known_about(dataset, overlaps)[1],
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


def _bars(histogram: list[list[int]]) -> list[dict[str, float]]:
    most = max((count for _, _, count in histogram), default=0)
    return [
        {"start": first, "end": last, "count": count, "width": 100 * count / most}
        for first, last, count in histogram
        if most
    ]


def _position(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


@login_required
@require_safe
def traces(request: HttpRequest) -> HttpResponse:
    text, words = _search_text(request), _search_text(request, "words")
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
        cursor = _cursor(request, decode_number_cursor)
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
        cursor = _cursor(request, decode_uuid_cursor)
        with search(person(request), "q", reads_all=bool(text)):
            found = search_traces(words or text).filter(archived_at__isnull=not archived)
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
    found = get_object_or_404(Trace, pk=trace_id)
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
        form = UploadForm(initial={"path": request.GET.get("path", "")[:PATH_MAX]})
        return render(request, "datasets/upload.html", {"form": form})
    form = UploadForm(request.POST, request.FILES)
    bad_lines = None
    if form.is_valid():
        try:
            file, asked = form.cleaned_data["file"], form.import_request()
            if not file:
                row = _submit_source(form, asked, person(request))
                page = "mapping" if row.state == ImportState.DRAFT else "import"
                return _go(request, reverse(f"datasets:{page}", args=[row.pk]))
            rows = first_rows(file, file.name)
            file.seek(0)
            if needs_mapping(rows, asked):
                row = keep_draft(file=file, file_name=file.name, request=asked, by=person(request))
                return _go(request, reverse("datasets:mapping", args=[row.pk]))
            if file.size > (IN_REQUEST_PACKED_BYTES if rows.unpacks else IN_REQUEST_BYTES):
                row = submit_file(file=file, file_name=file.name, request=asked, by=person(request))
                return _go(request, reverse("datasets:import", args=[row.pk]))
            dataset = import_file(file=file, file_name=file.name, request=asked, by=person(request))
        except Refusal as refusal:
            bad_lines = refusal if isinstance(refusal, BadLines) else None
            form.take(refusal)
        else:
            messages.success(request, f"Stored {dataset.dataset_key}: {dataset.size:,} examples.")
            return _go(request, reverse("datasets:detail", args=[dataset.dataset_key]))
    # A script gets its answer whatever it says; a browser would complain of another code in its
    # console.
    return render(
        request,
        "datasets/upload.html",
        {"form": form, "bad_lines": bad_lines},
        status=200 if _is_scripted(request) else 400,
    )


def _submit_source(form: UploadForm, asked: ImportRequest, by: User) -> Import:
    if path := form.cleaned_data.get("path"):
        return submit_path(path=path, request=asked, by=by)
    return submit_hub(asked=form.hub_request(), request=asked, by=by)


def _is_scripted(request: HttpRequest) -> bool:
    """Whether js/upload.js sends it."""
    return request.headers.get("X-Requested-With") == "XMLHttpRequest"


def _go(request: HttpRequest, address: str) -> HttpResponse:
    if _is_scripted(request):  # the script goes there itself
        return JsonResponse({"location": address}, status=201)
    return redirect(address)


@login_required
@require_safe
def server_files(request: HttpRequest) -> HttpResponse:
    """The files on the server that can be imported, folder by folder."""
    require(person(request), May.MAKE)
    folder = request.GET.get("folder", "")
    if not settings.TUNIX_DATA_ROOTS:
        raise Missing("No folder of this server may be imported from (TUNIX_DATA_ROOTS).")
    above, entries, more = list_folder(folder)
    context = {"folder": folder, "above": above, "entries": entries, "more": more}
    return render(request, "datasets/server_files.html", context)


@login_required
@require_safe
def import_list(request: HttpRequest) -> HttpResponse:
    cursor = _cursor(request, decode_uuid_cursor)
    page = take_page(filter_imports(None), limit=PAGE, cursor=cursor)
    return render(request, "datasets/imports.html", {"page": page, "first": cursor is None})


@login_required
@require_safe
def import_detail(request: HttpRequest, import_id: uuid.UUID) -> HttpResponse:
    row = get_import_for(person(request), import_id, may=May.READ)
    return render(request, "datasets/import.html", {"row": row, "state": import_progress(row)})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def import_mapping(request: HttpRequest, import_id: uuid.UUID) -> HttpResponse:
    """Say what the columns of a file mean: the choice is in the address, so that it can be looked
    at before it counts."""
    user = person(request)
    row = get_import_for(user, import_id, may=May.ACT)
    if row.state != ImportState.DRAFT:
        return redirect("datasets:import", import_id=row.pk)
    if "show" in request.POST:  # no token in the address
        shown = request.POST.copy()
        del shown["show"]
        shown.pop("csrfmiddlewaretoken", None)
        return redirect(f"{request.path}?{shown.urlencode()}")
    rows = rows_of(row.source, folder_of(row.pk))
    form = MappingForm(
        request.POST if request.method == "POST" else request.GET,
        asked=ImportRequest.from_json(row.request),
        rows=rows,
        remembered=remembered_mapping(rows.columns, user),
    )
    if request.method == "POST" and form.is_valid():
        try:
            submit_draft(row=row, request=form.request, by=user)
        except Refusal as refusal:
            form.take(refusal)
        else:
            return redirect("datasets:import", import_id=row.pk)
    return render(
        request,
        "datasets/mapping.html",
        {"row": row, "form": form, "previews": preview(rows, form.request)},
        status=400 if request.method == "POST" else 200,
    )


@login_required
@require_POST
def import_cancel(request: HttpRequest, import_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    cancel_import(row=get_import_for(user, import_id, may=May.ACT), by=user)
    messages.success(request, "The import is being cancelled.")
    return redirect("datasets:import", import_id=import_id)
