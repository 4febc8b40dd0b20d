"""The filter language: what it reads, where it is wrong, what it finds, and what finding costs."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from runs.models import Run, RunTag
from runs.queries.filters import (
    NAMES,
    condition,
    different_values,
    parse,
    split_terms,
)
from tunixrt.terms import FilterError, Term

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MakeRun = Callable[..., Run]


@pytest.fixture
def make(user: User) -> MakeRun:
    """Stores an ended run."""

    def create(tags: tuple[str, ...] = (), **fields: Any) -> Run:
        values = {
            "dataset_key": "sums-v1", "model_id": "preset:tiny-llama", "dry_run": True,
            "owner": user, "status": "failed", "completed_at": NOON, "started_at": NOON,
            "created_at": NOON,
        }  # fmt: skip
        run = Run.objects.create(**values | fields)
        RunTag.objects.bulk_create(RunTag.of(run, tags))
        return run

    return create


def found(text: str, by: User) -> set[Run]:
    return set(Run.objects.filter(condition(parse(text), by=by)))


# --- reading


def test_reads_words_quotes_names_and_ranges() -> None:
    assert parse('  gemma "two  words" status:failed,active loss<=1.5 tag:"a \\"b\\"" ') == [
        Term("", ":", "gemma"),
        Term("", ":", "two  words"),
        Term("status", ":", ("failed", "pending", "running", "cancelling")),
        Term("loss", "<=", 1.5),
        Term("tag", ":", 'a "b"'),
    ]


def test_names_have_no_case_and_models_by_preset_need_no_quotes() -> None:
    assert parse("Mode:LOCAL Kind:SFT preset:tiny-llama model:preset:tiny-llama") == [
        Term("mode", ":", "local"),
        Term("kind", ":", "sft"),
        Term("", ":", "preset:tiny-llama"),
        Term("model", ":", "preset:tiny-llama"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("5m", 300), ("1.5h", 5400), ("250ms", 0.25), ("2d", 172800)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse(f"duration>{text}") == [Term("duration", ">", seconds)]


def test_moments_are_dates_or_ages() -> None:
    assert parse("after:2026-03-01") == [Term("after", ":", datetime(2026, 3, 1, tzinfo=UTC))]
    assert parse("before:2026-03-01T13:00:00+01:00")[0].value == NOON
    assert abs(parse("after:24h")[0].value - (timezone.now() - timedelta(days=1))) < timedelta(
        seconds=10
    )
    today, week, month = (parse(f"after:{word}")[0].value for word in ("today", "week", "month"))
    assert (today.hour, today.minute, week.weekday(), month.day) == (0, 0, 0, 1)
    assert parse("after:yesterday")[0].value == today - timedelta(days=1)
    assert week <= today < week + timedelta(days=7)


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("llama statsu:failed", 6, "'statsu' is no filter"),
        ("status:failde", 7, "'failde' is no status"),
        ("x  status:failed,gone", 10, "'gone' is no status"),
        ("status<failed", 6, "status takes : ="),
        ("loss<small", 5, "'small' is no number"),
        ("loss<nan", 5, "is no number"),
        ("loss>1e999", 5, "is no number"),
        ("step>1.5", 5, "is no whole number"),
        ("step>99999999999", 5, "is no whole number"),
        ("tag:", 4, "a value is missing"),
        ("tag: x", 4, "a value is missing"),
        ('tag:""', 4, "a value is missing"),
        ('one "two', 4, "never closed"),
        ("after:soon", 6, "is no date"),
        ("after:99999999d", 6, "is no date"),
        ("mode:fast", 5, "is no mode"),
        ("kind:dpo", 5, "'dpo' is no kind. There are sft, evaluate."),
    ],
)
def test_a_mistake_is_pointed_at(text: str, position: int, said: str) -> None:
    with pytest.raises(FilterError) as error:
        parse(text)
    assert error.value.position == position
    assert said in error.value.problem
    assert str(error.value).startswith(f"Character {position + 1}: ")


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(sorted(NAMES) + list(':<>="\\ a1é\u2003'))).map("".join)
)
def test_any_text_is_read_or_refused_inside_itself(text: str) -> None:
    try:
        anything = bool(parse(text))
    except FilterError as refusal:
        anything = 0 <= refusal.position <= len(text)
    assert anything == bool(text.strip())


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.strip()))
def test_quoted_text_is_itself(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'"{escaped}"') == [Term("", ":", text)]


def test_terms_are_split_as_they_were_typed() -> None:
    text = (
        '  gemma  note:"x  after:7d"   after:24h "two  words" loss<1 note:"never closed after:7d '
    )
    assert split_terms(text) == [
        "gemma", 'note:"x  after:7d"', "after:24h", '"two  words"', "loss<1",
        'note:"never closed after:7d',
    ]  # fmt: skip


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(sorted(NAMES) + list(':<>="\\ a1é\u2003'))).map("".join)
)
def test_any_text_is_split_and_means_the_same(text: str) -> None:
    again = " ".join(split_terms(text))
    try:
        read = parse(text)
    except FilterError:
        with pytest.raises(FilterError):
            parse(again)
        return
    if not any(isinstance(term.value, datetime) for term in read):
        assert parse(again) == read


# --- finding


@pytest.mark.parametrize(
    "text",
    [
        "status:timeout", "status:timeout,running", "mode:local", "dataset:GSM", "model:gemma",
        "tag:sweep-3", "owner:me", "owner:keeper-of-the-house", "note:paper", "note:memory",
        "after:2026-03-02", "loss<1", "loss<=0.5", "loss:0.5", "duration>60", "duration>=2m",
        "step>10", "step:300", "gemma", "GSM8K", "sweep-3", "gemma sweep-3 loss<1",
        '"google/gemma 2b"', "owner:me status:ended",
    ],
)  # fmt: skip
def test_finds_the_one_that_is_meant(make: MakeRun, staff: User, text: str) -> None:
    make(created_at=NOON - timedelta(days=9), last_loss=2.0, duration_seconds=5, step=4)
    make(tags=("sweep",), created_at=NOON - timedelta(days=9))
    wanted = make(
        ("sweep-3", "other"), dataset_key="gsm8k-v1", model_id="google/gemma 2b", dry_run=False,
        status="timeout", owner=staff, notes="as in the paper", message="out of memory",
        created_at=NOON + timedelta(days=2), last_loss=0.5, duration_seconds=120, step=300,
    )  # fmt: skip
    assert found(text, staff) == {wanted}


def test_the_rest_of_the_names(make: MakeRun, user: User) -> None:
    old, new = make(created_at=NOON - timedelta(days=9)), make()
    assert found("before:2026-03-01", user) == {old}
    assert found("", user) == {old, new}
    assert found("status:active", user) == set()
    assert found(str(new.pk)[:8], user) == {new}
    assert found(str(new.pk).upper(), user) == {new}


@pytest.mark.django_db
def test_a_word_that_no_name_holds_reads_no_run(
    user: User, make: MakeRun, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make()
    with django_assert_num_queries(2):  # the names of datasets and of models
        wanted = condition(parse("model:nowhere dataset:nowhere"), by=user)
    with django_assert_num_queries(0):
        assert list(Run.objects.filter(wanted)) == []


def test_a_part_of_one_name_is_answered_by_the_index_of_that_name(
    make: MakeRun, user: User
) -> None:
    make(model_id="google/gemma-2b-it")
    wanted = Run.objects.visible().listed().newest_first()
    wanted = wanted.filter(condition(parse("model:gemma"), by=user))
    if connection.vendor == "sqlite":
        assert "ix_tunix_runs_model_newest" in wanted.explain()
        assert "TEMP B-TREE" not in wanted.explain()
    assert wanted.count() == 1


def test_more_names_than_a_query_lists(
    make: MakeRun, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {make(model_id=f"gemma-{number}") for number in range(4)}
    make()
    monkeypatch.setattr("runs.queries.filters.MATCHES_MAX", 3)
    assert found("model:GEMMA", user) == runs
    monkeypatch.setattr("runs.queries.filters.NAMES_MAX", 2)
    assert found("model:mma-2", user) == {run for run in runs if run.model_id == "gemma-2"}


def test_different_values_are_each_there_once(make: MakeRun) -> None:
    for name in ("b", "a", "b", "ä", "B"):
        make(dataset_key=name)
    assert sorted(different_values("dataset_key", 10)) == ["B", "a", "b", "ä"]
    assert len(different_values("dataset_key", 2)) == 2


# --- in the API


def test_the_api_takes_the_same_language(api: APIClient, make: MakeRun) -> None:
    wanted = make(last_loss=0.5)
    make(last_loss=3.0)
    answer = api.get("/api/tunix/runs", {"q": "status:failed owner:me loss<1.5"}).json()
    assert [row["run_id"] for row in answer["data"]] == [str(wanted.pk)]


def test_the_api_names_the_character(api: APIClient) -> None:
    response = api.get("/api/tunix/runs", {"q": "llama status:failde"})
    assert response.status_code == 422
    assert response.json()["q"][0].startswith("Character 14: 'failde' is no status.")
