"""The list of datasets, and a dataset with its examples."""

import json

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from datasets.comparison.overlaps import known_about, overlaps_of, without_places
from datasets.examples.kinds import parts_of
from datasets.files import parquet
from datasets.forms.curation import EditForm
from datasets.models import DatasetItem
from datasets.queries.listing import search_datasets, search_examples, take_page
from datasets.services.access import get_dataset_for
from datasets.services.curation import EDITABLE
from datasets.services.sealing import may_read_examples
from datasets.views.lists import PAGE, read_cursor, search_text
from tunixrt.accounts import person
from tunixrt.cursors import decode_number_cursor
from tunixrt.roles import May, why_not
from tunixrt.searches import search

EXAMPLES = 10


@login_required
@require_safe
def dataset_list(request: HttpRequest) -> HttpResponse:
    text = search_text(request)
    cursor = read_cursor(request, decode_number_cursor)
    archived = request.GET.get("archived") == "true"
    with search(person(request), "q", reads_all=bool(text) or archived):
        page = take_page(search_datasets(text, archived=archived), limit=PAGE, cursor=cursor)
    context = {"page": page, "text": text, "first": cursor is None, "archived": archived}
    return render(request, "datasets/dataset_list.html", context)


@login_required
@require_safe
def detail(request: HttpRequest, key: str) -> HttpResponse:
    user = person(request)
    dataset = get_dataset_for(user, key, may=May.READ)
    start, text = _position(request.GET.get("from", "")), search_text(request)
    may_read = may_read_examples(user, dataset)
    items: list[DatasetItem] = []
    if may_read:
        with search(user, "q", reads_all=bool(text)):
            found = search_examples(dataset, text).filter(position__gte=start)
            items = list(found[: EXAMPLES + 1])
    examples = [{"item": item, "parts": parts_of(item.trace)} for item in items[:EXAMPLES]]
    overlaps = without_places(overlaps_of(dataset), user)
    roles = dataset.stats.get("roles") or {}
    context = {
        "dataset": dataset,
        "parquet": parquet.is_installed(),
        "may_read": may_read,
        "may_act": not why_not(user, May.ACT, owner_id=dataset.created_by_id),
        "edit": EditForm(initial={name: getattr(dataset, name) for name in EDITABLE}),
        "histogram": _bars(dataset.stats.get("example_characters_histogram") or []),
        "turns": _bars(dataset.stats.get("messages_histogram") or []),
        "roles": [
            {"role": role, "count": count, "percent": 100 * count / sum(roles.values())}
            for role, count in roles.items()
        ],
        "examples": examples,
        "next": items[EXAMPLES].position if len(items) > EXAMPLES else None,
        "start": start,
        "text": text,
        "overlaps": overlaps,
        "not_computed": known_about(dataset, overlaps)[1],
        "provenance": [
            (
                name.replace("_", " "),
                value
                if isinstance(value, str | int | float)
                else json.dumps(value, ensure_ascii=False),
            )
            for name, value in dataset.provenance.items()
        ],
        "ranges": [
            (label, dataset.stats.get(name, {}))
            for label, name in (
                ("Prompt", "prompt_characters"),
                ("Answer", "answer_characters"),
                ("Whole example", "example_characters"),
            )
        ],
    }
    return render(request, "datasets/detail.html", context)


def _bars(histogram: list[list[int]]) -> list[dict[str, float]]:
    most = max((count for _, _, count in histogram), default=0)
    return [
        {"start": first, "end": last, "count": count, "width": 100 * count / most}
        for first, last, count in histogram
        if most
    ]


def _position(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
