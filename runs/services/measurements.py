"""Load metrics.jsonl into the database in batches, each line exactly once."""

import array
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import orjson
from django.db import transaction

from runs.models import MetricChunk, MetricSeries, Run
from runs.runfolder import files, names

CHUNK_POINTS = 1024
BATCH_BYTES = 1 << 20
LINE_MAX_BYTES = 1 << 16
NAME_MAX_LENGTH = 128
SERIES_MAX = 200

_NAMED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
Point = tuple[int, float, float]  # step, time, value


def take_in_metrics(run: Run, folder: Path, *, to_the_end: bool = False) -> int:
    """Record the new lines of metrics.jsonl; return the number of points. Points and cursor are one
    transaction, so each line is recorded exactly once, even if a process is killed. ``to_the_end``
    also takes a last line without its newline."""
    taken = 0
    while (
        batch := _read_batch(folder / names.METRICS, run.metrics_offset, to_the_end)
    ) is not None:
        lines, offset = batch
        points, news = _parse(lines)
        with transaction.atomic():
            guard = Run.objects.filter(pk=run.pk, metrics_offset=run.metrics_offset)
            if guard.update(metrics_offset=offset, **news) != 1:
                run.refresh_from_db(fields=["metrics_offset"])  # another process recorded them
                continue
            for name, series in points.items():
                _append(run, name, series)
        run.metrics_offset = offset
        for name, value in news.items():
            setattr(run, name, value)
        taken += sum(map(len, points.values()))
    return taken


def _read_batch(path: Path, offset: int, to_the_end: bool) -> tuple[list[bytes], int] | None:
    """Return whole lines from ``offset`` and the offset after them, or None if there are none."""
    try:
        descriptor = files.open_regular(path)
    except (OSError, files.BrokenFile):
        # not there, or nothing that a trainer's metrics could be: no reason to keep the run from
        # its end
        return None
    with open(descriptor, "rb") as file:
        file.seek(offset)
        data = file.read(BATCH_BYTES)
    end = data.rfind(b"\n") + 1
    # a last line cut off by a kill, or one that never ends
    if end == 0 and (to_the_end or len(data) == BATCH_BYTES):
        end = len(data)
    return (data[:end].split(b"\n"), offset + end) if end else None


def _parse(lines: Iterable[bytes]) -> tuple[dict[str, list[Point]], dict[str, Any]]:
    """Return ``(points by name, columns of the run)``. Skip lines that cannot be read: the log has
    them still."""
    points: dict[str, list[Point]] = defaultdict(list)
    news: dict[str, Any] = {}
    for record in filter(None, map(read_line, lines)):
        if "total_steps" in record.plan:
            news["total_steps"] = record.plan["total_steps"]
        for name, value in record.values.items():
            points[name].append((record.step, record.time, value))
        if "loss" in record.values:
            news["last_loss"] = _finite(record.values["loss"])
            news["step"] = record.step
    return points, news


@dataclass(frozen=True)
class Record:
    """A line of metrics.jsonl: what the training is going to do (``plan``: counts by name), or
    values of a step."""

    time: float
    step: int
    epoch: float | None
    values: dict[str, float]
    plan: dict[str, int]


def read_line(line: bytes) -> Record | None:
    """Return the record of one line without its invalid values; None if none is valid."""
    if not line or len(line) > LINE_MAX_BYTES:
        return None
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(raw, dict):
        return None
    plan, values, step = raw.get("plan"), raw.get("values"), raw.get("step")
    counts = (
        {name: count for name, count in plan.items() if _is_count(count)}
        if isinstance(plan, dict)
        else {}
    )
    numbers: dict[str, float] = {}
    at = 0
    if _is_count(step) and isinstance(values, dict):
        at = step
        for name, value in values.items():
            number = _as_float(value)
            if number is not None and 1 <= len(name) <= NAME_MAX_LENGTH and "\x00" not in name:
                numbers[name] = number
    if not counts and not numbers:
        return None
    return Record(
        _as_float(raw.get("time")) or 0.0, at, _as_float(raw.get("epoch")), numbers, counts
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _as_float(value: Any) -> float | None:
    if isinstance(value, str):
        return _NAMED_FLOATS.get(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _append(run: Run, name: str, points: list[Point]) -> None:
    series = MetricSeries.objects.filter(run=run, name=name).first()
    if series is None:
        if MetricSeries.objects.filter(run=run).count() >= SERIES_MAX:
            return
        series = MetricSeries(run=run, name=name, first=_finite(points[0][2]))
        series.save()
    chunk = series.chunks.order_by("-number").first()
    rest = points
    if chunk is not None and chunk.count < CHUNK_POINTS:
        room = CHUNK_POINTS - chunk.count
        _fill(chunk, rest[:room])
        chunk.save()
        rest = rest[room:]
    number = chunk.number + 1 if chunk is not None else 0
    new: list[MetricChunk] = []
    for start in range(0, len(rest), CHUNK_POINTS):
        fresh = MetricChunk(
            series=series,
            number=number + len(new),
            count=0,
            first_step=0,
            last_step=0,
            steps=b"",
            times=b"",
            values=b"",
        )
        _fill(fresh, rest[start : start + CHUNK_POINTS])
        new.append(fresh)
    MetricChunk.objects.bulk_create(new)
    finite = [value for _, _, value in points if math.isfinite(value)]
    series.count += len(points)
    series.last = _finite(points[-1][2])
    series.last_step = points[-1][0]
    series.minimum = min([*finite, *_known(series.minimum)], default=None)
    series.maximum = max([*finite, *_known(series.maximum)], default=None)
    series.save(update_fields=["count", "last", "last_step", "minimum", "maximum"])


def _fill(chunk: MetricChunk, points: list[Point]) -> None:
    """Add points to a chunk that has room for them."""
    chunk.steps = bytes(chunk.steps) + _pack("q", [step for step, _, _ in points])
    chunk.times = bytes(chunk.times) + _pack("d", [time for _, time, _ in points])
    chunk.values = bytes(chunk.values) + _pack("d", [value for _, _, value in points])
    if chunk.count == 0:
        chunk.first_step = points[0][0]
    chunk.last_step = points[-1][0]
    chunk.count += len(points)
    for step, _, value in points:
        if not math.isfinite(value):
            chunk.not_finite += 1
            continue
        if chunk.minimum is None or value < chunk.minimum:
            chunk.minimum, chunk.minimum_step = value, step
        if chunk.maximum is None or value > chunk.maximum:
            chunk.maximum, chunk.maximum_step = value, step


def _pack(kind: str, numbers: list[Any]) -> bytes:
    packed = array.array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(kind: str, data: bytes) -> "array.array[Any]":
    """Return the numbers of a chunk's column: ``q`` for steps, ``d`` for times and values."""
    numbers = array.array(kind)
    numbers.frombytes(bytes(data))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(value: float | None) -> list[float]:
    return [] if value is None else [value]
