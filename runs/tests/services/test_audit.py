"""Every action of a person leaves who did it: among the run's events, or in the audit log where the
run goes away."""

from collections.abc import Callable

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from runs.models import Host, Run
from runs.services.claiming import claim_run
from runs.services.deletion import purge_run
from runs.services.finishing import finish_run
from runs.tests.conftest import Submit
from runs.tests.leftovers import leave_checkpoints_of
from tunixrt.audit import system_user
from tunixrt.tests.clients import FAR_AWAY

Act = Callable[[Run], object]


pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def other() -> User:
    """Somebody else than the owner of the runs."""
    return User.objects.create_superuser("other")


@pytest.fixture
def page(remote_client: Client, other: User) -> Client:
    remote_client.force_login(other)
    return remote_client


@pytest.fixture
def by_api(other: User) -> APIClient:
    client = APIClient(REMOTE_ADDR=FAR_AWAY)
    client.force_authenticate(other)
    return client


def ended(run: Run) -> Run:
    claim_run(run=run, host=Host.objects.get_or_create(name="a-host")[0], by="test")
    return finish_run(run=run, status="failed", reason="it broke", by="test")


def said_by(run: Run, name: str = "other") -> list[str]:
    return [event.reason for event in run.events.filter(by=name)]


def test_acts_on_a_waiting_run(submit: Submit, page: Client, by_api: APIClient) -> None:
    def admin(action: str) -> Act:
        return lambda run: page.post(
            "/admin/runs/run/", {"action": action, "_selected_action": [str(run.pk)]}
        )

    acts: dict[str, tuple[Act, str]] = {
        "cancelled in the API": (
            lambda run: by_api.post(f"/api/tunix/runs/{run.pk}/cancel"),
            "cancelled by other",
        ),
        "cancelled on the page": (
            lambda run: page.post(f"/runs/{run.pk}/cancel"),
            "cancelled by other",
        ),
        "cancelled with others": (
            lambda run: page.post("/runs/chosen", {"do": "cancel", "ids": str(run.pk)}),
            "cancelled by other",
        ),
        "cancelled in the admin": (admin("cancel"), "cancelled by other"),
        "moved in the admin": (admin("prioritise"), "priority 0 → 1"),
        "pinned in the admin": (admin("pin"), "pinned changed"),
        "pinned on the page": (
            lambda run: page.post(f"/runs/{run.pk}/pin", {"pinned": "true"}),
            "pinned changed",
        ),
        "tagged on the page": (
            lambda run: page.post(f"/runs/{run.pk}/annotate", {"tags": "a"}),
            "tags changed",
        ),
        "tagged with others": (
            lambda run: page.post("/runs/chosen", {"do": "tag", "ids": str(run.pk), "add": "a"}),
            "tags changed",
        ),
        "noted in the API": (
            lambda run: by_api.patch(f"/api/tunix/runs/{run.pk}", {"notes": "x"}, format="json"),
            "notes changed",
        ),
    }
    for name, (act, reason) in acts.items():
        run = submit()
        act(run)
        assert said_by(run) == [reason], name
        run.refresh_from_db()
        if run.is_active:  # the next one is alone in the queue
            by_api.post(f"/api/tunix/runs/{run.pk}/cancel")


def test_acts_on_an_ended_run(submit: Submit, page: Client, by_api: APIClient) -> None:
    acts: dict[str, Act] = {
        "API": lambda run: by_api.post(f"/api/tunix/runs/{run.pk}/retry"),
        "page": lambda run: page.post(f"/runs/{run.pk}/retry"),
        "admin": lambda run: page.post(
            "/admin/runs/run/", {"action": "retry", "_selected_action": [str(run.pk)]}
        ),
    }
    for name, act in acts.items():
        run = ended(submit())
        act(run)
        assert said_by(run.retries.get()) == ["submitted"], name

    run = ended(submit())
    leave_checkpoints_of(run, 1)
    page.post(f"/runs/{run.pk}/remove-file?path=checkpoints/1")
    assert said_by(run) == ["checkpoints/1 removed (36 bytes)"]
    entry = LogEntry.objects.get(action_flag=DELETION)  # outlives the run
    assert (entry.user.username, entry.object_id, entry.change_message) == (
        "other",
        str(run.pk),
        said_by(run)[0],
    )


@pytest.mark.parametrize("where", ["API", "page", "chosen", "admin"])
def test_who_deleted_a_run_is_known_when_it_is_gone(
    submit: Submit, page: Client, by_api: APIClient, other: User, where: str
) -> None:
    run = ended(submit())
    match where:
        case "API":
            by_api.delete(f"/api/tunix/runs/{run.pk}")
        case "page":
            page.post(f"/runs/{run.pk}/trash")
        case "chosen":
            page.post("/runs/chosen", {"do": "delete", "ids": str(run.pk)})
        case "admin":
            page.post("/admin/runs/run/", {"action": "trash", "_selected_action": [str(run.pk)]})
    run.refresh_from_db()
    assert said_by(run) == ["moved to the trash"]
    pk = str(run.pk)
    purge_run(run=run, by=system_user())

    trashed, purged = LogEntry.objects.order_by("id")
    assert (trashed.user, trashed.object_id, trashed.action_flag) == (other, pk, DELETION)
    assert (purged.user.username, purged.object_id, purged.change_message) == (
        "system",
        pk,
        "deleted with files (0 bytes)",
    )
    assert pk in page.get("/admin/admin/logentry/").content.decode()


def test_a_run_that_is_deleted_twice_says_so(
    submit: Submit, by_api: APIClient, page: Client
) -> None:
    run = ended(submit())
    assert by_api.delete(f"/api/tunix/runs/{run.pk}").status_code == 200
    answer = page.post(
        "/admin/runs/run/?trash=in",
        {"action": "trash", "_selected_action": [str(run.pk)]},
        follow=True,
    )
    assert "it is in the trash already" in answer.content.decode()
    assert LogEntry.objects.count() == 1
