"""Evaluations side by side, under an address that can be passed on; and the same as CSV.

The page reads scores from the database and outputs from the files (runs/queries/compared_items.py).
It works without JavaScript: what is shown is chosen by a form whose fields are the address.
"""

import csv
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from runs.models import Run
from runs.queries import evaluation_comparison as comparing
from runs.queries.compared_items import ItemsAway, SetFacts, facts_of, outputs_of
from runs.queries.evaluation_comparison import Comparison, Entry, NotComparable
from runs.queries.word_diff import WordDiff, word_diff
from runs.views.chosen import read_ids
from runs.views.compare import cell
from tunixrt.accounts import person
from tunixrt.searches import searches

QUESTIONS_SHOWN = 10
SAMPLES_SHOWN = 4  # outputs of a question
TEXT_SHOWN = 8_000  # characters of an output


@dataclass(frozen=True)
class Shown:
    """Two outputs for the same question. ``diff``: None where they are not compared word by word:
    they are equal, or one is not there."""

    first: dict[str, Any] | None
    second: dict[str, Any] | None
    equal: bool
    diff: WordDiff | None
    cut: bool


@dataclass(frozen=True)
class QuestionRow:
    """A question with its scores, by evaluation, and the outputs of the chosen two."""

    hash: str
    scores: list[tuple[Entry, float | None]]
    relation: str
    item: dict[str, Any] | None
    outputs: list[Shown]
    more: int


def read_evaluations(request: HttpRequest) -> tuple[list[Run], list[str]]:
    """Return the evaluations that ``ids`` names, in that order, and what is to be said of those
    that are not there. Raise NotComparable."""
    try:
        ids = read_ids(request.GET)
    except ValueError as error:
        raise NotComparable(
            "This address does not name evaluations: ids= takes their ids, with commas between"
            " them."
        ) from error
    runs, missing = comparing.find_evaluations(ids)
    if not missing:
        return runs, []
    count = len(missing)
    said = f"{count} of the evaluations in this address {'is' if count == 1 else 'are'} not there."
    if ids[0] in missing:
        said += f" The baseline is one of them; {runs[0].name} takes its place."
    return runs, [said]


@require_safe
@login_required
def compare_evaluations(request: HttpRequest) -> HttpResponse:
    try:
        runs, notices = read_evaluations(request)
    except NotComparable as refusal:
        messages.error(request, str(refusal))
        nothing = {"comparison": None}
        return render(request, "runs/compare_evaluations.html", nothing, status=refusal.status)
    with searches.one_of(person(request).pk):
        context = _context(request, runs, notices)
    return render(request, "runs/compare_evaluations.html", context)


def _context(request: HttpRequest, runs: list[Run], notices: list[str]) -> dict[str, Any]:
    comparison = comparing.compare_evaluations(runs)
    measured = comparing.measure(comparison)
    chosen = _chosen(request, "scorer", [one.label for one in measured], notices)
    context: dict[str, Any] = {
        "comparison": comparison,
        "ids": ",".join(str(run.pk) for run in runs),
        "measured": measured,
        "headline": comparing.headline(comparison),
        "scorer": chosen,
        "notices": notices,
        "excluded": [entry for entry in comparison.entries if entry.why_not],
        "partial": [entry for entry in comparison.entries if entry.is_partial],
    }
    if chosen:
        score = next(one for one in measured if one.label == chosen)
        context |= _slices(request, comparison, score, notices)
        context |= _questions(request, comparison, score, notices)
    return context


def _chosen(
    request: HttpRequest, name: str, choices: list[str], notices: list[str], default: int | None = 0
) -> str:
    """Return the choice that a field of the address names; else the default one, and say so."""
    given = request.GET.get(name, "")
    if given in choices:
        return given
    if given:
        notices.append(f"There is no such choice of {name} here; another one is shown.")
    return choices[default] if default is not None and len(choices) > default else ""


def _slices(
    request: HttpRequest, comparison: Comparison, score: comparing.Measured, notices: list[str]
) -> dict[str, Any]:
    try:
        facts = facts_of(
            [entry.run for entry in comparison.entries if not entry.why_not],
            reader=person(request),
        )
    except ItemsAway as away:
        return {"no_columns": str(away)}
    column = _chosen(request, "column", sorted(facts.columns), notices, default=None)
    found = comparing.slices(comparison, score.hash, facts.columns[column]) if column else []
    return {"columns": sorted(facts.columns), "column": column, "slices": found}


