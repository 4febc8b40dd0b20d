"""Forms on the page of a dataset: edit what it says, and the archive. They need no JavaScript."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from datasets.access import get_dataset_for
from datasets.curation import archive_dataset, edit_dataset, restore_dataset
from datasets.curation_forms import EditForm
from datasets.services import InvalidDataset
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
    match request.POST.get("archived"):
        case "true":
            archive_dataset(dataset=dataset, by=user)
            messages.success(request, f"{dataset.dataset_key} is archived.")
        case "false":
            restore_dataset(dataset=dataset, by=user)
            messages.success(request, f"{dataset.dataset_key} is out of the archive.")
        case _:
            raise BadRequest("archived must be true or false.")
    return redirect("datasets:detail", key=dataset.dataset_key)
