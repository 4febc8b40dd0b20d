"""The operators' admin: read-only, never counting, and with actions that call the services."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from runs.models import Host, MetricSeries, Run, RunEvent, RunTag, WebhookAttempt, WebhookDelivery
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit

LISTS = ("run", "runevent", "runtag", "metricseries", "host", "webhookdelivery")
HOSTILE = "<script>alert(1)</script>"


pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def furnished(submit: Submit) -> Callable[..., list[Run]]:
    """Runs with everything that an admin list shows about them."""

    def furnish(count: int) -> list[Run]:
        runs = []
        for number in range(count):
            run = submit(tags=[f"tag-{number}"])
            claim_run(run=run, host=Host.objects.get_or_create(name=f"host-{number}")[0], by="test")
            MetricSeries.objects.create(run=run, name="loss", count=1, first=1.0, last=1.0)
            delivery = WebhookDelivery.objects.create(
                run=run, url="https://example.org/", payload={}
            )
            WebhookAttempt.objects.create(
                delivery=delivery, at=datetime(2026, 3, 4, tzinfo=UTC), status_code=500, seconds=0.1
            )
            runs.append(run)
        return runs

    return furnish


def do(client: Client, action: str, *runs: Run, query: str = "", **more: str) -> str:
    data = {"action": action, "_selected_action": [str(run.pk) for run in runs], **more}
    response = client.post(f"/admin/runs/run/{query}", data, follow=True)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("name", LISTS)
def test_only_staff_may_look(remote_client: Client, user: User, name: str) -> None:
    remote_client.force_login(user)
    response = remote_client.get(f"/admin/runs/{name}/")
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("name", LISTS)
def test_nothing_is_added_edited_or_deleted_by_hand(
    operator: Client, furnished: Callable[..., list[Run]], name: str
) -> None:
    furnished(1)
    assert operator.get(f"/admin/runs/{name}/add/").status_code == 403
    model: Any = {
        "run": Run,
        "runevent": RunEvent,
        "runtag": RunTag,
        "metricseries": MetricSeries,
    }.get(name)
    model = model or {"host": Host, "webhookdelivery": WebhookDelivery}[name]
    pk = model.objects.first().pk
    page = operator.get(f"/admin/runs/{name}/{pk}/change/")
    assert page.status_code == 200
    assert 'name="_save"' not in page.content.decode()
    assert (
        operator.post(f"/admin/runs/{name}/{pk}/change/", {"status": "completed"}).status_code
        == 403
    )
    assert operator.post(f"/admin/runs/{name}/{pk}/delete/", {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=pk).exists()


@pytest.mark.parametrize(
    ("name", "queries"),
    [("run", 8), ("runevent", 4), ("runtag", 4), ("metricseries", 4), ("webhookdelivery", 4)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_lists_cost_the_same_queries_for_any_number_of_rows_and_never_count(
    operator: Client, furnished: Callable[..., list[Run]], name: str, queries: int, count: int
) -> None:
    furnished(count)
    operator.get(f"/admin/runs/{name}/")
    with CaptureQueriesContext(connection) as captured:
        assert operator.get(f"/admin/runs/{name}/").status_code == 200
    statements = [query["sql"] for query in captured.captured_queries]
    # The session, its user, a look ahead, the rows; for runs also their first and last date, and
    # who and what to filter by.
    assert len(statements) == queries, statements
    assert not [
        statement
        for statement in statements
        if re.search(r"COUNT\(|DISTINCT|MIN\(|MAX\(", statement)
    ]


def test_one_run_costs_the_same_queries_for_any_number_of_events(
    operator: Client, submit: Submit, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    run = submit()
    url = f"/admin/runs/run/{run.pk}/change/"
    operator.get(url)  # the writes before are counted
    with CaptureQueriesContext(connection) as one:
        operator.get(url)
    for number in range(5):
        RunEvent.objects.create(run=run, reason=f"event {number}", by="test")
    with django_assert_num_queries(len(one)):
        page = operator.get(url).content.decode()
    assert "event 4" in page
    assert "submitted" in page
    assert '<span class="status is-pending">pending</span>' in page


def test_pages_go_on_where_more_rows_are(operator: Client, submit: Submit) -> None:
    first = submit()
    for _ in range(60):
        RunEvent.objects.create(run=first, reason="again", by="test")
    page = operator.get("/admin/runs/runevent/?p=2").content.decode()
    assert "61 run events" in page
    assert page.count('class="field-reason"') == 11


def test_a_tag_is_found_by_its_name(operator: Client, submit: Submit) -> None:
    tagged, other = submit(tags=["night"]), submit(tags=["nightly"])
    page = operator.get("/admin/runs/runtag/", {"q": "night"}).content.decode()
    assert str(tagged.pk) in page
    assert str(other.pk) not in page


@pytest.mark.parametrize("where", ["host", "owner"])
def test_runs_of_a_host_or_an_owner_come_by_an_index(
    operator: Client, furnished: Callable[..., list[Run]], where: str
) -> None:
    """On SQLite; PostgreSQL reads so few rows as they lie."""
    first, _ = furnished(2)
    key = getattr(first, f"{where}_id")
    with CaptureQueriesContext(connection) as captured:
        page = operator.get("/admin/runs/run/", {f"{where}__id__exact": key}).content.decode()
    assert str(first.pk) in page
    rows = next(
        query["sql"]
        for query in captured.captured_queries
        if '"tunix_runs"."run_id" AS "pk"' in query["sql"]
    )
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {rows}")
            plan = "\n".join(row[-1] for row in cursor.fetchall())
        assert f"ix_tunix_runs_{where}_newest" in plan
        assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("page", ["0", "-1", "x", "99999999999999999999", "7"])
def test_pages_that_are_not_there_do_no_harm(operator: Client, submit: Submit, page: str) -> None:
    submit()
    with CaptureQueriesContext(connection) as captured:
        assert operator.get(f"/admin/runs/run/?p={page}").status_code in (200, 302)
    if page == "7":  # behind the end: never all the rows at once
        assert all(
            "LIMIT" in query["sql"]
            for query in captured.captured_queries
            if "tunix_runs" in query["sql"]
        )


def test_hostile_text_is_shown_as_text(operator: Client, submit: Submit) -> None:
    run = submit(tags=[HOSTILE], notes=HOSTILE)
    Run.objects.filter(pk=run.pk).update(
        dataset_key=HOSTILE, model_id=HOSTILE, message=HOSTILE, stdout=HOSTILE
    )
    RunEvent.objects.create(run=run, reason=HOSTILE, by=HOSTILE)
    for path in ("run/", f"run/{run.pk}/change/", "runevent/", "runtag/"):
        assert "<script>alert" not in operator.get(f"/admin/runs/{path}").content.decode()


@pytest.mark.parametrize(
    "term", ["{id}", "{short}", "wanted-v1", "google/gemma-2b-it", "chosen", "keeper-of-the-house"]
)
def test_search_finds_by_id_dataset_model_tag_and_owner(
    operator: Client, submit: Submit, staff: User, term: str
) -> None:
    wanted = submit(model_id="google/gemma-2b-it", tags=["chosen"], by=staff)
    Run.objects.filter(pk=wanted.pk).update(dataset_key="wanted-v1")
    submit()
    page = operator.get(
        "/admin/runs/run/", {"q": term.format(id=wanted.pk, short=str(wanted.pk)[:8])}
    ).content.decode()
    assert page.count('name="_selected_action"') == 1
    assert str(wanted.pk) in page


@pytest.mark.parametrize("term", ["zzzz", "ff", "\x00", "'; DROP TABLE tunix_runs", "0" * 64])
def test_search_for_nonsense_finds_nothing(operator: Client, submit: Submit, term: str) -> None:
    submit()
    response = operator.get("/admin/runs/runevent/", {"q": term})
    assert response.status_code == 200
    for name in ("run", "runtag"):
        assert operator.get(f"/admin/runs/{name}/", {"q": term}).status_code == 200


def test_filters_and_the_calendar(operator: Client, submit: Submit) -> None:
    old, new = submit(), submit()
    Run.objects.filter(pk=old.pk).update(created_at=datetime(2025, 11, 5, 12, tzinfo=UTC))
    Run.objects.filter(pk=new.pk).update(created_at=datetime(2026, 2, 7, 12, tzinfo=UTC))
    page = operator.get("/admin/runs/run/").content.decode()
    assert [
        year in page
        for year in ("created_at__year=2025", "created_at__year=2026", "created_at__year=2024")
    ] == [
        True,
        True,
        False,
    ]
    page = operator.get("/admin/runs/run/?created_at__year=2025").content.decode()
    assert "December" in page
    assert "October" not in page
    assert page.count('name="_selected_action"') == 1
    page = operator.get(
        "/admin/runs/run/?created_at__year=2025&created_at__month=11"
    ).content.decode()
    assert "created_at__day=5" in page
    assert "created_at__day=4" not in page
    page = operator.get(
        "/admin/runs/run/?created_at__year=2025&created_at__month=11&created_at__day=5"
    ).content.decode()
    assert page.count('name="_selected_action"') == 1
    assert (
        operator.get("/admin/runs/run/?status=failed")
        .content.decode()
        .count('name="_selected_action"')
        == 0
    )


def test_trash_has_a_filter_of_its_own(operator: Client, submit: Submit) -> None:
    run = submit()
    request_cancel(run=run, by=run.owner)
    trash_run(run=run, by=run.owner)
    submit()
    counts = [
        operator.get(f"/admin/runs/run/{query}").content.decode().count('name="_selected_action"')
        for query in ("", "?trash=in", "?trash=any")
    ]
    assert counts == [1, 1, 2]


# --- actions --------------------------------------------------------------------------------------


def test_cancel_does_what_it_can_and_says_what_it_could_not(
    operator: Client, submit: Submit
) -> None:
    pending, ended = submit(), submit()
    request_cancel(run=ended, by=ended.owner)
    page = do(operator, "cancel", pending, ended)
    pending.refresh_from_db()
    assert pending.status == "cancelled"
    assert pending.events.latest("id").by == "keeper-of-the-house"
    assert "1 run asked to stop." in page
    assert "The run has ended already" in page
    assert [entry.object_id for entry in LogEntry.objects.all()] == [str(pending.pk)]


def test_retry(operator: Client, submit: Submit) -> None:
    run = submit()
    request_cancel(run=run, by=run.owner)
    assert "1 run tried again." in do(operator, "retry", run)
    assert run.retries.get().owner.username == "keeper-of-the-house"


def test_pin_and_unpin(operator: Client, submit: Submit) -> None:
    run = submit()
    do(operator, "pin", run)
    run.refresh_from_db()
    assert run.pinned
    do(operator, "unpin", run)
    run.refresh_from_db()
    assert not run.pinned


def test_move_to_the_front_of_the_queue(operator: Client, submit: Submit) -> None:
    submit(priority=5)
    run = submit()
    do(operator, "prioritise", run)
    assert Run.objects.pending_in_order().first() == run


def test_what_cannot_come_first_is_not_said_to(operator: Client, submit: Submit) -> None:
    first, run = submit(priority=100), submit()
    page = do(operator, "prioritise", run)
    assert (
        "1 run set to priority 100, the highest; older runs of that priority start first." in page
    )
    assert "front" not in page.split("messagelist")[1].split("</ul>")[0]
    assert Run.objects.pending_in_order().first() == first


def test_trash_and_purge_with_a_preview_of_what_it_frees(operator: Client, submit: Submit) -> None:
    run = submit()
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    finish_run(run=run, status="failed", reason="over", by="test")
    folder = run_folder(run)
    folder.mkdir(parents=True)
    (folder / "stdout.log").write_bytes(b"x" * 3000)
    do(operator, "trash", run)
    run.refresh_from_db()
    assert run.trashed_at is not None
    preview = do(operator, "purge", run, query="?trash=in")
    assert "3.0 kB" in preview
    assert Run.objects.filter(pk=run.pk).exists()
    assert "1 run deleted with files." in do(
        operator, "purge", run, query="?trash=in", confirmed="yes"
    )
    assert not Run.objects.filter(pk=run.pk).exists()
    assert not folder.exists()
    entry = LogEntry.objects.latest("id")
    assert (entry.object_id, entry.change_message, entry.user.username) == (
        str(run.pk),
        "deleted with files (3,000 bytes)",
        "keeper-of-the-house",
    )


def test_a_run_that_is_not_in_the_trash_is_not_purged(operator: Client, submit: Submit) -> None:
    run = submit()
    assert "Only a run in the trash can be purged." in do(operator, "purge", run, confirmed="yes")
    assert Run.objects.filter(pk=run.pk).exists()


def test_staff_without_the_right_may_look_and_not_act(
    remote_client: Client, submit: Submit
) -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_run"))
    remote_client.force_login(viewer)
    run = submit()
    assert str(run.pk)[:8] in remote_client.get("/admin/runs/run/").content.decode()
    do(remote_client, "cancel", run)
    run.refresh_from_db()
    assert run.status == "pending"
