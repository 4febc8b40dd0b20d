"""Upload a file, or choose one of the server or a dataset of the Hub."""

import errno

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from datasets.files.uploads import NO_ROOM, guard_body
from datasets.forms.imports import UploadForm
from datasets.imports.data_roots import PATH_MAX, list_folder
from datasets.imports.importers import BadLines, ImportRequest
from datasets.imports.importing import import_file, keep_draft, submit_file, submit_hub, submit_path
from datasets.imports.mapping import first_rows, needs_mapping
from datasets.models import Import, ImportState
from tunixrt.accounts import person
from tunixrt.refusals import BadRequest, Missing, NoRoom, Refusal
from tunixrt.roles import May, require

# A larger file is imported by a process of its own, and the request is answered at once.
IN_REQUEST_BYTES = 8 * 1024 * 1024
IN_REQUEST_PACKED_BYTES = 16 * 1024  # it may unpack to a thousand times as much


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
                draft = row.state == ImportState.DRAFT
                page = "datasets:mapping" if draft else "datasets:import_detail"
                return _go(request, reverse(page, args=[row.pk]))
            rows = first_rows(file, file.name)
            file.seek(0)
            if needs_mapping(rows, asked):
                row = keep_draft(file=file, file_name=file.name, request=asked, by=person(request))
                return _go(request, reverse("datasets:mapping", args=[row.pk]))
            if file.size > (IN_REQUEST_PACKED_BYTES if rows.unpacks else IN_REQUEST_BYTES):
                row = submit_file(file=file, file_name=file.name, request=asked, by=person(request))
                return _go(request, reverse("datasets:import_detail", args=[row.pk]))
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
    """Return whether js/upload.js sent the request."""
    return request.headers.get("X-Requested-With") == "XMLHttpRequest"


def _go(request: HttpRequest, address: str) -> HttpResponse:
    if _is_scripted(request):  # the script goes there itself
        return JsonResponse({"location": address}, status=201)
    return redirect(address)


@login_required
@require_safe
def server_files(request: HttpRequest) -> HttpResponse:
    """Show the files on the server that can be imported, folder by folder."""
    require(person(request), May.MAKE)
    folder = request.GET.get("folder", "")
    if not settings.TUNIX_DATA_ROOTS:
        raise Missing("No folder of this server may be imported from (TUNIX_DATA_ROOTS).")
    above, entries, more = list_folder(folder)
    context = {"folder": folder, "above": above, "entries": entries, "more": more}
    return render(request, "datasets/server_files.html", context)
