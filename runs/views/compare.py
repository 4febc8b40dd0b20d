"""Runs side by side, under an address that can be passed on; and the same as CSV."""

import csv

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from runs.models import Run
from runs.queries.comparison import RUNS_MAX, RUNS_MIN, Comparison, compare_runs
from runs.views.chosen import read_ids
from tunixrt.refusals import Refusal

# A spreadsheet takes a text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CompareRefused(Refusal):
    """These runs cannot be compared; the sentence says why."""

    status, code = 422, "invalid_query"


def read_runs(request: HttpRequest) -> tuple[list[Run], int]:
    """Return the runs that ``ids`` names, in that order, and how many are not there. Raise
    CompareRefused."""
    try:
        ids = read_ids(request.GET)
    except ValueError as error:
        raise CompareRefused(
            "This address does not name runs: ids= takes run ids, with commas between them."
        ) from error
    if not RUNS_MIN <= len(ids) <= RUNS_MAX:
        raise CompareRefused(
            f"Choose {RUNS_MIN} to {RUNS_MAX} runs to compare; {len(ids)}"
            f" {'is' if len(ids) == 1 else 'are'} chosen."
        )
    fields = (
        "run_id",
        "name",
        "status",
        "kind",
        "mode",
        "dataset_key",
        "model_id",
        "config",
        "summary",
        "duration_seconds",
        "created_at",
        "attempt",
    )
    found = sorted(
        Run.objects.visible().filter(pk__in=ids).only(*fields), key=lambda run: ids.index(run.pk)
    )
    if len(found) < RUNS_MIN:
        raise CompareRefused("Fewer than two of these runs are still there.")
    return found, len(ids) - len(found)


@require_safe
@login_required
def compare(request: HttpRequest) -> HttpResponse:
    try:
        runs, missing = read_runs(request)
    except CompareRefused as refusal:
        messages.error(request, str(refusal))
        return render(request, "runs/compare.html", {"comparison": None}, status=refusal.status)
    context = {
        "comparison": compare_runs(runs),
        "missing": missing,
        "ids": ",".join(str(run.pk) for run in runs),
    }
    return render(request, "runs/compare.html", context)


@require_safe
@login_required
def compare_csv(request: HttpRequest) -> HttpResponse:
    """Write one line for each run: what it is, in what it differs, what came of it."""
    try:
        runs, _ = read_runs(request)
    except CompareRefused as refusal:
        return HttpResponse(f"{refusal}\n", content_type="text/plain; charset=utf-8", status=422)
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="runs.csv"'
    write_csv(response, compare_runs(runs))
    return response


def write_csv(file: HttpResponse, comparison: Comparison) -> None:
    lines = [*comparison.configuration, *comparison.results]
    writer = csv.writer(file)
    writer.writerow(
        [
            "run_id",
            "name",
            "status",
            "created_at",
            "fingerprint",
            *(cell(line.label) for line in lines),
        ]
    )
    for place, run in enumerate(comparison.runs):
        fixed = [
            run.pk,
            cell(run.name),
            run.status,
            run.created_at.isoformat(),
            comparison.fingerprints[place],
        ]
        writer.writerow([*fixed, *(cell(line.values[place]) for line in lines)])


def cell(value: object) -> object:
    """Return a value for a cell of CSV that no spreadsheet takes for a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
