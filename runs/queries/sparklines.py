"""The loss of many runs, each as a line of a few pixels: one query for a whole page of runs."""

import math
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from django.db.models import Case, F, When

from runs.models import MetricChunk
from runs.services.measurements import CHUNK_POINTS, unpack

WIDTH, HEIGHT = 80, 20  # units of the drawing
BUCKETS = 40
CHUNKS_READ = 32  # of one run; of a longer one, chunks at even distances


def read_sparklines(run_ids: Iterable[UUID], *, name: str = "loss") -> dict[UUID, str]:
    """The ``points`` of an SVG polyline, WIDTH by HEIGHT, by run; runs with fewer than two finite
    values are left out.

    Of the first chunk every value is looked at, of the others their smallest and largest."""
    rows = (
        MetricChunk.objects.filter(series__run__in=list(run_ids), series__name=name)
        .annotate(place=F("number") % (F("series__count") / (CHUNK_POINTS * CHUNKS_READ) + 1))
        .filter(place=0)
        .order_by("series", "number")
        .values_list(
            "series__run", "number", "count", "first_step", "last_step", "minimum", "maximum",
            Case(When(number=0, then="steps")), Case(When(number=0, then="values")),
        )
    )  # fmt: skip
    points: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    for run_id, number, count, first_step, last_step, low, high, steps, values in rows:
        if number == 0:
            points[run_id] += zip(
                unpack("q", steps)[:count], unpack("d", values)[:count], strict=True
            )
        elif low is not None:
            points[run_id] += [(first_step, high), (last_step, low)]
    return {run_id: line for run_id, found in points.items() if (line := draw(found))}


def draw(points: list[tuple[float, float]]) -> str:
    """``x,y x,y …``: in each of BUCKETS columns the smallest and the largest value, in the order of
    their steps."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    first, last = min(step for step, _ in finite), max(step for step, _ in finite)
    low, high = min(value for _, value in finite), max(value for _, value in finite)
    across, up = (last - first) or 1, (high - low) or 1
    columns: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for step, value in finite:
        columns[int((step - first) / across * (BUCKETS - 1))].append((step, value))
    kept = []
    for column in sorted(columns):
        inside = columns[column]
        kept += sorted({min(inside, key=_value), max(inside, key=_value)})
    return " ".join(
        f"{1 + (step - first) / across * (WIDTH - 2):.1f},"
        f"{1 + (1 - (value - low) / up) * (HEIGHT - 2):.1f}"
        for step, value in kept
    )


def _value(point: tuple[float, float]) -> float:
    return point[1]
