"""Several runs at once: the preview says what would happen, the button does it, and what cannot be
done is said."""

import uuid
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from runs.models import Host, Run
from runs.services.annotations import annotate_run
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.reservations import run_folder
from runs.tests.conftest import Submit
from tunixrt.tests.clients import NEARBY

pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def ended(submit: Submit) -> Run:
    run = submit()
    return request_cancel(run=run, by=run.owner)


def preview(client: Client, do: str, *runs: Run) -> str:
    response = client.get(
        "/runs/chosen", {"do": do, "ids": [run.pk for run in runs], "next": "/?mode=local"}
    )
    assert response.status_code == 200
    return response.content.decode()


def press(client: Client, do: str, *runs: Run, **fields: str) -> str:
    response = client.post(
        "/runs/chosen",
        {"do": do, "ids": [run.pk for run in runs], "next": "/?mode=local"} | fields,
        follow=True,
    )
    assert response.redirect_chain == [("/?mode=local", 302)]
    return response.content.decode()


def test_only_for_somebody_logged_in(remote_client: Client, ended: Run) -> None:
    for response in (
        remote_client.get("/runs/chosen"),
        remote_client.post("/runs/chosen", {"do": "delete", "ids": ended.pk}),
    ):
        assert response.status_code == 302
        assert response["Location"].startswith("/login?next=")
    ended.refresh_from_db()
    assert ended.trashed_at is None


def test_asks_for_the_security_token(ended: Run) -> None:
    client = Client(**NEARBY, enforce_csrf_checks=True)
    assert client.post("/runs/chosen", {"do": "delete", "ids": ended.pk}).status_code == 403


def test_the_list_offers_it_for_every_row(local_client: Client, ended: Run) -> None:
    page = local_client.get("/?mode=local").content.decode()
    assert f'name="ids" value="{ended.pk}" form="chosen"' in page
    assert 'action="/runs/chosen"' in page
    assert 'name="next" value="/?mode=local"' in page


def test_deleting_shows_what_it_frees_and_what_stays(
    local_client: Client, ended: Run, submit: Submit, output_root: Path
) -> None:
    folder = run_folder(ended)
    folder.mkdir(parents=True)
    (folder / "stdout.log").write_bytes(b"x" * 3000)
    active = submit()
    page = preview(local_client, "delete", ended, active)
    assert "<strong>3.0 kB</strong>" in page
    assert "Nothing: it has not ended." in page
    assert f'name="ids" value="{ended.pk}"' in page
    assert f'name="ids" value="{active.pk}"' not in page
    ended.refresh_from_db()
    assert ended.trashed_at is None


def test_delete(local_client: Client, ended: Run, submit: Submit) -> None:
    active = submit()
    page = press(local_client, "delete", ended, active)
    assert "1 run moved to the trash." in page
    assert "Only an ended run can be deleted" in page
    ended.refresh_from_db()
    active.refresh_from_db()
    assert (ended.trashed_at is None, active.trashed_at) == (False, None)
    assert ended.events.latest("id").by == "local"


def test_cancel(local_client: Client, ended: Run, submit: Submit) -> None:
    pending, running = submit(), submit()
    claim_run(run=running, host=Host.objects.create(name="a-host"), by="test")
    page = preview(local_client, "cancel", pending, running, ended)
    assert "Leaves the queue" in page
    assert "Saves a checkpoint and stops" in page
    assert "Nothing: it has ended." in page
    assert "2 runs asked to stop." in press(local_client, "cancel", pending, running)
    pending.refresh_from_db()
    running.refresh_from_db()
    assert (pending.status, running.status) == ("cancelled", "cancelling")


def test_tag(local_client: Client, ended: Run, submit: Submit) -> None:
    annotate_run(run=ended, by=ended.owner, tags=("old", "kept"))
    other = submit()
    assert 'name="add"' in preview(local_client, "tag", ended, other)
    assert "2 runs tagged." in press(
        local_client, "tag", ended, other, add="new, kept", remove="old"
    )
    assert [tag.name for tag in ended.tags.all()] == ["kept", "new"]
    assert [tag.name for tag in other.tags.all()] == ["kept", "new"]


def test_a_tag_that_cannot_be_stored_is_said(local_client: Client, ended: Run) -> None:
    assert "A tag has 1 to 64 characters" in press(local_client, "tag", ended, add="x" * 10_000)
    assert ended.tags.count() == 0


def test_the_second_of_two_people_sees_what_happened(local_client: Client, ended: Run) -> None:
    trash_run(run=ended, by=ended.owner)
    assert "1 of the chosen runs is no longer there." in press(local_client, "delete", ended)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("do=delete", "No run is chosen"),
        (f"do=explode&ids={uuid.UUID(int=7)}", "Choose runs in the list"),
        ("do=delete&ids=nonsense", "Choose runs in the list"),
        (
            "do=delete&ids=" + ",".join(str(uuid.UUID(int=number)) for number in range(101)),
            "At most 100 runs at once; 101",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_goes_back_and_says_so(
    local_client: Client, query: str, said: str
) -> None:
    response = local_client.get(f"/runs/chosen?{query}&next=https://example.org/", follow=True)
    assert response.redirect_chain == [("/", 302)]
    assert said in response.content.decode()


@pytest.mark.parametrize("count", [1, 3])
def test_the_preview_reads_the_runs_in_one_query(
    local_client: Client,
    submit: Submit,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    runs = [submit() for _ in range(count)]
    local_client.get("/")
    with django_assert_num_queries(2):  # the local user, the runs
        preview(local_client, "delete", *runs)
