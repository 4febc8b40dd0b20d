"""What a run learns from: its examples with the parts that count in the loss marked; and how long a
dataset's examples are in the tokens of models that dry runs measured."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from datasets.models import Dataset
from datasets.services.access import get_readable_dataset
from runs.execution.lengths import measure_lengths
from runs.forms.look import LookForm
from runs.models import Run
from runs.queries.logs import OffsetPastEnd
from runs.queries.samples import read_samples, read_seen
from runs.queries.summaries import Bar, histogram_bars, read_plan
from runs.runfolder.files import BrokenFile
from runs.services import reservations
from runs.services.access import get_run_for, require_items
from runs.views.start import model_choices
from tunixrt.accounts import person
from tunixrt.refusals import Refusal
from tunixrt.roles import May

SAMPLES = 10
RUNS_LOOKED_AT = 200  # the newest runs of a dataset among which measured lengths are looked for
MODELS_SHOWN = 3


@require_safe
@login_required
def samples(request: HttpRequest, run_id: UUID) -> HttpResponse:
    run = get_run_for(person(request), run_id, may=May.READ)
    require_items(person(request), run)
    text = request.GET.get("from", "0")
    offset = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0
    try:
        page = read_samples(reservations.run_folder(run), offset=offset, limit=SAMPLES)
    except OffsetPastEnd as error:
        raise Http404("This run's data ends before this place.") from error
    except (OSError, BrokenFile):
        page = None  # a dry run that writes none, or a folder that is gone
    seen = read_seen(reservations.run_folder(run)) if offset == 0 else []
    return render(
        request, "runs/samples.html", {"run": run, "page": page, "first": offset == 0, "seen": seen}
    )


@dataclass(frozen=True)
class MeasuredLengths:
    """What a full dry run counted. ``max_seq_length``: of that run; longer examples are cut or left
    out."""

    run: Run
    bars: list[Bar]
    max_seq_length: Any


@require_safe
@login_required
@vary_on_headers("HX-Request")
def token_lengths(request: HttpRequest, key: str) -> HttpResponse:
    """Show the page, or for htmx the part of a dataset's page."""
    dataset = get_readable_dataset(person(request), key)
    measured: dict[str, MeasuredLengths] = {}
    recent = (
        Run.objects.visible()
        .filter(dataset_key=key)
        .newest_first()
        .only("name", "model_id", "config", "summary", "completed_at")
    )
    for run in recent[:RUNS_LOOKED_AT]:
        if (
            run.model_id in measured
            or (plan := read_plan(run.summary)) is None
            or not (bars := histogram_bars(plan["histogram"]))
        ):
            continue
        measured[run.model_id] = MeasuredLengths(run, bars, run.config.get("max_seq_length"))
        if len(measured) == MODELS_SHOWN:
            break
    context: dict[str, Any] = {"dataset": dataset, "measured": list(measured.values())}
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "runs/_token_lengths.html", context)
    form = LookForm(request.GET if "model_id" in request.GET else None)
    del form.fields["too_long"]  # lengths are those of whole examples
    context |= {"form": form, "models": model_choices()}
    status = _count(dataset, form, context) if form.is_bound else 200
    return render(request, "runs/token_lengths.html", context, status=status)


def _count(dataset: Dataset, form: LookForm, context: dict[str, Any]) -> int:
    """Add lengths to the context, or to the form what is wrong; return the status."""
    if not form.is_valid():
        return 400
    try:
        counted = measure_lengths(
            dataset, model_id=form.cleaned_data["model_id"], **form.parameters()
        )
    except Refusal as refusal:
        form.take(refusal)
        return refusal.status
    context |= {
        "counted": counted,
        "bars": histogram_bars(counted["histogram"]),
        "max_seq_length": form.parameters()["max_seq_length"],
    }
    return 200
