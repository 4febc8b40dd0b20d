"""Pages on which operators erase the content of examples: what is affected comes first."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from datasets.models import Erasure
from datasets.services.access import get_dataset_for
from runs.forms.erasing import ErasureForm
from runs.services.erasing import (
    affected_by,
    affected_of_dataset,
    continue_erasure,
    erase,
    get_erasure,
)
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May, require

LISTED = 100


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def erase_examples(request: HttpRequest) -> HttpResponse:
    """Say what would be affected, and erase it once the number of examples is typed."""
    user = person(request)
    require(user, May.OPERATE)
    given = {
        "trace_ids": "\n".join(request.GET.getlist("trace")),
        "dataset": request.GET.get("dataset", ""),
    }
    if request.method == "POST":
        form = ErasureForm(request.POST)
    else:
        form = ErasureForm(given if any(given.values()) else None)
    context: dict[str, Any] = {"form": form, "erasures": Erasure.objects.all()[:LISTED]}
    status = 200
    if form.is_bound:
        status = 400
        if form.is_valid():
            wanted = form.cleaned_data
            try:
                if wanted["dataset"]:
                    dataset = get_dataset_for(user, wanted["dataset"].strip(), may=May.READ)
                    affected = affected_of_dataset(dataset=dataset, by=user)
                else:
                    affected = affected_by(trace_ids=wanted["trace_ids"], by=user)
                context["affected"] = affected
                status = 200
                if request.method == "POST" and wanted["confirm"] is not None:
                    made = erase(affected=affected, confirmed=wanted["confirm"], by=user)
                    return redirect("runs:erasure", erasure_id=made.pk)
            except Refusal as refusal:
                form.add_error(None, refusal.detail)
                status = refusal.status
    return render(request, "runs/erase_examples.html", context, status=status)


@require_safe
@login_required
def erasure(request: HttpRequest, erasure_id: UUID) -> HttpResponse:
    found = get_erasure(person(request), erasure_id)
    return render(request, "runs/erasure.html", {"erasure": found})


@require_POST
@login_required
def erasure_continue(request: HttpRequest, erasure_id: UUID) -> HttpResponse:
    user = person(request)
    found = continue_erasure(erasure=get_erasure(user, erasure_id), by=user)
    if found.completed_at:
        messages.success(request, "The erasure is complete.")
    return redirect("runs:erasure", erasure_id=erasure_id)
