"""Measurements come from metrics.jsonl into the database: each line once, broken ones passed over,
fast enough."""

import json
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from runs.models import MetricChunk, MetricSeries, Run
from runs.services.measurements import (
    BATCH_BYTES,
    CHUNK_POINTS,
    LINE_MAX_BYTES,
    SERIES_MAX,
    read_line,
    take_in_metrics,
    unpack,
)
from runs.tests.launching import PATIENCE

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(user: User) -> Run:
    return Run.objects.create(dataset_key="d-1", model_id="m", dry_run=True, owner=user)


def line(step: Any, **values: Any) -> str:
    return json.dumps({"time": float(step), "step": step, "epoch": 0.5, "values": values}) + "\n"


def write(folder: Path, *lines: str | bytes) -> None:
    with (folder / "metrics.jsonl").open("ab") as file:
        for each in lines:
            file.write(each if isinstance(each, bytes) else each.encode())


def points(run: Run, name: str) -> list[tuple[int, float, float]]:
    """Everything that is stored of one metric, in its order."""
    found: list[tuple[int, float, float]] = []
    for chunk in MetricChunk.objects.filter(series__run=run, series__name=name).order_by("number"):
        columns = (unpack("q", chunk.steps), unpack("d", chunk.times), unpack("d", chunk.values))
        assert {len(column) for column in columns} == {chunk.count}
        found += list(zip(*columns, strict=True))
    return found


def test_no_file_is_no_news(run: Run, tmp_path: Path):
    assert take_in_metrics(run, tmp_path) == 0


def test_lines_become_points_and_the_runs_own_columns(run: Run, tmp_path: Path):
    write(
        tmp_path,
        json.dumps({"time": 0.5, "plan": {"total_steps": 40}}) + "\n",
        line(1, loss=2.0, lr=0.1),
        line(2, loss=1.5),
    )

    assert take_in_metrics(run, tmp_path) == 3

    assert points(run, "loss") == [(1, 1.0, 2.0), (2, 2.0, 1.5)]
    assert points(run, "lr") == [(1, 1.0, 0.1)]
    for each in (run, Run.objects.get()):
        assert (each.step, each.total_steps, each.last_loss) == (2, 40, 1.5)
        assert each.metrics_offset == (tmp_path / "metrics.jsonl").stat().st_size
    series = MetricSeries.objects.get(name="loss")
    assert (
        series.count,
        series.first,
        series.last,
        series.minimum,
        series.maximum,
        series.last_step,
    ) == (
        2,
        2.0,
        1.5,
        1.5,
        2.0,
        2,
    )


def test_the_same_lines_are_taken_once(run: Run, tmp_path: Path):
    write(tmp_path, line(1, loss=2.0))
    assert take_in_metrics(run, tmp_path) == 1
    assert take_in_metrics(run, tmp_path) == 0
    assert take_in_metrics(Run.objects.get(), tmp_path) == 0

    write(tmp_path, line(2, loss=1.0))
    assert take_in_metrics(Run.objects.get(), tmp_path) == 1
    assert points(run, "loss") == [(1, 1.0, 2.0), (2, 2.0, 1.0)]


