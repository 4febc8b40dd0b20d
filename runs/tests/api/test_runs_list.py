"""GET /api/tunix/runs: newest first, filtered, in pages that never repeat or skip."""

import base64
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from runs.models import Run, RunStatus, RunTag
from runs.queries import pages
from runs.queries.selection import Selection, parse_moment

pytestmark = pytest.mark.django_db
URL = "/api/tunix/runs"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MakeRun = Callable[..., Run]


@pytest.fixture
def make(user: User) -> MakeRun:
    """Stores a run as it might stand in the history."""

    def create(**fields: Any) -> Run:
        values: dict[str, Any] = {
            "dataset_key": "sums-v1",
            "model_id": "preset:tiny-llama",
            "dry_run": True,
            "owner": user,
        }
        values |= {
            "status": "completed",
            "exit_code": 0,
            "completed_at": NOON,
            "started_at": NOON,
            "created_at": timezone.now(),
        }
        values |= fields
        if values["status"] != "completed" and "exit_code" not in fields:
            values["exit_code"] = None
        if values["status"] in ("pending", "running", "cancelling"):
            values["completed_at"] = None
        tags = values.pop("tags", ())
        run = Run.objects.create(**values)
        RunTag.objects.bulk_create(RunTag.of(run, tags))
        return run

    return create


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def ids(answer: dict[str, Any]) -> list[str]:
    return [row["run_id"] for row in answer["data"]]


def test_of_nothing_is_an_empty_page(api: APIClient):
    assert api.get(URL).json() == {
        "data": [],
        "pagination": {"limit": 20, "offset": 0, "next_offset": None, "next_cursor": None},
    }


