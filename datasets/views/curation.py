"""Forms on the pages of datasets and examples: edit what a dataset says, and the archive. They need
no JavaScript."""

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from datasets.forms.curation import EditForm
from datasets.services.access import get_dataset_for, get_trace_for
from datasets.services.curation import (
    archive_dataset,
    archive_trace,
    edit_dataset,
    restore_dataset,
    restore_trace,
)
from datasets.services.refusals import InvalidDataset
from datasets.services.sealing import seal_datasets, unseal_datasets
from tunixrt.accounts import person
from tunixrt.refusals import BadRequest
from tunixrt.roles import May


@login_required
@require_POST
def edit(request: HttpRequest, key: str) -> HttpResponse:
    user = person(request)
    dataset = get_dataset_for(user, key, may=May.ACT)
    form = EditForm(request.POST)
    if form.is_valid():
        changes = dict(form.cleaned_data)
        # a browser sends line breaks as CR LF
        changes["description"] = changes["description"].replace("\r\n", "\n").strip()
        try:
            edit_dataset(dataset=dataset, changes=changes, by=user)
        except InvalidDataset as refusal:
            for name, said in refusal.errors.items():
                form.add_error(name, said)
        else:
            messages.success(request, f"{dataset.dataset_key} is saved.")
            return redirect("datasets:detail", key=dataset.dataset_key)
    return render(request, "datasets/edit.html", {"dataset": dataset, "edit": form}, status=400)


@login_required
@require_POST
def archive(request: HttpRequest, key: str) -> HttpResponse:
    user = person(request)
    dataset = get_dataset_for(user, key, may=May.ACT)
    if _asks_for(request, "archived"):
        archive_dataset(dataset=dataset, by=user)
        messages.success(request, f"{dataset.dataset_key} is archived.")
    else:
        restore_dataset(dataset=dataset, by=user)
        messages.success(request, f"{dataset.dataset_key} is out of the archive.")
    return redirect("datasets:detail", key=dataset.dataset_key)


@login_required
@require_POST
def seal(request: HttpRequest, key: str) -> HttpResponse:
    """Seal a dataset, or unseal it, together with those that it shares examples with."""
    user = person(request)
    get_dataset_for(user, key, may=May.ACT)
    also = (one.strip() for one in request.POST.get("also", "").split(","))
    keys = dict.fromkeys([key, *filter(None, also)])
    datasets = [get_dataset_for(user, one, may=May.READ) for one in keys]
    named = ", ".join(each.dataset_key for each in datasets)
    if request.POST.get("confirmed") != "true":
        raise BadRequest("Confirm that you want that.")
    if _asks_for(request, "sealed"):
        seal_datasets(datasets=datasets, by=user)
        messages.success(request, f"Sealed: {named}.")
    else:
        unseal_datasets(datasets=datasets, by=user)
        messages.success(request, f"Unsealed: {named}.")
    return redirect("datasets:detail", key=key)


@login_required
@require_POST
def trace_archive(request: HttpRequest, trace_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    trace = get_trace_for(user, trace_id, may=May.ACT)
    if _asks_for(request, "archived"):
        archive_trace(trace=trace, by=user)
        messages.success(request, "The example is archived.")
    else:
        restore_trace(trace=trace, by=user)
        messages.success(request, "The example is out of the archive.")
    return redirect("datasets:trace", trace_id=trace.pk)


def _asks_for(request: HttpRequest, name: str) -> bool:
    """Return whether the form asks for that. Raise BadRequest."""
    asked = request.POST.get(name)
    if asked not in ("true", "false"):
        raise BadRequest(f"{name} must be true or false.")
    return asked == "true"
