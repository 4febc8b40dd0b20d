"""Pages of provenance: the graph of a dataset as nested lists, and where an example is used."""

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from datasets.queries.lineage import dataset_id
from datasets.services.access import get_dataset_for, get_trace_for
from runs.queries.lineage import branches_of, datasets_with, lineage, runs_with
from tunixrt.accounts import person
from tunixrt.roles import May

OFFSET_DIGITS = 5


@require_safe
@login_required
def dataset_lineage(request: HttpRequest, key: str) -> HttpResponse:
    dataset = get_dataset_for(person(request), key, may=May.READ)
    graph = lineage(dataset)
    start = dataset_id(dataset.dataset_key)
    context = {
        "dataset": dataset,
        "cut": graph.cut,
        "sources": branches_of(graph, start, up=True),
        "results": branches_of(graph, start, up=False),
    }
    return render(request, "runs/dataset_lineage.html", context)


@require_safe
@login_required
def uses(request: HttpRequest, trace_id: UUID) -> HttpResponse:
    trace = get_trace_for(person(request), trace_id, may=May.READ)
    at = {name: _offset(request.GET.get(name, "")) for name in ("datasets", "runs", "models")}
    context = {
        "trace": trace,
        "datasets": datasets_with(trace.pk, offset=at["datasets"]),
        "runs": runs_with(trace.pk, offset=at["runs"]),
        "models": runs_with(trace.pk, offset=at["models"], with_model=True),
        "at": at,
    }
    return render(request, "runs/uses.html", context)


def _offset(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= OFFSET_DIGITS else 0
