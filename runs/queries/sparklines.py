"""The loss of many runs, each as a line of a few pixels: one query for a whole page of runs."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db.models import Case, F, QuerySet, When

from runs.models import MetricChunk
from runs.services.measurements import CHUNK_POINTS, unpack
from tunixrt.compiled import CompiledForKeys

NAME = "loss"
WIDTH, HEIGHT = 80, 20  # units of the drawing
BUCKETS = 40
CHUNKS_READ = 32  # of one run; of a longer one, chunks at even distances


def _metric_chunks(run_ids: list[UUID]) -> QuerySet[MetricChunk, Any]:
    return (
        MetricChunk.objects.filter(series__run__in=run_ids, series__name=NAME)
        .annotate(place=F("number") % (F("series__count") / (CHUNK_POINTS * CHUNKS_READ) + 1))
        .filter(place=0)
        .order_by("series", "number")
        .values_list(
            "series__run", "number", "count", "first_step", "last_step", "minimum", "maximum",
            Case(When(number=0, then="steps")), Case(When(number=0, then="values")),
        )
    )  # fmt: skip


_chunks = CompiledForKeys(_metric_chunks)


def read_sparklines(run_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return the ``points`` of an SVG polyline, WIDTH by HEIGHT, by run; leave out runs with fewer
    than two finite values.

    Of the first chunk every value is used, of the others their smallest and largest.
    """
    points: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    for run_id, number, count, first_step, last_step, low, high, steps, values in _chunks.read(
        list(run_ids)
    ):
        if number == 0:
            points[run_id] += zip(
                unpack("q", steps)[:count], unpack("d", values)[:count], strict=True
            )
        elif low is not None:
            points[run_id] += [(first_step, high), (last_step, low)]
    return {run_id: line for run_id, found in points.items() if (line := draw(found))}


def draw(points: list[tuple[float, float]]) -> str:
    """Return ``x,y x,y …``: in each of BUCKETS columns the smallest and the largest value, in the
    order of their steps."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    steps, values = zip(*finite, strict=True)
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    across, up = (last - first) or 1, (high - low) or 1
    lowest: list[tuple[float, float] | None] = [None] * BUCKETS
    highest: list[tuple[float, float] | None] = [None] * BUCKETS
    for point in finite:  # one pass: a page draws thousands of points
        step, value = point
        column = int((step - first) / across * (BUCKETS - 1))
        if (smallest := lowest[column]) is None or value < smallest[1]:
            lowest[column] = point
        if (largest := highest[column]) is None or value > largest[1]:
            highest[column] = point
    kept: list[tuple[float, float]] = []
    for smallest, largest in zip(lowest, highest, strict=True):
        if smallest is not None and largest is not None:
            kept += sorted({smallest, largest})
    return " ".join(
        f"{1 + (step - first) / across * (WIDTH - 2):.1f},"
        f"{1 + (1 - (value - low) / up) * (HEIGHT - 2):.1f}"
        for step, value in kept
    )
