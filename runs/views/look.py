"""An example as the model will see it, and how long a dataset's examples are in tokens."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from datasets.examples.kinds import training_line
from datasets.models import Dataset, DatasetItem, Split, Trace
from datasets.services.access import get_trace_for
from runs.execution import looking
from runs.forms.look import ExampleForm
from runs.views.start import model_choices
from tunixrt.accounts import person
from tunixrt.refusals import Missing, Refusal
from tunixrt.roles import May

SIDES = {
    "": "The example",
    "prompt": "What both answers begin with",
    "chosen": "Chosen",
    "rejected": "Rejected",
}


@dataclass(frozen=True)
class Segment:
    """Text of one or several tokens that are shown alike. ``id``: of a token that is shown alone;
    ``skipped``: no token stands for the text; ``part``: a token without text of its own."""

    text: str
    learnt: bool = False
    control: bool = False
    kept: bool = True
    skipped: bool = False
    part: bool = False
    id: int | None = None


@require_safe
@login_required
def look(request: HttpRequest, trace_id: UUID) -> HttpResponse:
    trace = get_trace_for(person(request), trace_id, may=May.READ)
    if trace.erased_at is not None:
        raise Missing("The content of this example was erased.")
    dataset = Dataset.objects.filter(dataset_key=request.GET.get("dataset", "")).first()
    form = ExampleForm(request.GET if "model_id" in request.GET else None)
    context: dict[str, Any] = {
        "trace": trace,
        "dataset": dataset,
        **(_neighbours(request, dataset, trace) if dataset else {}),
        "form": form,
        "models": model_choices(),
    }
    status = 200
    if form.is_bound:
        status = _show(request, trace, form, context)
    return render(request, "runs/look.html", context, status=status)


def _neighbours(request: HttpRequest, dataset: Dataset, trace: Trace) -> dict[str, Any]:
    """Return the place of an example in a dataset, and the addresses of the pages of the examples
    before and after it, for the same model. Skip erased examples, which have none."""
    items = DatasetItem.objects.filter(dataset=dataset)
    places = items.filter(trace=trace).order_by("position").values_list("position", flat=True)
    asked = _number(request.GET.get("position", ""))
    place = places.filter(position=asked).first()
    if place is None:
        place = places.first()
    if place is None:
        return {}
    there = items.filter(trace__erased_at=None)
    before = there.filter(position__lt=place).order_by("-position").first()
    after = there.filter(position__gt=place).order_by("position").first()
    return {
        "position": place,
        "before": before and _address_of(request, before),
        "after": after and _address_of(request, after),
    }


def _address_of(request: HttpRequest, item: DatasetItem) -> str:
    query = request.GET.copy()
    for name in ("row", "start"):
        query.pop(name, None)
    query["position"] = str(item.position)
    return f"{reverse('runs:look', args=[item.trace_id])}?{query.urlencode()}"


def _show(request: HttpRequest, trace: Trace, form: ExampleForm, context: dict[str, Any]) -> int:
    """Add what is seen to the context, or to the form what is wrong; return the status."""
    if not form.is_valid():
        return 400
    row, start = (_number(request.GET.get(name, "")) for name in ("row", "start"))
    try:
        seen = looking.view_example(
            model_id=form.cleaned_data["model_id"],
            line=training_line(trace.pk, trace, Split.TRAIN),
            row=row,
            start=start,
            **form.parameters(),
        )
    except Refusal as refusal:
        form.take(refusal)
        return refusal.status
    apart = form.cleaned_data["tokens"]
    rows = [one for one in seen["rows"] if one["side"] == seen["rows"][0]["side"]]
    context |= {
        "seen": seen,
        "blocks": [
            {
                "title": SIDES[block["side"]],
                "side": block["side"],
                "start": block["start"],
                "end": block["start"] + len(block["tokens"]),
                "more": block["more"],
                "segments": _segments(block["tokens"], apart=apart),
            }
            for block in seen["blocks"]
        ],
        "totals": [
            {**one, "title": SIDES[one["side"]], "cut": one["tokens"] - one["kept"]}
            for side in dict.fromkeys(one["side"] for one in seen["rows"])
            for one in [one for one in seen["rows"] if one["side"] == side][row : row + 1]
        ],
        "rows": _pages(request, "row", range(len(rows)), row) if len(rows) > 1 else [],
        "next": _address(request, start=start + looking.TOKENS_DEFAULT)
        if any(block["more"] for block in seen["blocks"])
        else None,
        "first": _address(request, start=0) if start else None,
        **{name: form.parameters()[name] for name in ("max_seq_length", "too_long")},
    }
    return 200


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0


def _address(request: HttpRequest, **changes: int) -> str:
    query = request.GET.copy()
    for name, value in changes.items():
        query[name] = str(value)
    return f"?{query.urlencode()}"


def _pages(request: HttpRequest, name: str, numbers: range, here: int) -> list[dict[str, Any]]:
    return [
        {
            "number": number + 1,
            "here": number == here,
            "address": _address(request, start=0, **{name: number}),
        }
        for number in numbers
    ]


def _segments(tokens: list[dict[str, Any]], *, apart: bool) -> list[Segment]:
    """Return the texts of tokens: ``apart``, or joined where neighbours are shown alike. Control
    tokens always stand apart."""
    segments: list[Segment] = []
    pending = ""
    last: tuple[bool, bool] | None = None

    def flush() -> None:
        nonlocal pending
        if pending and last is not None:
            segments.append(Segment(pending, learnt=last[0], kept=last[1]))
        pending = ""

    for token in tokens:
        look = token["learnt"], token["kept"]
        alone = apart or token["control"]
        if token["skipped"] or alone or look != last:
            flush()
        if token["skipped"]:
            segments.append(Segment(token["skipped"], skipped=True))
        if alone:
            text = token["text"]
            segments.append(Segment(text, *_flags(token), part=not text, id=token["id"]))
        else:
            pending += token["text"]
        last = look
    flush()
    return segments


def _flags(token: dict[str, Any]) -> tuple[bool, bool, bool]:
    return token["learnt"], token["control"], token["kept"]