def test_a_line_that_is_being_written_waits_for_its_end(run: Run, tmp_path: Path):
    whole = line(1, loss=2.0)
    for length in range(0, len(whole), 7):
        (tmp_path / "metrics.jsonl").write_text(whole[:length])
        assert take_in_metrics(run, tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text(whole)

    assert take_in_metrics(run, tmp_path) == 1


def test_at_the_end_a_last_line_without_its_newline_counts(run: Run, tmp_path: Path):
    write(tmp_path, line(1, loss=2.0), line(2, loss=1.0).rstrip("\n"))

    assert take_in_metrics(run, tmp_path) == 1
    assert take_in_metrics(run, tmp_path, to_the_end=True) == 1
    assert take_in_metrics(run, tmp_path, to_the_end=True) == 0


VALUES_BEGIN = b'{"step": 1, "values": '
BROKEN = [
    b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"\x00", b'{"step": 1}',
    b'{"step": 1, "values": []}', b'{"step": "1", "values": {"loss": 1}}',
    b'{"step": true, "values": {"loss": 1}}', b'{"step": -1, "values": {"loss": 1}}',
    b'{"step": 2147483648, "values": {"loss": 1}}', b'{"step": 1.5, "values": {"loss": 1}}',
    b'{"values": {"loss": 1}}', VALUES_BEGIN + b'{"loss": "2"}}', VALUES_BEGIN + b'{"loss": null}}',
    VALUES_BEGIN + b'{"loss": true}}', VALUES_BEGIN + b'{"loss": [1]}}', VALUES_BEGIN + b'{"": 1}}',
    VALUES_BEGIN + b'{"a\\u0000": 1}}', VALUES_BEGIN + b'{"' + b"n" * 129 + b'": 1}}',
    VALUES_BEGIN + b'{"loss": NaN}}', VALUES_BEGIN + b'{"loss": 1e999}}',
    VALUES_BEGIN + b'{"\\ud800": 1}}', b'{"plan": 7}', b'{"plan": {"total_steps": "9"}}',
    b'{"plan": {"total_steps": -9}}', b"x" * 70_000, b"x" * (BATCH_BYTES + 100),
]  # fmt: skip


def test_a_broken_line_is_passed_over_and_the_rest_is_taken(run: Run, tmp_path: Path):
    for number, broken in enumerate(BROKEN):
        write(tmp_path, line(2 * number, loss=2.0), broken + b"\n", line(2 * number + 1, loss=1.0))
        assert take_in_metrics(run, tmp_path) == 2, broken[:80]

    assert [step for step, _, _ in points(run, "loss")] == list(range(2 * len(BROKEN)))
    assert run.total_steps is None


def test_a_time_that_is_none_is_zero(run: Run, tmp_path: Path):
    write(tmp_path, '{"step": 3, "time": "late", "values": {"loss": 1}}\n')
    take_in_metrics(run, tmp_path)

    assert points(run, "loss") == [(3, 0.0, 1.0)]


def test_values_that_are_not_finite_are_kept_and_summed_up_apart(run: Run, tmp_path: Path):
    write(
        tmp_path,
        line(1, loss="NaN"),
        line(2, loss=3),
        line(3, loss="Infinity"),
        line(4, loss=1),
        line(5, loss="-Infinity"),
    )

    assert take_in_metrics(run, tmp_path) == 5

    values = [value for _, _, value in points(run, "loss")]
    assert math.isnan(values[0])
    assert values[1:] == [3.0, math.inf, 1.0, -math.inf]
    series = MetricSeries.objects.get()
    assert (series.first, series.last, series.minimum, series.maximum) == (None, None, 1.0, 3.0)
    chunk = MetricChunk.objects.get()
    assert (
        chunk.not_finite,
        chunk.minimum,
        chunk.minimum_step,
        chunk.maximum,
        chunk.maximum_step,
    ) == (3, 1.0, 4, 3.0, 2)
    assert (run.last_loss, run.step) == (None, 5)


def test_only_what_is_not_finite_has_no_least_and_no_greatest(run: Run, tmp_path: Path):
    write(tmp_path, line(1, loss="NaN"))
    take_in_metrics(run, tmp_path)

    series = MetricSeries.objects.get()
    assert (series.minimum, series.maximum) == (None, None)


@pytest.mark.parametrize("batches", [[1], [1023, 1, 1], [1024], [1025], [500, 600, 1000], [3000]])
def test_chunks_are_filled_one_after_the_other(run: Run, tmp_path: Path, batches: list[int]):
    step = 0
    for count in batches:
        write(
            tmp_path, *(line(step + number, loss=float(-step - number)) for number in range(count))
        )
        step += count
        take_in_metrics(run, tmp_path)

    assert points(run, "loss") == [
        (number, float(number), float(-number)) for number in range(step)
    ]
    sizes = list(
        MetricChunk.objects.order_by("number").values_list(
            "number", "count", "first_step", "last_step"
        )
    )
    expected = [
        (number, min(CHUNK_POINTS, step - start), start, min(start + CHUNK_POINTS, step) - 1)
        for number, start in enumerate(range(0, step, CHUNK_POINTS))
    ]
    assert sizes == expected
    series = MetricSeries.objects.get()
    assert (series.count, series.first, series.last, series.minimum) == (
        step,
        0.0,
        1.0 - step,
        1.0 - step,
    )


def test_a_resumed_training_may_count_again_from_its_checkpoint(run: Run, tmp_path: Path):
    write(tmp_path, line(1, loss=3.0), line(2, loss=2.0), line(2, loss=2.5))
    take_in_metrics(run, tmp_path)

    assert [step for step, _, _ in points(run, "loss")] == [1, 2, 2]


def test_a_flood_of_names_is_bounded(run: Run, tmp_path: Path):
    write(
        tmp_path,
        *(
            line(1, **{f"m{start + number}": 1.0 for number in range(100)})
            for start in range(0, 500, 100)
        ),
    )
    take_in_metrics(run, tmp_path)

    assert MetricSeries.objects.count() == SERIES_MAX


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_read(run: Run, tmp_path: Path, kind: str):
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "elsewhere").write_text(line(1, loss=1.0))
    {
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }[kind]()

    assert take_in_metrics(run, tmp_path) == 0


