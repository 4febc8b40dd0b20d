"""Pages on which new versions of datasets are made and compared. They need no JavaScript."""

import json
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from datasets.cleaning.derivation import dry_run
from datasets.cleaning.recipe import OPERATIONS, parse_recipe
from datasets.comparison.differences import CHANGES, Change, compare, decode_after
from datasets.comparison.overlaps import compute_overlap, is_small, sentence
from datasets.examples.kinds import parts_of
from datasets.forms.versions import (
    CleanForm,
    StepForm,
    described,
    read_steps,
    recipe_of,
    write_recipe,
)
from datasets.imports.importing import submit_derivation, submit_overlap
from datasets.models import Dataset, Import
from datasets.services.access import get_dataset_for, get_readable_dataset
from datasets.services.sealing import require_examples
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May, require
from tunixrt.searches import deadline, search, searches

_FIRST = "exact_duplicates"  # the operation whose fields the page shows at first


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def clean(request: HttpRequest, key: str) -> HttpResponse:
    """Put a recipe together, see what would go, and make the new version.

    Every button posts the whole form; ``action`` says which one it was. Only *make* changes
    anything.
    """
    require(person(request), May.MAKE)
    dataset = get_dataset_for(person(request), key, may=May.READ)
    if request.method != "POST":
        asked = request.GET.get("operation", "")
        initial = {"name": dataset.name, "operation": asked if asked in OPERATIONS else _FIRST}
        return _page(request, dataset, CleanForm(initial=initial))
    form = CleanForm(request.POST)
    if not form.is_valid():
        return _page(request, dataset, form, status=400)
    action = request.POST.get("action", "")
    chosen: StepForm | None = None
    report: dict[str, Any] | None = None
    try:
        if action == "add":
            chosen = _add(request, form)
        elif action.startswith("remove-"):
            _remove(form, action.removeprefix("remove-"))
        elif action in ("preview", "make"):
            recipe = recipe_of(form.cleaned_data["recipe"])
            parents = _parents(request, dataset, form)
            if action == "preview":
                with searches.one_of(person(request).pk):
                    report = dry_run(recipe, parents)
            else:
                named = {
                    name: form.cleaned_data[name] for name in ("name", "version", "description")
                }
                made = submit_derivation(
                    recipe=recipe, parents=parents, by=person(request), **named
                )
                messages.success(request, f"{made.dataset_key} is being made.")
                return redirect(_page_of(made, dataset))
    except Refusal as refusal:
        form.take(refusal)
        return _page(request, dataset, form, chosen=chosen, status=refusal.status)
    return _page(request, dataset, form, chosen=chosen, report=report)


