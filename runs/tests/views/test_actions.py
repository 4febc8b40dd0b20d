"""The buttons: each posts to its service, the result shows, and what cannot be done is said."""

import uuid

import pytest
from django.contrib.auth.models import User
from django.test import Client

from runs.models import Host, Run
from runs.services.cancelling import request_cancel
from runs.services.claiming import claim_run
from runs.tests.conftest import Submit
from tunixrt.tests.clients import NEARBY

ACTIONS = ("cancel", "retry", "trash", "pin", "annotate", "remove-file")


pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def ended(submit: Submit) -> Run:
    run = submit()
    return request_cancel(run=run, by=run.owner)


def press(client: Client, run: Run, action: str, **data: str) -> str:
    """Post as a form does and follow the redirect; the page that shows."""
    response = client.post(f"/runs/{run.pk}/{action}", data, follow=True)
    assert [status for _, status in response.redirect_chain] == [302]
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("action", ACTIONS)
def test_only_somebody_logged_in_may_press_them(
    remote_client: Client, ended: Run, action: str
) -> None:
    response = remote_client.post(f"/runs/{ended.pk}/{action}")
    assert response.status_code == 302
    assert response["Location"].startswith("/login?next=")
    ended.refresh_from_db()
    assert (ended.status, ended.trashed_at, ended.pinned, ended.retries.count()) == (
        "cancelled",
        None,
        False,
        0,
    )


@pytest.mark.parametrize("action", ACTIONS)
def test_they_post(local_client: Client, ended: Run, action: str) -> None:
    assert local_client.get(f"/runs/{ended.pk}/{action}").status_code == 405


@pytest.mark.parametrize("action", ACTIONS)
def test_they_ask_for_the_security_token(ended: Run, action: str) -> None:
    response = Client(**NEARBY, enforce_csrf_checks=True).post(f"/runs/{ended.pk}/{action}")
    assert response.status_code == 403
    assert "Please send the form again" in response.content.decode()


@pytest.mark.parametrize("action", ACTIONS)
def test_a_run_that_is_not_there_is_404(local_client: Client, action: str) -> None:
    assert local_client.post(f"/runs/{uuid.uuid4()}/{action}").status_code == 404


def test_somebody_with_an_account_may_act_from_far_away(
    remote_client: Client, submit: Submit, user: User
) -> None:
    remote_client.force_login(user)
    run = submit()
    press(remote_client, run, "cancel")
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert run.events.latest("id").by == "somebody"


def test_cancel_a_pending_run(local_client: Client, submit: Submit) -> None:
    run = submit()
    page = press(local_client, run, "cancel")
    assert f"Run {str(run.pk)[:8]} is cancelled." in page
    assert "is-cancelled" in page
    assert "cancelled by local" in page


def test_cancel_a_running_run_and_again(local_client: Client, submit: Submit) -> None:
    run = submit()
    claim_run(run=run, host=Host.objects.create(name="a-host"), by="test")
    assert "is asked to stop" in press(local_client, run, "cancel")
    assert "is-cancelling" in press(local_client, run, "cancel")


def test_the_second_of_two_people_sees_what_happened(local_client: Client, ended: Run) -> None:
    assert "The run has ended already: it is cancelled." in press(local_client, ended, "cancel")


def test_retry_shows_the_new_run(local_client: Client, ended: Run) -> None:
    page = press(local_client, ended, "retry")
    retry = ended.retries.get()
    assert f"This run tries {str(ended.pk)[:8]} again, from scratch." in page
    assert str(retry.pk) in page
    assert retry.owner.username == "local"


def test_an_active_run_is_not_retried(local_client: Client, submit: Submit) -> None:
    run = submit()
    assert "Only an ended run can be retried" in press(local_client, run, "retry")
    assert run.retries.count() == 0


def test_trash(local_client: Client, ended: Run) -> None:
    page = press(local_client, ended, "trash")
    assert "is in the trash" in page
    assert "No runs found" in page
    ended.refresh_from_db()
    assert ended.trashed_at is not None


def test_an_active_run_is_not_deleted(local_client: Client, submit: Submit) -> None:
    run = submit()
    assert "Only an ended run can be deleted" in press(local_client, run, "trash")


def test_pin_and_unpin(local_client: Client, ended: Run) -> None:
    assert ">Unpin</button>" in press(local_client, ended, "pin", pinned="true")
    ended.refresh_from_db()
    assert ended.pinned
    assert ">Pin</button>" in press(local_client, ended, "pin", pinned="false")
    ended.refresh_from_db()
    assert not ended.pinned


def test_annotate(local_client: Client, ended: Run) -> None:
    page = press(
        local_client, ended, "annotate", tags="one, two ,, one", notes="first line\r\nsecond"
    )
    assert "Tags and notes saved." in page
    ended.refresh_from_db()
    assert ended.notes == "first line\nsecond"
    assert [tag.name for tag in ended.tags.all()] == ["one", "two"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tags", "x" * 10_000, "A tag has 1 to 64 characters"),
        ("notes", "x" * 20_001, "at most 20,000"),
        ("tags", "a\x07b", "control"),
    ],
)
def test_annotations_that_cannot_be_stored_are_refused(
    local_client: Client, ended: Run, field: str, value: str, said: str
) -> None:
    page = press(local_client, ended, "annotate", **{"tags": "", "notes": "kept?", field: value})
    assert "Nothing was changed." in page
    assert said in page
    ended.refresh_from_db()
    assert ended.notes == ""


def test_goes_back_to_the_page_of_ours_that_asked(local_client: Client, submit: Submit) -> None:
    response = local_client.post(f"/runs/{submit().pk}/cancel", {"next": "/?status=pending"})
    assert response["Location"] == "/?status=pending"


@pytest.mark.parametrize(
    "target",
    [
        "https://example.org/",
        "//example.org/",
        "/\\example.org",
        "javascript:alert(1)",
        "\t//example.org",
    ],
)
def test_never_goes_to_another_site(local_client: Client, submit: Submit, target: str) -> None:
    run = submit()
    assert (
        local_client.post(f"/runs/{run.pk}/cancel", {"next": target})["Location"]
        == f"/runs/{run.pk}"
    )
