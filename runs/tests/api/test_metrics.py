"""GET …/metrics: curves in which nothing that stands out is lost."""

import json
import math
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.models import MetricChunk, MetricSeries, Run, RunStatus
from runs.services.measurements import CHUNK_POINTS, _pack
from runs.tests.leftovers import make_run, measured, take_in

HOSTILE = "<img src=x onerror=alert(1)>"


def get(api: APIClient, run: Run, query: str = "") -> dict[str, Any]:
    answer = api.get(f"/api/tunix/runs/{run.run_id}/metrics{query}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def curve(api: APIClient, run: Run, query: str) -> list[tuple[int, Any]]:
    (found,) = get(api, run, query)["data"]
    assert len(found["steps"]) == len(found["times"]) == len(found["values"])
    return list(zip(found["steps"], found["values"], strict=True))


def store(run: Run, name: str, values: array) -> MetricSeries:
    """As many points as one likes, as the intake leaves them: chunks with their extremes. Step and
    time count from 1."""
    series = MetricSeries.objects.create(
        run=run, name=name, count=len(values), last_step=len(values)
    )
    chunks = []
    for number, start in enumerate(range(0, len(values), CHUNK_POINTS)):
        part = values[start : start + CHUNK_POINTS]
        steps = range(start + 1, start + len(part) + 1)
        finite = [
            (value, step) for step, value in zip(steps, part, strict=True) if math.isfinite(value)
        ]
        low, high = (min(finite), max(finite)) if finite else ((None, None), (None, None))
        chunks.append(
            MetricChunk(
                series=series,
                number=number,
                count=len(part),
                first_step=steps[0],
                last_step=steps[-1],
                minimum=low[0],
                minimum_step=low[1],
                maximum=high[0],
                maximum_step=high[1],
                not_finite=len(part) - len(finite),
                steps=_pack("q", list(steps)),
                times=_pack("d", [float(step) for step in steps]),
                values=_pack("d", list(part)),
            )
        )
    MetricChunk.objects.bulk_create(chunks, batch_size=100)
    return series


def noise(count: int) -> array:
    source = random.Random(7)
    return array("d", (source.random() for _ in range(count)))


def test_series_with_what_one_wants_to_know_first(api: APIClient, user: User):
    run = make_run(user)
    take_in(
        run,
        measured(1, loss=3.5, learning_rate=0.1),
        measured(2, loss="NaN"),
        measured(3, loss=1.5),
        measured(3, eval_loss=2),
    )

    answer = get(api, run)

    assert answer["run_id"] == str(run.run_id)
    assert answer["metrics_offset"] == run.metrics_offset
    assert answer["data"] == [
        {
            "name": "eval_loss",
            "count": 1,
            "first": 2.0,
            "last": 2.0,
            "minimum": 2.0,
            "maximum": 2.0,
            "last_step": 3,
        },
        {
            "name": "learning_rate",
            "count": 1,
            "first": 0.1,
            "last": 0.1,
            "minimum": 0.1,
            "maximum": 0.1,
            "last_step": 1,
        },
        {
            "name": "loss",
            "count": 3,
            "first": 3.5,
            "last": 1.5,
            "minimum": 1.5,
            "maximum": 3.5,
            "last_step": 3,
        },
    ]


def test_few_points_are_all_there(api: APIClient, user: User):
    run = make_run(user)
    take_in(run, *(measured(step, time=100.0 + step, loss=step / 2) for step in range(1, 501)))

    (found,) = get(api, run, "?name=loss")["data"]

    assert found == {
        "name": "loss",
        "count": 500,
        "bucket": 1,
        "steps": list(range(1, 501)),
        "times": [100.0 + step for step in range(1, 501)],
        "values": [step / 2 for step in range(1, 501)],
    }


def test_what_json_has_no_word_for_is_said_in_words(api: APIClient, user: User):
    run = make_run(user)
    take_in(
        run,
        measured(1, loss="NaN"),
        measured(2, loss="Infinity"),
        measured(3, loss="-Infinity"),
        measured(4, loss=1),
    )

    assert curve(api, run, "?name=loss") == [
        (1, "NaN"),
        (2, "Infinity"),
        (3, "-Infinity"),
        (4, 1.0),
    ]


@pytest.mark.parametrize("points", [10, 11, 50, 499, 500, 1999, 5000])
@pytest.mark.parametrize("count", [5001, 20_000, 70_001])
def test_fewer_points_show_every_spike(api: APIClient, user: User, count: int, points: int):
    values = noise(count)
    values[1234], values[4321] = 99.0, -99.0
    run = make_run(user)
    store(run, "loss", values)

    found = curve(api, run, f"?name=loss&points={points}")

    assert len(found) <= points
    assert (1235, 99.0) in found and (4322, -99.0) in found
    assert (found[0][0], found[-1]) == (1, (count, values[-1]))
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert all(values[step - 1] == value for step, value in found), "no value is made up"
    assert found == curve(api, run, f"?name=loss&points={points}"), "the same answer every time"


@pytest.mark.parametrize("points", [10, 500, 5000])
def test_every_bucket_shows_its_extremes(api: APIClient, user: User, points: int):
    values = noise(30_000)
    run = make_run(user)
    store(run, "loss", values)

    (answer,) = get(api, run, f"?name=loss&points={points}")["data"]
    shown = dict(zip(answer["steps"], answer["values"], strict=True))

    for start in range(0, len(values), answer["bucket"]):
        part = values[start : start + answer["bucket"]]
        assert shown[start + part.index(min(part)) + 1] == min(part)
        assert shown[start + part.index(max(part)) + 1] == max(part)


@pytest.mark.parametrize("points", [10, 300, 5000])
def test_not_a_number_stays_visible(api: APIClient, user: User, points: int):
    values = noise(30_000)
    values[7777], values[20_000], values[29_999] = math.nan, math.inf, -math.inf
    run = make_run(user)
    store(run, "loss", values)

    found = curve(api, run, f"?name=loss&points={points}")

    assert len(found) <= points
    shown = [(step, value) for step, value in found if isinstance(value, str)]
    assert (7778, "NaN") in shown
    assert shown[-1] == (30_000, "-Infinity")
    if points >= 300:
        assert (20_001, "Infinity") in shown


def test_a_series_of_nothing_but_nan(api: APIClient, user: User):
    run = make_run(user)
    store(run, "loss", array("d", [math.nan] * 20_000))

    found = curve(api, run, "?name=loss&points=30")

    assert found[0] == (1, "NaN") and found[-1] == (20_000, "NaN")
    assert len(found) <= 30


def test_times_of_summed_up_points_are_near_the_truth(api: APIClient, user: User):
    run = make_run(user)
    store(run, "loss", noise(200_000))

    (found,) = get(api, run, "?name=loss&points=50")["data"]

    assert found["bucket"] >= CHUNK_POINTS
    assert found["times"] == pytest.approx([float(step) for step in found["steps"]])


def test_a_zoom_is_a_finer_look_at_the_same(api: APIClient, user: User):
    values = noise(50_000)
    run = make_run(user)
    store(run, "loss", values)

    assert curve(api, run, "?name=loss&from_step=2000&to_step=2003") == [
        (step, values[step - 1]) for step in range(2000, 2004)
    ]
    part = curve(api, run, "?name=loss&points=100&from_step=1000&to_step=40000")
    assert (part[0][0], part[-1][0]) == (1000, 40_000)
    assert len(part) <= 100
    assert min(value for _, value in part) == min(values[999:40_000])
    assert max(value for _, value in part) == max(values[999:40_000])
    assert curve(api, run, "?name=loss&from_step=49999") == [
        (49_999, values[49_998]),
        (50_000, values[49_999]),
    ]
    assert curve(api, run, "?name=loss&to_step=1") == [(1, values[0])]
    assert curve(api, run, "?name=loss&from_step=60000") == []


def test_several_names_in_one_answer(api: APIClient, user: User):
    run = make_run(user)
    take_in(run, measured(1, loss=1, grad_norm=2))

    assert [
        found["name"] for found in get(api, run, "?name=loss&name=grad_norm&name=loss")["data"]
    ] == ["loss", "grad_norm"]


def test_a_name_may_be_anything_and_does_nothing(api: APIClient, user: User):
    run = make_run(user)
    take_in(run, measured(1, **{HOSTILE: 1.0, "ünï 🙂/?&=": 2.0}))

    assert [series["name"] for series in get(api, run)["data"]] == [HOSTILE, "ünï 🙂/?&="]
    answer = api.get(f"/api/tunix/runs/{run.run_id}/metrics", {"name": HOSTILE})
    assert answer.json()["data"][0]["values"] == [1.0]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("points=9", "points"),
        ("points=5001", "points"),
        ("points=x", "points"),
        ("from_step=-1", "from_step"),
        ("from_step=3&to_step=2", "from_step"),
        ("to_step=1e3", "to_step"),
        ("chain=2", "chain"),
        ("name=" + "x" * 129, "name"),
        ("name=a%00b", "name"),
        ("&".join(f"name={number}" for number in range(51)), "name"),
        ("smooth=1", "smooth"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    api: APIClient, user: User, query: str, parameter: str
):
    answer = api.get(f"/api/tunix/runs/{make_run(user).run_id}/metrics?{query}")

    assert answer.status_code == 422
    assert list(answer.json()) == ["detail", parameter]


def test_an_unknown_metric_is_named(api: APIClient, user: User):
    run = make_run(user)
    assert get(api, run)["data"] == []

    answer = api.get(f"/api/tunix/runs/{run.run_id}/metrics?name=accuracy")

    assert (answer.status_code, answer.json()) == (
        404,
        {"detail": "This run has no metric 'accuracy'."},
    )


def test_broken_lines_cost_nothing_but_themselves(api: APIClient, user: User):
    run = make_run(user)
    take_in(
        run,
        measured(1, loss=1),
        b"{half\n",
        b'{"step": 2, "values": {"loss": NaN}}\n',
        b"\xff\xfe\n",
        measured(3, loss=3),
    )

    assert curve(api, run, "?name=loss") == [(1, 1.0), (3, 3.0)]
    assert get(api, run)["metrics_offset"] == sum(
        map(len, (measured(1, loss=1), b"{half\n", b"\xff\xfe\n", measured(3, loss=3)))
    ) + len(b'{"step": 2, "values": {"loss": NaN}}\n')


# --- chains of retries


def test_a_chain_of_retries_is_one_curve(api: APIClient, user: User):
    first = make_run(user, status=RunStatus.FAILED)
    take_in(first, *(measured(step, loss=100 + step) for step in range(1, 9)))
    second = make_run(user, status=RunStatus.FAILED, retry_of=first, attempt=2)
    take_in(second, *(measured(step, loss=200 + step) for step in range(5, 12)))
    third = make_run(user, retry_of=second, attempt=3)
    take_in(
        third,
        *(measured(step, loss=300 + step) for step in range(10, 13)),
        measured(12, eval_loss=1),
    )

    answer = get(api, third, "?name=loss&chain=1")

    (found,) = answer["data"]
    assert found["steps"] == list(range(1, 13))
    assert found["values"] == [101, 102, 103, 104, 205, 206, 207, 208, 209, 310, 311, 312]
    assert answer["attempts"] == [
        {
            "run_id": str(first.run_id),
            "name": first.name,
            "attempt": 1,
            "status": "failed",
            "first_step": 1,
            "to_step": 4,
        },
        {
            "run_id": str(second.run_id),
            "name": second.name,
            "attempt": 2,
            "status": "failed",
            "first_step": 5,
            "to_step": 9,
        },
        {
            "run_id": str(third.run_id),
            "name": third.name,
            "attempt": 3,
            "status": "running",
            "first_step": 10,
            "to_step": None,
        },
    ]
    assert [series["name"] for series in get(api, third, "?chain=1")["data"]] == [
        "eval_loss",
        "loss",
    ]
    assert curve(api, third, "?name=loss") == [(10, 310.0), (11, 311.0), (12, 312.0)]
    assert curve(api, third, "?name=loss&chain=1&from_step=4&to_step=5") == [(4, 104.0), (5, 205.0)]
    assert curve(api, third, "?name=loss&chain=1&points=10")[0] == (1, 101.0)


def test_a_retry_from_scratch_and_one_that_has_measured_nothing(api: APIClient, user: User):
    first = make_run(user, status=RunStatus.FAILED)
    take_in(first, measured(1, loss=1), measured(2, loss=2))
    scratch = make_run(user, status=RunStatus.FAILED, retry_of=first, attempt=2)
    take_in(scratch, measured(1, loss=11))
    waiting = make_run(user, status=RunStatus.PENDING, retry_of=scratch, attempt=3)

    assert curve(api, waiting, "?name=loss&chain=1") == [(1, 11.0)]
    assert [attempt["first_step"] for attempt in get(api, waiting, "?chain=1")["attempts"]] == [
        1,
        1,
        None,
    ]


# --- size


def test_a_million_points_are_answered_at_once(api: APIClient, user: User):
    run = make_run(user)
    values = noise(1_000_000)
    values[654_321] = 50.0
    store(run, "loss", values)
    get(api, run, "?name=loss")

    for points in (500, 5000):
        assert (654_322, 50.0) in curve(api, run, f"?name=loss&points={points}")


def test_stored_as_the_intake_stores(api: APIClient, user: User, tmp_path: Path):
    """The tests above put chunks into the database themselves: they must be those of the intake."""
    values = noise(3000)
    stored, taken = make_run(user), make_run(user)
    store(stored, "loss", values)
    take_in(
        taken,
        *(
            json.dumps({"time": step, "step": step, "values": {"loss": value}}).encode() + b"\n"
            for step, value in enumerate(values, 1)
        ),
    )

    for points in (10, 500, 5000):
        assert curve(api, stored, f"?name=loss&points={points}") == curve(
            api, taken, f"?name=loss&points={points}"
        )
