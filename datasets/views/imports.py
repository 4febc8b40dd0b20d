"""Imports: their list, how far one is, what its columns mean, and cancelling it."""

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from datasets.files.folders import folder_of
from datasets.forms.imports import MappingForm
from datasets.imports.importers import ImportRequest
from datasets.imports.importing import (
    cancel_import,
    import_progress,
    remembered_mapping,
    submit_draft,
)
from datasets.imports.mapping import preview, rows_of
from datasets.models import ImportState
from datasets.queries.listing import filter_imports, take_page
from datasets.services.access import get_import_for, require_lines
from datasets.views.lists import PAGE, read_cursor
from tunixrt.accounts import person
from tunixrt.cursors import decode_uuid_cursor
from tunixrt.refusals import Refusal
from tunixrt.roles import May


@login_required
@require_safe
def imports(request: HttpRequest) -> HttpResponse:
    cursor = read_cursor(request, decode_uuid_cursor)
    page = take_page(filter_imports(None), limit=PAGE, cursor=cursor)
    return render(request, "datasets/imports.html", {"page": page, "first": cursor is None})


@login_required
@require_safe
def import_detail(request: HttpRequest, import_id: uuid.UUID) -> HttpResponse:
    row = get_import_for(person(request), import_id, may=May.READ)
    context = {"row": row, "state": import_progress(row)}
    return render(request, "datasets/import_detail.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def mapping(request: HttpRequest, import_id: uuid.UUID) -> HttpResponse:
    """Say what the columns of a file mean: the choice is in the address, so that it can be looked
    at before it counts."""
    user = person(request)
    row = get_import_for(user, import_id, may=May.ACT)
    require_lines(user, row)
    if row.state != ImportState.DRAFT:
        return redirect("datasets:import_detail", import_id=row.pk)
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
            return redirect("datasets:import_detail", import_id=row.pk)
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
    return redirect("datasets:import_detail", import_id=import_id)