def test_a_row_has_the_fields_of_the_contract_and_nothing_heavy(api: APIClient, make: MakeRun):
    run = make(duration_seconds=1.5, stdout="x" * 10_000)

    assert api.get(URL).json()["data"] == [
        {
            "run_id": str(run.run_id),
            "name": run.name,
            "dataset_key": "sums-v1",
            "model_id": "preset:tiny-llama",
            "kind": "sft",
            "mode": "dry-run",
            "status": "completed",
            "started_at": "2026-03-01T12:00:00Z",
            "duration_seconds": 1.5,
        }
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_takes_one_query_however_many_rows(api: APIClient, make: MakeRun, count: int):
    for _ in range(count):
        make(tags=["a", "b"])

    with CaptureQueriesContext(connection) as queries:
        assert len(api.get(URL).json()["data"]) == count
    assert len(queries) == 1


def test_is_ordered_by_creation_and_then_by_id(api: APIClient, make: MakeRun):
    tied = [make(created_at=NOON, run_id=uuid.UUID(int=number)) for number in (3, 1, 2)]
    older = make(created_at=NOON - timedelta(microseconds=1), run_id=uuid.UUID(int=9))
    newer = make(
        created_at=NOON + timedelta(microseconds=1),
        run_id=uuid.UUID(int=0),
        started_at=NOON - timedelta(days=1),
    )

    by_id = [str(tied[0].run_id), str(tied[2].run_id), str(tied[1].run_id)]
    assert ids(api.get(URL).json()) == [str(newer.run_id), *by_id, str(older.run_id)]
    assert ids(api.get(f"{URL}?order=oldest").json()) == [
        str(older.run_id),
        *reversed(by_id),
        str(newer.run_id),
    ]


class TestPages:
    def test_both_ends_of_limit(self, api: APIClient, make: MakeRun):
        for number in range(3):
            make(created_at=NOON + timedelta(seconds=number))

        first = api.get(f"{URL}?limit=1").json()
        assert len(first["data"]) == 1
        assert first["pagination"]["next_offset"] == 1
        assert len(api.get(f"{URL}?limit=100").json()["data"]) == 3

    @pytest.mark.parametrize(
        "limit",
        ["0", "101", "-1", "x", "1.5", "1e2", "٣", "0x10", " 5", "5 ", "--5", "-", "9" * 30],
    )
    def test_another_limit_is_422(self, api: APIClient, limit: str):
        response = api.get(URL, {"limit": limit})

        assert response.status_code == 422
        assert set(response.json()) == {"detail", "limit"}
        assert response.json()["limit"][0].startswith("must ")

    @pytest.mark.parametrize("offset", ["-1", "x", "9" * 20, "1.0"])
    def test_another_offset_is_422(self, api: APIClient, offset: str):
        assert set(api.get(URL, {"offset": offset}).json()) == {"detail", "offset"}

    @pytest.mark.parametrize(
        "offset", ["0", str(2**31), str(2**62 - 1), str(2**62), str(2**63 - 1)]
    )
    def test_an_offset_behind_the_end_is_an_empty_page(
        self, api: APIClient, make: MakeRun, offset: str
    ):
        make()
        response = api.get(URL, {"offset": offset, "limit": "100"})

        assert response.status_code == 200
        assert len(response.json()["data"]) == (offset == "0")
        assert response.json()["pagination"]["next_offset"] is None

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_by_offset_and_by_cursor_show_every_run_once(
        self, api: APIClient, make: MakeRun, size: int
    ):
        for number in range(7):  # every two at the same moment
            make(created_at=NOON + timedelta(seconds=number // 2))
        everything = ids(api.get(URL).json())
        assert len(everything) == 7

        for order, expected in (("newest", everything), ("oldest", everything[::-1])):
            seen, page = [], {"next_offset": 0}
            while page["next_offset"] is not None:
                answer = api.get(
                    URL, {"limit": size, "offset": page["next_offset"], "order": order}
                ).json()
                seen += ids(answer)
                page = answer["pagination"]
            assert seen == expected

            seen, cursor = [], ""
            while cursor is not None:
                answer = api.get(URL, {"limit": size, "cursor": cursor, "order": order}).json()
                seen += ids(answer)
                cursor = answer["pagination"]["next_cursor"]
            assert seen == expected

    def test_a_cursor_does_not_mind_what_comes_and_goes(self, api: APIClient, make: MakeRun):
        runs = [make(created_at=NOON + timedelta(seconds=number)) for number in range(4)]
        first = api.get(f"{URL}?limit=2").json()
        make(created_at=NOON + timedelta(hours=1))
        runs[2].delete()  # the very row that the cursor names

        second = api.get(URL, {"limit": 2, "cursor": first["pagination"]["next_cursor"]}).json()

        assert ids(second) == [str(runs[1].run_id), str(runs[0].run_id)]
        assert second["pagination"]["next_cursor"] is None

    @pytest.mark.parametrize(
        "cursor",
        [
            "x",
            "é",
            "AAAA",
            "a" * 300,
            encoded("2026-01-01|abc"),
            encoded(f"2026-01-01T00:00:00|{uuid.UUID(int=1)}"),
        ],
    )
    def test_what_is_no_cursor_is_422(self, api: APIClient, cursor: str):
        response = api.get(URL, {"cursor": cursor})

        assert response.status_code == 422
        assert response.json()["cursor"] == ["is not a cursor of this list."]

    @pytest.mark.parametrize(
        "moment",
        ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+00:00"],
    )
    def test_a_cursor_from_the_end_of_time_is_no_error(
        self, api: APIClient, make: MakeRun, moment: str
    ):
        make()

        assert api.get(URL, {"cursor": encoded(f"{moment}|{uuid.UUID(int=1)}")}).status_code in (
            200,
            422,
        )


class TestFilters:
    def test_by_status(self, api: APIClient, make: MakeRun):
        runs = {status: make(status=status) for status in RunStatus.values}

        for status, run in runs.items():
            assert ids(api.get(URL, {"status": status}).json()) == [str(run.run_id)], status

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("status", "done"),
            ("status", "COMPLETED"),
            ("mode", "async"),
            ("mode", "dry_run"),
            ("kind", "dpo"),
            ("kind", "SFT"),
            ("order", "up"),
        ],
    )
    def test_another_choice_is_422_with_the_choices(self, api: APIClient, name: str, value: str):
        response = api.get(URL, {name: value})

        assert response.status_code == 422
        assert response.json()[name][0].startswith("must be one of ")

    @pytest.mark.parametrize("name", ["stauts", "page", "LIMIT", "dataset"])
    def test_an_unknown_parameter_is_422(self, api: APIClient, name: str):
        assert api.get(URL, {name: "1"}).json()[name] == ["is not a known parameter."]

    def test_an_empty_one_filters_nothing(self, api: APIClient, make: MakeRun):
        make()

        query = (
            "limit=20&offset=0&status=&dataset_key=&kind=&mode=&model_id=&tag=&q=&after=&before="
            "&cursor=&owner="
        )
        assert len(api.get(f"{URL}?{query}").json()["data"]) == 1

    def test_by_mode_dataset_model_owner_and_tag(self, api: APIClient, make: MakeRun, staff: User):
        plain = make()
        other = make(
            dry_run=False,
            dataset_key="chat-v2",
            model_id="google/gemma-2b-it",
            owner=staff,
            tags=["gpu", "night"],
        )

        for name, value in {
            "mode": "local",
            "dataset_key": "chat-v2",
            "model_id": "google/gemma-2b-it",
            "owner": staff.username,
            "tag": "gpu",
        }.items():
            assert ids(api.get(URL, {name: value}).json()) == [str(other.run_id)], name
        assert ids(api.get(URL, {"mode": "dry-run", "dataset_key": "sums-v1"}).json()) == [
            str(plain.run_id)
        ]
        assert ids(api.get(URL, {"mode": "dry-run", "tag": "gpu"}).json()) == []
        assert ids(api.get(URL, {"tag": "gp"}).json()) == []

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    def test_tagged_runs_are_paged_by_the_tags_own_index(
        self, api: APIClient, make: MakeRun, order: str
    ):
        hours = [3, 1, 2, 2, 5]
        tagged = [
            make(created_at=NOON + timedelta(hours=hour), tags=["other", "gpu"]) for hour in hours
        ]
        make(created_at=NOON, tags=["other"])
        wanted = sorted(tagged, key=lambda run: (run.created_at, run.pk), reverse=order == "newest")
        query: dict[str, Any] = {"tag": "gpu", "order": order, "limit": 2}
        seen = []
        while True:
            answer = api.get(URL, query).json()
            seen += ids(answer)
            if (cursor := answer["pagination"]["next_cursor"]) is None:
                break
            query["cursor"] = cursor

        assert seen == [str(run.pk) for run in wanted]
        if connection.vendor == "sqlite":  # PostgreSQL reads so few rows as they lie
            plan = (
                Selection(tag="gpu")
                .in_order(Run.objects.visible(), oldest_first=order == "oldest")
                .explain()
            )
            assert "ix_run_tag_newest" in plan and "TEMP B-TREE" not in plan

    def test_by_kind_along_the_index_of_the_history(self, api: APIClient, make: MakeRun):
        here, there = make(), make()
        # a kind of a later version, say
        Run.objects.filter(pk=there.pk).update(kind="dpo")

        assert ids(api.get(URL, {"kind": "sft"}).json()) == [str(here.run_id)]
        assert ids(api.get(URL, {"q": "kind:sft"}).json()) == [str(here.run_id)]
        if connection.vendor == "sqlite":  # PostgreSQL reads so few rows as they lie
            plan = Selection(kind="sft").in_order(Run.objects.visible()).explain()
            assert "ix_tunix_runs_listed_newest" in plan and "TEMP B-TREE" not in plan

    @pytest.mark.parametrize("name", ["dataset_key", "model_id", "owner", "tag", "q"])
    def test_a_text_has_at_most_256_characters_and_no_nul(self, api: APIClient, name: str):
        assert api.get(URL, {name: "x" * 256}).status_code == 200
        assert set(api.get(URL, {name: "x" * 257}).json()) == {"detail", name}
        assert set(api.get(URL, {name: "a\x00b"}).json()) == {"detail", name}

    @pytest.mark.parametrize("raw", ["%ff%fe", "%ed%a0%80", "%00", "%e2%82"])
    def test_bytes_that_are_no_text_are_no_error(self, api: APIClient, raw: str):
        assert api.get(f"{URL}?q={raw}").status_code in (200, 422)

    def test_by_free_text(self, api: APIClient, make: MakeRun):
        run = make(
            dataset_key="gsm8k-v1",
            model_id="HuggingFaceTB/SmolLM2",
            notes="for the 100% case",
            message="loss_is_fine",
        )
        make()

        for text in (
            "GSM8K",
            "smollm",
            "note:100%",
            "note:loss_is",
            "gsm note:fine",
            str(run.run_id),
            str(run.run_id)[:8],
            str(run.run_id)[:13].upper(),
        ):
            assert ids(api.get(URL, {"q": text}).json()) == [str(run.run_id)], text
        for text in ("note:100_", "note:loss%fine", "nothing", "100%", "gsm nothing", "'", "\\"):
            assert ids(api.get(URL, {"q": text}).json()) == [], text

    def test_by_date_range(self, api: APIClient, make: MakeRun):
        runs = [make(created_at=NOON + timedelta(days=number)) for number in range(3)]

        def found(**query: str) -> list[int]:
            answer = ids(api.get(URL, query).json())
            return sorted(number for number, run in enumerate(runs) if str(run.run_id) in answer)

        assert found(after="2026-03-02T12:00:00Z") == [1, 2]
        assert found(before="2026-03-02T12:00:00Z") == [0]
        assert found(after="2026-03-02", before="2026-03-03") == [1]
        assert found(after="2026-03-02T14:00:00+02:00") == [1, 2]
        assert found(after="2026-03-02T12:00:00.000001Z") == [2]
        assert found(after="2026-03-02 12:00") == [1, 2]

    @pytest.mark.parametrize(
        "text",
        ["yesterday", "2026-13-01", "2026-02-30", "2026-03-01T25:00", "12:00", "1772366400", "-"],
    )
    @pytest.mark.parametrize("name", ["after", "before"])
    def test_what_is_no_date_is_422(self, api: APIClient, name: str, text: str):
        assert api.get(URL, {name: text}).json()[name] == [
            "must be a date (2026-11-01) or a date and time (2026-11-01T12:00:00Z)."
        ]

    @pytest.mark.parametrize(
        "text",
        ["0001-01-01", "9999-12-31", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    )
    @pytest.mark.parametrize("name", ["after", "before"])
    def test_the_ends_of_time_are_no_error(
        self, api: APIClient, make: MakeRun, name: str, text: str
    ):
        make()

        response = api.get(URL, {name: text})

        assert response.status_code in (200, 422)
        if response.status_code == 200:
            assert len(response.json()["data"]) == ((name == "after") == text.startswith("0001"))


def test_deleted_runs_are_not_shown(api: APIClient, make: MakeRun):
    make(trashed_at=NOON)

    assert api.get(URL).json()["data"] == []


def test_moments_without_a_zone_are_utc():
    assert parse_moment("2026-03-01T12:00:00") == NOON
    assert parse_moment("2026-03-01T13:00:00+01:00") == NOON
    # a plus sign that a form turned into a space
    assert parse_moment("2026-03-01T13:00:00 01:00") == NOON


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_is_for_reading_only(api: APIClient, method: str):
    response = getattr(api, method)(URL)

    assert response.status_code == 405
    assert response.json() == {"detail": f'Method "{method.upper()}" not allowed.'}


class TestFarDown:
    """From ``pages.FAR`` on the index is walked first: the same pages, without a look at each row
    on the way."""

    @pytest.fixture(autouse=True)
    def _near(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(pages, "FAR", 1)
        pages._compiled.cache_clear()
        yield
        pages._compiled.cache_clear()

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    @pytest.mark.parametrize(
        "query",
        [{}, {"status": "failed"}, {"owner": "somebody"}, {"tag": "gpu"}, {"q": "loss<2"},
         {"after": "2026-03-01T13:00:00Z"}],
    )  # fmt: skip
    def test_pages_are_the_same_at_any_offset(
        self, api: APIClient, make: MakeRun, query: dict[str, str], order: str
    ):
        for number in range(12):
            make(
                created_at=NOON + timedelta(hours=number // 2),
                status="failed" if number % 3 else "completed",
                tags=["gpu"] if number % 2 else [],
                last_loss=number / 4,
                trashed_at=NOON if number % 5 == 2 else None,
            )
        whole = api.get(URL, query | {"order": order, "limit": 100}).json()["data"]
        assert len(whole) >= 3

        found = []
        for offset in range(0, len(whole), 2):
            page = api.get(URL, query | {"order": order, "limit": 2, "offset": offset}).json()
            found += page["data"]
            more = offset + 2 < len(whole)
            assert page["pagination"]["next_offset"] == (offset + 2 if more else None)
        assert found == whole

        first = api.get(URL, query | {"order": order, "limit": 1}).json()["pagination"]
        behind = query | {"order": order, "cursor": first["next_cursor"], "offset": 1}
        assert api.get(URL, behind).json()["data"] == whole[2:]

    def test_rows_are_read_for_the_page_alone(self, api: APIClient, make: MakeRun):
        make(), make()
        for query in ({}, {"status": "completed"}, {"mode": "dry-run"}):
            with CaptureQueriesContext(connection) as asked:
                api.get(URL, query | {"offset": 1})
            (sql,) = [one["sql"] for one in asked if "OFFSET 1" in one["sql"]]
            if connection.vendor == "sqlite":  # PostgreSQL reads so few rows as they lie
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                    plan = " / ".join(row[3] for row in cursor.fetchall())
                assert (
                    "USING COVERING INDEX ix_tunix_runs_" in plan and "ix_tunix_runs_trash" in plan
                )
                assert not re.search(r"SCAN tunix_runs(?! USING COVERING)", plan)
