"""Curves of metrics: every spike and every NaN of a million points in a few hundred.

Points are put into buckets of a power of two, counted from the first point of the series, and a
bucket shows its minimum, its maximum and its first value that is not a finite number. Nothing is
averaged or drawn by lot: the answer is the same every time, and a bucket that is full looks the
same however far the run has gone on. Chunks hold 1,024 points and know their extremes: a bucket of
whole chunks is read from those alone.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import BinaryField, F, Func, Min, Q, Value

from runs.models import MetricChunk, MetricSeries, Run
from runs.services.measurements import CHUNK_POINTS, unpack

CHAIN_MAX = 50
DECODED_MAX = 1 << 18  # points; of more, the smallest bucket is a chunk, and a zoom shows the rest
_BUCKET_MAX = 1 << 40


@dataclass(frozen=True)
class SeriesSlice:
    """The points of one series whose steps lie between ``from_step`` and ``to_step``, both
    included; None: no limit."""

    series: MetricSeries
    from_step: int | None = None
    to_step: int | None = None

    def holds(self, *steps: int) -> bool:
        return all(
            (self.from_step is None or step >= self.from_step)
            and (self.to_step is None or step <= self.to_step)
            for step in steps
        )


@dataclass
class Curve:
    """Points in the order they were measured. ``bucket``: how many of the ``count`` points a bucket
    holds; 1: all are here."""

    bucket: int = 1
    count: int = 0
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, points: "Iterable[_Point]") -> None:
        for point in points:
            self.steps.append(point[1])
            self.times.append(point[2])
            self.values.append(point[3])


_Point = tuple[int, int, float, float]  # number of the chunk, step, time, value


@dataclass
class _Chunk:
    part: SeriesSlice
    number: int
    count: int
    first_step: int
    last_step: int
    minimum: float | None
    maximum: float | None
    minimum_step: int | None
    maximum_step: int | None
    not_finite: int
    first_time: float
    last_time: float
    columns: "tuple[array[int], array[float], array[float]] | None" = (
        None  # steps, times, values: those inside the slice
    )
    places: "Sequence[int]" = ()  # where in the chunk these points stand

    @property
    def inside(self) -> bool:
        return self.part.holds(self.first_step, self.last_step)

    def decode(self, steps: bytes, times: bytes, values: bytes) -> None:
        columns = unpack("q", steps), unpack("d", times), unpack("d", values)
        if self.inside:
            self.columns, self.places = columns, range(self.count)
            return
        self.places = [place for place, step in enumerate(columns[0]) if self.part.holds(step)]
        self.columns = (
            array("q", [columns[0][place] for place in self.places]),
            array("d", [columns[1][place] for place in self.places]),
            array("d", [columns[2][place] for place in self.places]),
        )
        self.count = len(self.places)

    def point(self, index: int) -> _Point:
        assert self.columns is not None
        steps, times, values = self.columns
        return self.number, steps[index], times[index], values[index]

    def time_at(self, step: int) -> float:
        """Return when ``step`` was measured, to within the time that the chunk took."""
        if self.last_step == self.first_step:
            return self.first_time
        share = (step - self.first_step) / (self.last_step - self.first_step)
        return self.first_time + (self.last_time - self.first_time) * min(1.0, max(0.0, share))


def read_curve(slices: Sequence[SeriesSlice], points: int) -> Curve:
    """Return the slices one after the other as a curve of at most ``points`` points; never fewer
    than three for each slice."""
    chunks = [chunk for part in slices for chunk in _read_chunks(part)]
    _decode([chunk for chunk in chunks if not chunk.inside])
    chunks = [chunk for chunk in chunks if chunk.count]
    count = sum(chunk.count for chunk in chunks)
    curve = Curve(count=count)
    if count <= points:
        _decode(chunks)
        for chunk in chunks:
            curve.add(chunk.point(index) for index in range(chunk.count))
        return curve
    marks = 3 if any(chunk.not_finite for chunk in chunks) else 2
    curve.bucket = 2 if count <= DECODED_MAX else CHUNK_POINTS
    while curve.bucket < _BUCKET_MAX and _count_buckets(chunks, curve.bucket) * marks > points - 2:
        curve.bucket *= 2
    if curve.bucket < CHUNK_POINTS:
        _decode(chunks)
        buckets = [bucket for chunk in chunks for bucket in _split(chunk, curve.bucket)]
    else:
        groups = _group(chunks, curve.bucket)
        _decode(
            [
                next(chunk for chunk in group if chunk.not_finite)
                for group in groups
                if any(c.not_finite for c in group)
            ]
        )
        _decode([chunks[0], chunks[-1]])
        buckets = [
            _extremes([point for chunk in group for point in _outstanding(chunk)])
            for group in groups
        ]
    first, last = chunks[0].point(0), chunks[-1].point(chunks[-1].count - 1)
    if not _same(buckets[0][0], first):
        curve.add([first])
    for bucket in buckets:
        curve.add(bucket)
    if not _same(buckets[-1][-1], last):
        curve.add([last])
    return curve


def _read_chunks(part: SeriesSlice) -> list[_Chunk]:
    """Return the chunks that have points of the slice, without their points."""
    chunks = MetricChunk.objects.filter(series=part.series).order_by("number")
    if part.from_step is not None:
        chunks = chunks.filter(Q(last_step__gte=part.from_step) | Q(first_step__gte=part.from_step))
    if part.to_step is not None:
        chunks = chunks.filter(Q(first_step__lte=part.to_step) | Q(last_step__lte=part.to_step))
    rows = chunks.values_list(
        "number", "count", "first_step", "last_step", "minimum", "maximum", "minimum_step",
        "maximum_step", "not_finite", _number_at("times", Value(1)),
        _number_at("times", F("count") * 8 - 7),
    )  # fmt: skip
    return [_Chunk(part, *row[:9], *unpack("d", bytes(row[9]) + bytes(row[10]))) for row in rows]


def _number_at(column: str, byte: Any) -> Func:
    return Func(F(column), byte, Value(8), function="SUBSTR", output_field=BinaryField())


def _decode(chunks: Sequence[_Chunk]) -> None:
    """Read the points of those chunks that have not been read yet."""
    by_series: dict[int, list[_Chunk]] = {}
    for chunk in chunks:
        if chunk.columns is None:
            by_series.setdefault(chunk.part.series.pk, []).append(chunk)
    for series, wanted in by_series.items():
        numbers = [chunk.number for chunk in wanted]
        rows = MetricChunk.objects.filter(series=series)
        if len(numbers) <= 500:
            rows = rows.filter(number__in=numbers)
        else:
            rows = rows.filter(number__range=(min(numbers), max(numbers)))
        found = {
            number: columns
            for number, *columns in rows.values_list("number", "steps", "times", "values")
        }
        for chunk in wanted:
            if chunk.columns is None:
                chunk.decode(*(bytes(column[: chunk.count * 8]) for column in found[chunk.number]))


def _count_buckets(chunks: Sequence[_Chunk], bucket: int) -> int:
    if bucket >= CHUNK_POINTS:
        per_group = bucket // CHUNK_POINTS
        return len({(id(chunk.part), chunk.number // per_group) for chunk in chunks})
    return sum(
        (
            -(-chunk.count // bucket)
            if chunk.inside
            else len({place // bucket for place in chunk.places})
        )
        for chunk in chunks
    )


def _group(chunks: Sequence[_Chunk], bucket: int) -> list[list[_Chunk]]:
    groups: dict[tuple[int, int], list[_Chunk]] = {}
    for chunk in chunks:
        groups.setdefault((id(chunk.part), chunk.number // (bucket // CHUNK_POINTS)), []).append(
            chunk
        )
    return list(groups.values())


def _split(chunk: _Chunk, bucket: int) -> list[list[_Point]]:
    """Return the outstanding points of each part of a chunk whose points are there."""
    if not chunk.inside:
        parts: dict[int, list[_Point]] = {}
        for index, place in enumerate(chunk.places):
            parts.setdefault(place // bucket, []).append(chunk.point(index))
        return [_extremes(points) for points in parts.values()]
    if chunk.not_finite:
        return [
            _extremes(
                [chunk.point(index) for index in range(start, min(start + bucket, chunk.count))]
            )
            for start in range(0, chunk.count, bucket)
        ]
    assert chunk.columns is not None
    values = chunk.columns[2]
    found = []
    for start in range(0, chunk.count, bucket):
        part = values[start : start + bucket]
        low, high = sorted((part.index(min(part)), part.index(max(part))))
        found.append(
            [chunk.point(start + low)] + ([chunk.point(start + high)] if high != low else [])
        )
    return found


def _outstanding(chunk: _Chunk) -> list[_Point]:
    """Return minimum, maximum and first value that is not finite, from the summary as far as it has
    them."""
    if chunk.columns is not None and (chunk.not_finite or not chunk.inside):
        return _extremes([chunk.point(index) for index in range(chunk.count)])
    if (
        chunk.minimum is None
        or chunk.maximum is None
        or chunk.minimum_step is None
        or chunk.maximum_step is None
    ):
        return []
    return [
        (chunk.number, chunk.minimum_step, chunk.time_at(chunk.minimum_step), chunk.minimum),
        (chunk.number, chunk.maximum_step, chunk.time_at(chunk.maximum_step), chunk.maximum),
    ]


def _extremes(points: Sequence[_Point]) -> list[_Point]:
    """Return minimum, maximum and first point that is not finite, each once, in the order of their
    steps."""
    finite = [point for point in points if math.isfinite(point[3])]
    found = [min(finite, key=_value), max(finite, key=_value)] if finite else []
    if len(finite) < len(points):
        found.append(next(point for point in points if not math.isfinite(point[3])))
    if len(found) > 1 and found[0] is found[1]:
        del found[0]
    return sorted(found, key=lambda point: point[:2])


def _value(point: _Point) -> float:
    return point[3]


def _same(one: _Point, other: _Point) -> bool:
    return one[:2] == other[:2] and as_json(one[3]) == as_json(other[3])


def as_json(value: float) -> float | str:
    """Return a number as JSON has it: text for what is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# --- chains of retries


