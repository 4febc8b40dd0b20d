"""What two to twenty runs have in common and what not: requests, results, datasets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets.models import Dataset
from runs.models import MetricSeries, Run
from runs.spec.kinds import DEFAULT_KIND, KINDS, Better, Measure, kind_named

RUNS_MIN, RUNS_MAX = 2, 20
# Of the request, what says how a run is handled and nothing about what comes out.
_HANDLING = (
    "client_request_id",
    "dry_run",
    "name",
    "notes",
    "output_dir",
    "priority",
    "tags",
    "timeout_seconds",
    "webhook_url",
)
# Of the row, what is compared beside the request.
_COLUMNS = ("kind", "mode", "dataset_key", "model_id")
# label, name of the series, its number, which is the better one
_SERIES = (
    ("Loss first", "loss", "first", Better.NEITHER),
    ("Loss last", "loss", "last", Better.LOWER),
    ("Loss lowest", "loss", "minimum", Better.LOWER),
)
# Results that the series above have already, and have while a run still trains.
_IN_SERIES = ("loss_first", "loss_last")


@dataclass(frozen=True)
class Line:
    """One thing of every run, in the order of the runs. ``best``: the places of the best ones."""

    label: str
    values: list[Any]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Comparison:
    runs: list[Run]
    configuration: list[Line]
    results: list[Line]
    fingerprints: list[str]
    same_data: bool


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare runs with two queries, however many runs there are."""
    runs = list(runs)
    series: dict[tuple[Any, str], dict[str, Any]] = {
        (row["run"], row["name"]): dict(row)
        for row in MetricSeries.objects.filter(run__in=runs, name="loss").values(
            "run", "name", "first", "last", "minimum"
        )
    }
    known = dict(
        Dataset.objects.filter(dataset_key__in={run.dataset_key for run in runs}).values_list(
            "dataset_key", "fingerprint"
        )
    )
    fingerprints = [known.get(run.dataset_key, "") for run in runs]
    results = [
        _line(label, [(series.get((run.pk, name)) or {}).get(key) for run in runs], better)
        for label, name, key, better in _SERIES
    ]
    results += [
        _line(one.label, [_number(run.summary.get(one.name)) for run in runs], one.better)
        for one in _measures(runs)
    ]
    results.append(_line("Duration (s)", [run.duration_seconds for run in runs], Better.NEITHER))
    return Comparison(
        runs=runs,
        configuration=differences(runs),
        results=[line for line in results if any(value is not None for value in line.values)],
        fingerprints=fingerprints,
        same_data=len(set(fingerprints)) == 1 and "" not in fingerprints,
    )


def differences(runs: Sequence[Run]) -> list[Line]:
    """Return the fields of the requests in which the runs are not all the same."""
    names = dict.fromkeys(name for run in runs for name in (*_COLUMNS, *run.config))
    lines = []
    for name in names:
        if name in _HANDLING:
            continue
        values = [getattr(run, name) if name in _COLUMNS else run.config.get(name) for run in runs]
        if any(value != values[0] for value in values):
            lines.append(
                Line(
                    name,
                    [
                        ", ".join(map(str, value)) if isinstance(value, list) else value
                        for value in values
                    ],
                )
            )
    return lines


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _measures(runs: Sequence[Run]) -> list[Measure]:
    """Return the results of the runs' kinds, each once."""
    found = {
        name: measure
        for kind in dict.fromkeys(run.kind for run in runs)
        for name, measure in (kind_named(kind) or KINDS[DEFAULT_KIND]).results.items()
        if name not in _IN_SERIES
    }
    return list(found.values())


def _line(label: str, values: list[float | None], better: Better) -> Line:
    """Return a line whose best values are marked where there is something to choose between."""
    numbers = [value for value in values if value is not None]
    if better is Better.NEITHER or len(set(numbers)) < 2:
        return Line(label, values)
    best = min(numbers) if better is Better.LOWER else max(numbers)
    return Line(
        label, values, frozenset(place for place, value in enumerate(values) if value == best)
    )