def test_a_file_that_was_cut_is_no_error(run: Run, tmp_path: Path):
    write(tmp_path, line(1, loss=1.0), line(2, loss=1.0))
    take_in_metrics(run, tmp_path)
    (tmp_path / "metrics.jsonl").write_text(line(3, loss=1.0))

    assert take_in_metrics(run, tmp_path, to_the_end=True) == 0


@pytest.mark.django_db(transaction=True)
def test_several_takers_at_the_same_moment_take_each_line_once(run: Run, tmp_path: Path):
    rounds, takers = 5, 4
    barrier = threading.Barrier(takers, timeout=PATIENCE)

    def take(_: int) -> int:
        taken = 0
        own = Run.objects.get(pk=run.pk)
        try:
            for each in range(rounds):
                if barrier.wait() == 0:
                    write(
                        tmp_path,
                        *(line(each * 400 + number, loss=1.0, lr=0.5) for number in range(400)),
                    )
                barrier.wait()
                taken += take_in_metrics(own, tmp_path)
            return taken
        finally:
            connection.close()

    with ThreadPoolExecutor(takers) as pool:
        taken = sum(pool.map(take, range(takers)))

    assert taken == 2 * 400 * rounds
    for name in ("loss", "lr"):
        assert [step for step, _, _ in points(run, name)] == list(range(400 * rounds))


def test_a_hundred_thousand_points_take_a_bounded_number_of_queries(
    run: Run, tmp_path: Path, django_assert_max_num_queries: Callable[..., Any]
):
    count = 20_000
    write(
        tmp_path,
        *(
            line(step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=5, tokens_per_second=7.5)
            for step in range(count)
        ),
    )

    with django_assert_max_num_queries(100):
        assert take_in_metrics(run, tmp_path) == 5 * count
    assert MetricSeries.objects.get(name="loss").count == count
    assert run.metrics_offset == (tmp_path / "metrics.jsonl").stat().st_size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "step": json_values,
        "time": json_values,
        "values": st.dictionaries(st.text(max_size=6), json_values),
        "plan": json_values,
    },
)


@effort(max_examples=40)
@given(
    lines=st.lists(
        records.map(lambda record: json.dumps(record).encode()) | st.binary(max_size=40), max_size=6
    )
)
def test_any_lines_are_taken_without_an_error(
    run: Run, tmp_path: Path, lines: list[bytes], make_empty: Callable[[], None]
):
    make_empty()
    write(tmp_path, *(each + b"\n" for each in lines))

    take_in_metrics(run, tmp_path, to_the_end=True)

    assert run.metrics_offset == (tmp_path / "metrics.jsonl").stat().st_size


@pytest.fixture
def make_empty(run: Run, tmp_path: Path) -> Callable[[], None]:
    """Begin again with an empty file."""

    def empty() -> None:
        (tmp_path / "metrics.jsonl").write_bytes(b"")
        Run.objects.update(metrics_offset=0)
        run.metrics_offset = 0

    return empty


def test_a_line_of_metrics_that_is_too_long_is_passed_over() -> None:
    line = b'{"step": 1, "values": {"loss": 1}}'
    assert read_line(line) is not None
    assert read_line(line.ljust(LINE_MAX_BYTES)) is not None
    assert read_line(line.ljust(LINE_MAX_BYTES + 1)) is None