@dataclass(frozen=True)
class Attempt:
    """One run of a chain; ``first_step`` is its first measured step, ``to_step`` the last before a
    later attempt took over."""

    run: Run
    first_step: int | None
    to_step: int | None


def read_chain(run: Run) -> list[Attempt]:
    """Return the runs that ``run`` retries or extends, oldest first, and itself. What a later run
    did again counts from that run, so the whole is the one curve that led to the model."""
    runs = [run]
    while (earlier := runs[-1].retry_of or runs[-1].resume_from) is not None and len(
        runs
    ) < CHAIN_MAX:
        if earlier.trashed_at is not None:
            break
        runs.append(earlier)
    chunks = MetricChunk.objects.filter(series__run__in=runs, number=0)
    first_steps = dict(chunks.values_list("series__run").annotate(first=Min("first_step")))
    attempts: list[Attempt] = []
    taken_over: int | None = None
    for attempt in runs:
        first = first_steps.get(attempt.pk)
        attempts.append(Attempt(attempt, first, None if taken_over is None else taken_over - 1))
        if first is not None:
            taken_over = first if taken_over is None else min(taken_over, first)
    return attempts[::-1]


def curve_slices(
    attempts: Sequence[Attempt],
    name: str,
    *,
    from_step: int | None = None,
    to_step: int | None = None,
) -> list[SeriesSlice]:
    """Return the parts of the curve ``name``, one of each attempt that measured it."""
    series = {
        one.run_id: one
        for one in MetricSeries.objects.filter(run__in=[a.run for a in attempts], name=name)
    }
    found = []
    for attempt in attempts:
        if attempt.run.pk in series:
            limits = [limit for limit in (to_step, attempt.to_step) if limit is not None]
            found.append(SeriesSlice(series[attempt.run.pk], from_step, min(limits, default=None)))
    return found
