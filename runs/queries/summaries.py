"""What a run's summary says: the plan of a dry run with depth, the results of a training.

A training command may be a third party's and write anything, so a value of another type than
expected counts as missing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runs.services.finishing import DRY_RUN_STDOUT
from runs.services.preflight import text_list
from runs.spec.kinds import Kind
from tunixrt.refusals import shorten

HISTOGRAM_MAX = 200  # rows
ROW_LENGTHS_MAX = 100
NAME_MAX, PARTS_MAX = 100, 50  # of a part of the memory
COUNT_MAX = 2**63 - 1
SAMPLES_MAX, SAMPLE_MAX_CHARACTERS = 10, 10_000
WITHHELD = "[The dataset is sealed: only operators read what this run wrote.]"
_SAMPLE = ("prompt", "expected", "before", "after")


@dataclass(frozen=True)
class Bar:
    """Examples of ``start`` to ``end`` units; ``width``: percent of the longest bar."""

    start: int
    end: int
    count: int
    width: float


def read_plan(summary: Any) -> dict[str, Any] | None:
    """Return what the training would be, by the report of a dry run with depth; None where there is
    none.

    ``histogram`` holds ``[from, to, examples]``, lengths in tokens; shares are of 1; memory is in
    bytes, on each device.
    """
    report = _part(summary, "preflight")
    if not report:
        return None
    counts = {
        name: _count(report.get(name))
        for name in ("examples", "held_out", "tokens", "answer_tokens", "dropped", "split")
    }
    truncated = _count(report.get("truncated"))
    parts = {
        name[:NAME_MAX]: size
        for name, value in _part(report, "memory").items()
        if (size := _count(value)) is not None
    }
    needed = parts.pop("total", None)
    rows = report.get("row_lengths")
    smoke = {
        name: _amount(_part(report, "smoke").get(name))
        for name in ("loss", "grad_norm", "seconds", "memory_bytes")
    }
    return {
        **counts,
        "truncated": truncated,
        "truncated_share": _fraction(truncated, counts["examples"]),
        "histogram": _histogram(report.get("length_histogram")),
        "steps": _count(report.get("total_steps")),
        "steps_per_epoch": _count(report.get("steps_per_epoch")),
        "epochs": _amount(report.get("num_epochs")),
        "rows_per_step": _count(report.get("rows_per_step")),
        "row_lengths": [row for row in rows[:ROW_LENGTHS_MAX] if _count(row) is not None]
        if isinstance(rows, list)
        else [],
        "padding_share": _share(report.get("padding_waste")),
        "parameters": _count(report.get("parameters")),
        "trainable_parameters": _count(report.get("trainable_parameters")),
        "dtype": _text(report.get("dtype")),
        "backend": _text(report.get("backend")),
        "devices": _count(report.get("devices")),
        "memory": {
            "needed_bytes": needed,
            "available_bytes": _count(report.get("memory_there")),
            "parts": dict(list(parts.items())[:PARTS_MAX]),
        },
        "smoke": smoke if any(value is not None for value in smoke.values()) else None,
        "sentences": text_list(report.get("sentences")),
        "warnings": text_list(report.get("warnings")),
    }


def histogram_bars(histogram: list[list[int]]) -> list[Bar]:
    """Return the bars of a plan's histogram; none where it counts nothing."""
    most = max((count for _, _, count in histogram), default=0)
    return (
        [Bar(start, end, count, round(100 * count / most, 2)) for start, end, count in histogram]
        if most
        else []
    )


def without_texts(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a run in which it may quote its examples, for those who do not read
    them."""
    return {
        name: columns[name] if columns[name] in ("", DRY_RUN_STDOUT) else WITHHELD
        for name in ("stdout", "stderr")
    } | {"summary": _without_samples(columns["summary"])}


def _without_samples(summary: Any) -> Any:
    if not isinstance(summary, dict):
        return summary
    return {name: value for name, value in summary.items() if name != "samples"}


def read_result(summary: Any, kind: Kind) -> dict[str, Any]:
    """Return the results that the page of a training of ``kind`` shows."""
    summary = summary if isinstance(summary, dict) else {}
    samples = summary.get("samples")
    numbers = {
        name: _share(summary.get(name))
        if measure.share
        else _amount(summary.get(name), signed=True)
        for name, measure in kind.results.items()
    }
    return numbers | {
        "samples": [
            {
                name: ""
                if sample.get(name) is None
                else shorten(str(sample[name]), SAMPLE_MAX_CHARACTERS)
                for name in _SAMPLE
            }
            for sample in (samples[:SAMPLES_MAX] if isinstance(samples, list) else [])
            if isinstance(sample, dict)
        ]
    }


def _part(value: Any, name: str) -> dict[str, Any]:
    part = value.get(name) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}


def _histogram(rows: Any) -> list[list[int]]:
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == 3 and None not in map(_count, row) for row in rows
    ):
        return []
    return [list(row) for row in rows[:HISTOGRAM_MAX]]


def _count(value: Any) -> int | None:
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX
        else None
    )


def _amount(value: Any, *, signed: bool = False) -> float | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > COUNT_MAX
        or math.isnan(value)
    ):
        return None
    return value if signed or value >= 0 else None


def _share(value: Any) -> float | None:
    amount = _amount(value)
    return amount if amount is not None and amount <= 1 else None


def _fraction(part: int | None, whole: int | None) -> float | None:
    return round(part / whole, 6) if part is not None and whole and part <= whole else None


def _text(value: Any) -> str | None:
    return shorten(value) if isinstance(value, str) else None
