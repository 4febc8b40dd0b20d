"""The history page: rows, filters, pages by cursor, refreshing, and what it costs."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from runs.models import Host, Run
from runs.services.annotations import annotate_run
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_run
from runs.services.measurements import take_in_metrics
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Rows(HTMLParser):
    """The run ids of the rows and the words of the status badges, in their order."""

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.statuses: list[str] = []
        self._badge = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("data-testid") == "run-row":
            self.ids.append(given["data-run-id"] or "")
        self._badge = given.get("data-testid") == "run-status"

    def handle_data(self, data: str) -> None:
        if self._badge:
            self.statuses.append(data.strip())
            self._badge = False


pytestmark = pytest.mark.usefixtures("a_training_command")


def ids(client: Client, query: str = "") -> list[str]:
    response = client.get(f"/{query}")
    assert response.status_code == 200
    return Rows(response.content.decode()).ids


def test_nobody_is_shown_anything_without_a_login(remote_client: Client) -> None:
    response = remote_client.get("/")
    assert response.status_code == 302
    assert response["Location"] == "/login?next=/"


def test_says_what_to_do_when_there_are_no_runs(local_client: Client) -> None:
    page = local_client.get("/").content.decode()
    assert "No runs found" in page
    assert 'href="/runs/new"' in page


def test_shows_every_column_of_a_run(local_client: Client, submit: Submit) -> None:
    run = submit(model_id="google/gemma-2b-it")
    page = local_client.get("/").content.decode()
    for heading in (
        "Run ID",
        "Dataset",
        "Model",
        "Mode",
        "Status",
        "Started At",
        "Duration",
        "Actions",
    ):
        assert f">{heading}</th>" in page
    assert Rows(page).ids == [str(run.pk)]
    assert Rows(page).statuses == ["pending"]
    assert "google/gemma-2b-it" in page
    assert f'action="/runs/{run.pk}/cancel"' in page
    assert f'action="/runs/{run.pk}/retry"' not in page


def test_shows_every_status_with_its_own_badge(local_client: Client, submit: Submit) -> None:
    host = Host.objects.create(name="a-host")
    wanted = ["pending", "running", "cancelling", "completed", "failed", "timeout", "cancelled"]
    for status in wanted:
        run = submit()
        if status in ("pending", "cancelled"):
            if status == "cancelled":
                request_cancel(run=run, by=run.owner)
            continue
        claim_run(run=run, host=host, by="test")
        if status == "cancelling":
            request_cancel(run=run, by=run.owner)
        elif status != "running":
            finish_run(
                run=run,
                status=status,
                reason="over",
                by="test",
                exit_code=0 if status == "completed" else None,
            )
    page = local_client.get("/").content.decode()
    assert Rows(page).statuses == wanted[::-1]
    for status in wanted:
        assert f'class="status is-{status}"' in page


def test_newest_first_and_older_pages_by_cursor_while_new_runs_arrive(
    local_client: Client, submit: Submit
) -> None:
    runs = [str(submit(dry_run=True).pk) for _ in range(25)]
    first = local_client.get("/")
    assert Rows(first.content.decode()).ids == runs[:4:-1]
    cursor = first.context["next_cursor"]
    assert f'href="?cursor={cursor}"' in first.content.decode()
    submit(dry_run=True)
    second = local_client.get("/", {"cursor": cursor})
    assert Rows(second.content.decode()).ids == runs[4::-1]
    assert second.context["next_cursor"] is None


@pytest.mark.parametrize(
    "query",
    [
        "status=pending", "mode=local", "dataset_key=sums-v1", "model_id=google/gemma-2b-it",
        "tag=chosen", "owner=somebody", "after=2026-03-01&before=2026-03-03", "q=GEMMA",
        "q=note:%22a+note+about+it%22", "q={id}", "q={short}", "q=chosen",
        "q=model:gemma+dataset:SUMS+status:pending",
    ],
)  # fmt: skip
def test_each_filter_finds_its_run(
    local_client: Client, submit: Submit, staff: User, query: str
) -> None:
    wanted = submit(model_id="google/gemma-2b-it", tags=["chosen"], notes="a note about it")
    other = submit(dry_run=True, by=staff)
    request_cancel(run=other, by=staff)
    Run.objects.filter(pk=wanted.pk).update(created_at=datetime(2026, 3, 2, tzinfo=UTC))
    Run.objects.filter(pk=other.pk).update(
        created_at=datetime(2026, 3, 4, tzinfo=UTC), dataset_key="other-v1"
    )
    assert len(ids(local_client)) == 2
    found = ids(local_client, "?" + query.format(id=wanted.pk, short=str(wanted.pk)[:8]))
    assert found == [str(wanted.pk)]


def test_filters_stay_in_the_form_and_in_the_links(local_client: Client, submit: Submit) -> None:
    for _ in range(21):
        submit(dry_run=True, tags=["sweep"])
    page = local_client.get("/?tag=sweep&status=pending").content.decode()
    assert 'name="tag" value="sweep"' in page
    assert '<option value="pending" selected>' in page
    assert 'href="?tag=sweep&amp;status=pending&amp;cursor=' in page


def test_no_match_is_said_with_a_way_out(local_client: Client, submit: Submit) -> None:
    submit()
    page = local_client.get("/?status=failed").content.decode()
    assert "No runs found" in page
    assert "Show all runs" in page


@pytest.mark.parametrize(
    "query",
    [
        "status=nonsense",
        "mode=fast",
        "after=yesterday",
        "cursor=abc",
        "q=" + "x" * 257,
        "after=0000-01-01",
        "q=%00",
    ],
)
def test_a_filter_that_cannot_be_used_is_a_visible_error(local_client: Client, query: str) -> None:
    response = local_client.get(f"/?{query}")
    assert response.status_code == 422
    assert "These filters cannot be used" in response.content.decode()


def test_runs_in_the_trash_are_not_shown(local_client: Client, submit: Submit) -> None:
    run = submit()
    request_cancel(run=run, by=run.owner)
    trash_run(run=run, by=run.owner)
    assert ids(local_client) == []


def test_refreshes_itself_only_while_a_run_is_active(local_client: Client, submit: Submit) -> None:
    run = submit()
    assert 'hx-trigger="every 3s' in local_client.get("/").content.decode()
    request_cancel(run=run, by=run.owner)
    assert "every 3s" not in local_client.get("/", headers={"HX-Request": "true"}).content.decode()


def test_the_refreshed_part_is_the_part_of_the_page(local_client: Client, submit: Submit) -> None:
    submit(tags=["one"])
    page = local_client.get("/").content.decode()
    part = local_client.get("/", headers={"HX-Request": "true"})
    text = part.content.decode()
    assert text.startswith('<div id="runs"')
    assert "HX-Request" in part["Vary"]
    # but for the forms' security tokens, which differ on purpose
    strip = [line for line in text.splitlines() if "csrfmiddlewaretoken" not in line]
    assert all(line in page for line in strip)


def test_a_row_expands_to_its_essentials(local_client: Client, submit: Submit) -> None:
    run, other = submit(notes="remember this", learning_rate=3e-4), submit(notes="not this")
    request_cancel(run=run, by=run.owner)
    page = local_client.get("/").content.decode()
    assert f'<details class="expander" id="more-{run.pk}">' in page
    assert f'hx-get="/runs/{run.pk}/essentials" hx-trigger="intersect once"' in page
    assert f'<a href="/runs/{run.pk}" data-testid="essentials-page">' in page  # without JavaScript
    assert "remember this" not in page

    part = local_client.get(f"/runs/{run.pk}/essentials").content.decode()

    assert part.startswith("<dl")
    assert "cancelled by somebody" in part and "remember this" in part and "0.0003" in part
    gone = local_client.get("/runs/00000000-0000-4000-8000-000000000000/essentials")
    assert gone.status_code == 404

    # A part that refreshes itself says which rows are expanded: they come whole.
    headers = {"HX-Request": "true", "X-Opened": f"{run.pk},x"}
    refreshed = local_client.get("/", headers=headers).content.decode()
    assert part.strip() in refreshed
    assert "not this" not in refreshed and f"/runs/{other.pk}/essentials" in refreshed


@pytest.mark.parametrize("opened", ["", ",", "x", "\u00e9", "a" * 5000, "," * 5000])
def test_a_strange_list_of_expanded_rows_expands_none(
    local_client: Client, submit: Submit, opened: str
) -> None:
    submit()
    page = local_client.get("/", headers={"X-Opened": opened})
    assert (page.status_code, b"<dl" in page.content) == (200, False)


def test_hostile_text_is_shown_as_text(local_client: Client, submit: Submit) -> None:
    run = submit(notes=HOSTILE, tags=[HOSTILE[:60]])
    Run.objects.filter(pk=run.pk).update(dataset_key=HOSTILE, model_id=HOSTILE, message=HOSTILE)
    page = local_client.get("/", {"q": '"' + HOSTILE.replace('"', r"\"") + '"'}).content.decode()
    assert Rows(page).ids == [str(run.pk)]
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize("count", [1, 3])
def test_costs_the_same_queries_for_any_number_of_rows(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    for number in range(count):
        annotate_run(run=(run := submit()), by=run.owner, tags=(f"tag-{number}",))
    # the local user is made and remembered, and the writes before are counted
    local_client.get("/")
    # the local user, the runs, their tags, their losses; kept views, the disk quota, the root
    with django_assert_num_queries(7):
        assert len(ids(local_client)) == count


def test_times_are_absolute_in_the_title(local_client: Client, submit: Submit) -> None:
    run = submit()
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    finish_run(
        run=run,
        status="failed",
        reason="over",
        by="test",
        completed_at=moment + timedelta(seconds=185),
    )
    Run.objects.filter(pk=run.pk).update(started_at=moment, duration_seconds=185.4)
    page = local_client.get("/").content.decode()
    assert 'datetime="2026-03-04T05:06:07.000Z" title="2026-03-04 05:06:07 UTC"' in page
    assert "3 min 05 s" in page
    UUID(Rows(page).ids[0])


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_costs_a_query_and_those_for_names_more(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    for _ in range(count):
        submit()
    local_client.get("/")
    # user, datasets, models, tags and names for each word, then as without
    with django_assert_num_queries(13):
        assert len(ids(local_client, "?q=llama+sums")) == count


def test_a_filter_with_a_mistake_points_at_it(local_client: Client) -> None:
    response = local_client.get("/", {"q": "llama statsu:failed"})
    page = response.content.decode()
    assert response.status_code == 422
    assert 'data-testid="caret">llama <mark>s</mark>tatsu:failed</pre>' in page
    assert "&#x27;statsu&#x27; is no filter" in page
    assert 'value="llama statsu:failed"' in page


def test_date_ranges_leave_quoted_text_alone(local_client: Client) -> None:
    query = 'note:"x  after:7d" AFTER:24h'
    for address in re.findall(
        r'<a class="tag" href="(\?q=[^"]*)"', local_client.get("/", {"q": query}).content.decode()
    ):
        assert "note%3A%22x++after%3A7d%22" in address
        assert local_client.get(f"/{address.replace('&amp;', '&')}").status_code == 200


def test_date_ranges_replace_each_other_and_can_be_left(local_client: Client) -> None:
    page = local_client.get("/", {"q": "gemma after:7d", "status": "failed"}).content.decode()
    assert 'href="?q=gemma+after%3A24h&amp;status=failed"' in page
    assert 'href="?q=gemma&amp;status=failed" aria-current="true"' in page


def test_the_loss_is_drawn_in_the_row(
    local_client: Client, submit: Submit, output_root: Path
) -> None:
    run, other = submit(), submit()
    folder = run_folder(run)
    folder.mkdir(parents=True)
    points = [
        {"time": 1.0, "step": step, "values": {"loss": value}}
        for step, value in ((0, 4.0), (1, 2.0), (2, 3.0))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    take_in_metrics(run, folder)
    response = local_client.get("/")
    lines = {row["id"]: row["sparkline"] for row in response.context["runs"]}
    assert lines == {str(run.pk): "1.0,1.0 40.0,19.0 79.0,10.0", str(other.pk): ""}
    assert '<polyline points="1.0,1.0 40.0,19.0 79.0,10.0"/>' in response.content.decode()
    assert str(other.pk) in response.content.decode()