def _questions(
    request: HttpRequest, comparison: Comparison, score: comparing.Measured, notices: list[str]
) -> dict[str, Any]:
    able = [entry for entry in comparison.entries if score.hash in entry.scores]
    letters = [entry.letter for entry in able]
    first = _chosen(request, "first", letters, notices)
    second = _chosen(request, "second", letters, notices, default=1)
    if second == first:
        second = next(letter for letter in letters if letter != first)
    only = _chosen(request, "only", list(comparing.RELATIONS), notices, default=None)
    one, other = (next(e for e in able if e.letter == letter) for letter in (first, second))
    values = {entry.letter: comparison.values(entry, score.hash) or [] for entry in able}
    pairing = comparing.pair_questions(
        values[first], values[second], lower_is_better=score.lower_is_better, only=only
    )
    pages = max(1, -(-len(pairing.places) // QUESTIONS_SHOWN))
    page = min(pages, _page(request))
    places = pairing.places[(page - 1) * QUESTIONS_SHOWN : page * QUESTIONS_SHOWN]
    items, away = _items(
        [one, other], [comparison.hashes[place] for place in places], reader=person(request)
    )
    labels = _relation_labels(first, second, binary=pairing.binary)
    rows = []
    for place in places:
        key = comparison.hashes[place]
        of_first, of_second = (items[entry.letter].get(key) for entry in (one, other))
        outputs, more = _outputs(of_first, of_second)
        a, b = values[first][place], values[second][place]
        assert a is not None and b is not None
        rows.append(
            QuestionRow(
                key,
                [(entry, values[entry.letter][place]) for entry in able],
                labels[comparing.relation_of(a, b, lower_is_better=score.lower_is_better)],
                of_first or of_second,
                outputs,
                more,
            )
        )
    return {
        "able": able,
        "first": one,
        "second": other,
        "only": only,
        "pairing": pairing,
        "relations": [
            (name, label, pairing.counts[name])
            for name, label in labels.items()
            if pairing.counts[name] or name in (comparing.FIRST, comparing.SECOND, only)
        ],
        "paired": sum(pairing.counts.values()),
        "rows": rows,
        "away": away,
        "page": page,
        "pages": pages,
    }


def _relation_labels(first: str, second: str, *, binary: bool) -> dict[str, str]:
    """Return what the relations are called; right and wrong only where all scores are 0 or 1."""
    return {
        comparing.FIRST: f"{first} right, {second} wrong" if binary else f"{first} better",
        comparing.SECOND: f"{second} right, {first} wrong" if binary else f"{second} better",
        comparing.BOTH_WRONG: "both wrong" if binary else "both 0",
        comparing.BOTH_RIGHT: "both right" if binary else "both 1",
        comparing.EQUAL: "equal",
    }


def _page(request: HttpRequest) -> int:
    given = request.GET.get("page", "")
    return max(1, int(given)) if given.isascii() and given.isdigit() and len(given) < 10 else 1


def _items(
    entries: list[Entry], hashes: list[str], *, reader: User
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[tuple[Entry, str]]]:
    """Return the items of the questions by letter and hash, and why those of one cannot be
    shown."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    away = []
    for entry in entries:
        try:
            found[entry.letter] = outputs_of(entry.run, hashes, reader=reader)
        except ItemsAway as refused:
            found[entry.letter] = {}
            away.append((entry, str(refused)))
    return found, away


def _outputs(
    first: dict[str, Any] | None, second: dict[str, Any] | None
) -> tuple[list[Shown], int]:
    """Put the outputs of a question beside each other, and count those that are not shown."""
    left, right = (item["outputs"] if item else [] for item in (first, second))
    count = max(len(left), len(right))
    shown = [
        _beside(
            left[number] if number < len(left) else None,
            right[number] if number < len(right) else None,
            marked=number == 0,
        )
        for number in range(min(count, SAMPLES_SHOWN))
    ]
    return shown, count - len(shown)


def _beside(first: dict[str, Any] | None, second: dict[str, Any] | None, *, marked: bool) -> Shown:
    texts = [output["text"] if output else "" for output in (first, second)]
    cut = any(len(text) > TEXT_SHOWN for text in texts)
    both = first is not None and second is not None
    equal = both and texts[0] == texts[1]
    one, other = (text[:TEXT_SHOWN] for text in texts)
    diff = word_diff(one, other) if both and marked and not equal else None
    return Shown(
        first and first | {"text": one}, second and second | {"text": other}, equal, diff, cut
    )


@require_safe
@login_required
def compare_evaluations_csv(request: HttpRequest) -> HttpResponse:
    """Write one line for each question: its hash and id, and each evaluation's scores."""
    try:
        runs, _ = read_evaluations(request)
    except NotComparable as refusal:
        return HttpResponse(f"{refusal}\n", content_type="text/plain; charset=utf-8", status=422)
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="evaluations.csv"'
    with searches.one_of(person(request).pk):
        write_csv(response, comparing.compare_evaluations(runs), reader=person(request))
    return response


def write_csv(file: HttpResponse, comparison: Comparison, *, reader: User) -> None:
    try:
        facts = facts_of(
            [entry.run for entry in comparison.entries if not entry.why_not], reader=reader
        )
    except ItemsAway:
        facts = SetFacts()
    names, columns = [], []
    for entry in comparison.entries:
        for score in entry.scores.values():
            names.append(f"{entry.run.name} ({entry.letter}, {entry.run.pk}): {score.label}")
            columns.append(comparison.values(entry, score.scorer_hash) or [])
    writer = csv.writer(file)
    writer.writerow(["hash", "id", *(cell(name) for name in names)])
    for place, key in enumerate(comparison.hashes):
        ours = (cell(column[place]) for column in columns)
        writer.writerow([key, cell(facts.ids.get(key, "")), *ours])