def _page(
    request: HttpRequest,
    dataset: Dataset,
    form: CleanForm,
    *,
    chosen: StepForm | None = None,
    report: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    name = form.data.get("operation") or form.initial.get("operation") or _FIRST
    operation = OPERATIONS.get(name, OPERATIONS[_FIRST])
    try:
        steps = list(described(read_steps(form.data.get("recipe", ""))))
    except Refusal:  # said beside the field
        steps = []
    context = {
        "dataset": dataset,
        "form": form,
        "step_form": chosen or StepForm(operation),
        "title": operation.title,
        "explanation": (operation.__doc__ or "").split("\n\n")[0],
        "steps": steps,
        "report": report,
    }
    return render(request, "datasets/clean.html", context, status=status)


def _add(request: HttpRequest, form: CleanForm) -> StepForm | None:
    """Append the step of the fields to the recipe. Return the fields if they are wrong. Raise
    InvalidRecipe for a recipe that cannot be read."""
    steps = read_steps(form.cleaned_data["recipe"])
    name = form.cleaned_data["operation"] or _FIRST
    given = StepForm(OPERATIONS[name], request.POST)
    if not given.is_valid():
        return given
    try:
        added = parse_recipe({"steps": [given.step()]}).as_json()["steps"]
    except Refusal as refusal:
        given.take(refusal)
        return given
    _set_recipe(form, [*steps, *added])
    return None


def _remove(form: CleanForm, number: str) -> None:
    steps = read_steps(form.cleaned_data["recipe"])
    if number.isascii() and number.isdigit() and len(number) < 4 and int(number) < len(steps):
        del steps[int(number)]
    _set_recipe(form, steps)


def _set_recipe(form: CleanForm, steps: list[Any]) -> None:
    """Show this recipe in the field, whatever was sent in it."""
    form.data = {**form.data.dict(), "recipe": write_recipe(steps)}  # type: ignore[attr-defined]


def _parents(request: HttpRequest, dataset: Dataset, form: CleanForm) -> list[Dataset]:
    return [
        dataset,
        *(get_dataset_for(person(request), key, may=May.READ) for key in form.other_keys()),
    ]


def _page_of(work: Import, dataset: Dataset) -> str:
    """Return the page of an import, or of the dataset while there is none."""
    try:
        return reverse("datasets:import_detail", args=[work.pk])
    except NoReverseMatch:
        return reverse("datasets:detail", args=[dataset.dataset_key])


CHANGES_SHOWN = 10
CANDIDATES = 20


@login_required
@require_safe
def diff(request: HttpRequest, key: str) -> HttpResponse:
    """Show what differs between this dataset and another one (``to``), side by side; without
    ``to``, the datasets it may be compared with."""
    user = person(request)
    old = get_dataset_for(user, key, may=May.READ)
    other = request.GET.get("to", "").strip()
    context: dict[str, Any] = {"old": old, "to": other, "candidates": _relatives(old)}
    if other:
        require_examples(user, old)
        new = get_readable_dataset(user, other)
        change = request.GET.get("change", "")
        try:
            after = decode_after(request.GET["after"]) if "after" in request.GET else None
        except ValueError:  # starts at the top
            after = None
        with search(user, "to"):
            found = compare(old, new, check=deadline("to"))
            changes, cursor = found.page(
                limit=CHANGES_SHOWN, change=change if change in CHANGES else None, after=after
            )
        context |= {
            "new": new,
            "counts": found.counts,
            "kinds": [(name, getattr(found.counts, name)) for name in CHANGES],
            "change": change if change in CHANGES else "",
            "changes": [_shown(each) for each in changes],
            "cursor": cursor,
            "first": after is None,
        }
    return render(request, "datasets/diff.html", context)


def _relatives(dataset: Dataset) -> list[Dataset]:
    """Return other versions, and what it was made from and what was made from it; the newest
    first."""
    related = Q(name=dataset.name) | Q(parents=dataset) | Q(children=dataset)
    found = Dataset.objects.filter(related).exclude(pk=dataset.pk).distinct()
    return list(found.order_by("-created_at", "-pk")[:CANDIDATES])


def _shown(change: Change) -> dict[str, Any]:
    return {
        "change": change.change,
        "sides": [
            None
            if side is None
            else {
                "position": side.position,
                "split": side.split,
                "id": side.trace.pk,
                "parts": parts_of(side.trace),
                "meta": json.dumps(side.trace.meta, ensure_ascii=False, sort_keys=True)
                if side.trace.meta
                else "",
            }
            for side in (change.old, change.new)
        ],
    }


@login_required
@require_POST
def overlap(request: HttpRequest, key: str) -> HttpResponse:
    """Submit the computation of the overlap of a dataset with another one."""
    require(person(request), May.MAKE)
    dataset = get_dataset_for(person(request), key, may=May.READ)
    other = get_dataset_for(person(request), request.POST.get("other", "").strip(), may=May.READ)
    if is_small(dataset, other):
        with searches.one_of(person(request).pk):
            found = compute_overlap(dataset, other, by=person(request))
        messages.success(request, sentence(found))
        return redirect("datasets:detail", key=dataset.dataset_key)
    work = submit_overlap(dataset=dataset, other=other, by=person(request))
    messages.success(request, f"The overlap with {other.dataset_key} is being computed.")
    return redirect(_page_of(work, dataset))
