"""Sparklines: every spike of a small run, the outline of a large one, nothing where there is
nothing."""

import itertools
import json
import math

import pytest
from pytest_django import DjangoAssertNumQueries

from runs.models import Run
from runs.queries.sparklines import BUCKETS, CHUNKS_READ, draw, read_sparklines
from runs.services.measurements import CHUNK_POINTS, take_in_metrics
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit


def measure(run: Run, values: list[float]) -> None:
    """Store ``values`` as the loss of the steps 0, 1, …"""
    folder = run_folder(run)
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step, value in enumerate(values):
            shown = value if math.isfinite(value) else "NaN"
            file.write(json.dumps({"time": 1.0, "step": step, "values": {"loss": shown}}) + "\n")
    take_in_metrics(run, folder)


def test_the_first_and_last_step_and_the_extremes_touch_the_border() -> None:
    line = [
        tuple(map(float, point.split(",")))
        for point in draw([(5, 1.0), (6, 9.0), (9, 0.5)]).split()
    ]
    assert line == [(1.0, 17.9), (20.5, 1.0), (79.0, 19.0)]


def test_a_spike_among_many_stays() -> None:
    values = [1.0] * 1000
    values[503] = 7.0
    line = draw(list(enumerate(values)))
    assert len(line.split()) <= 2 * BUCKETS
    assert [point.split(",")[1] for point in line.split()].count("1.0") == 1


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(0, math.nan), (1, 2.0)]])
def test_fewer_than_two_numbers_are_no_line(points: list[tuple[float, float]]) -> None:
    assert draw(points) == ""


def test_a_flat_line_is_a_line() -> None:
    assert draw([(0, 2.0), (1, 2.0)]) == "1.0,19.0 79.0,19.0"


@pytest.mark.parametrize("count", [1, 3])
def test_one_query_for_all(
    submit: Submit, django_assert_num_queries: DjangoAssertNumQueries, count: int
) -> None:
    runs = [submit() for _ in range(count)]
    for run in runs:
        measure(run, [3.0, math.nan, 1.0])
    with django_assert_num_queries(1):
        found = read_sparklines(run.pk for run in runs)
    assert found == {run.pk: "1.0,1.0 79.0,19.0" for run in runs}


def test_a_long_run_is_drawn_by_its_chunks(submit: Submit) -> None:
    run = submit()
    measure(run, [10 - step / CHUNK_POINTS for step in range(3 * CHUNK_POINTS)])
    line = [
        tuple(map(float, point.split(","))) for point in read_sparklines([run.pk])[run.pk].split()
    ]
    assert line[0] == (1.0, 1.0)
    assert line[-1] == (79.0, 19.0)
    assert all(one[1] <= two[1] for one, two in itertools.pairwise(line))
    assert CHUNKS_READ > 3
