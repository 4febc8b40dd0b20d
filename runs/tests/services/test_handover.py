"""A leaver's runs and datasets get another owner: all of them, in batches, once, and it stays known
who had them."""

import io

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.admin import owners
from runs.models import Run
from runs.services import handover
from runs.services.cancelling import request_cancel
from runs.services.deletion import trash_run
from runs.services.handover import Belongings, CannotOwn, hand_over
from runs.tests.conftest import Submit
from tunixrt.refusals import NotAllowed
from tunixrt.roles import Role, set_role
from tunixrt.tests.clients import FAR_AWAY


@pytest.fixture
def heir(db: None) -> User:
    return User.objects.create_user("heir")


@pytest.fixture
def owned(submit: Submit, dataset: Dataset, user: User) -> list[Run]:
    """Three runs of ``user``, one of them in the trash, and a dataset."""
    Dataset.objects.update(created_by=user)
    runs = [
        submit(client_request_id=f"request-{number}", webhook_url="https://hooks.example.org/key")
        for number in range(3)
    ]
    trash_run(run=request_cancel(run=runs[0], by=user), by=user)
    return runs


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_all_runs_and_datasets_get_the_new_owner(
    owned: list[Run],
    user: User,
    heir: User,
    staff: User,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    monkeypatch.setattr(handover, "BATCH", batch)

    handed = hand_over(owner=user, to=heir, by=staff)

    assert str(handed) == "3 runs and 1 dataset"
    assert set(Run.objects.values_list("owner", "client_request_id")) == {(heir.pk, None)}
    assert Dataset.objects.get().created_by == heir
    for run in owned:
        assert run.events.get(by=staff.username).reason == "handed over from somebody to heir"
    entries = (
        LogEntry.objects.filter(user=staff)
        .order_by("pk")
        .values_list("object_repr", "change_message")
    )
    assert list(entries) == [
        ("sums-v1", "handed over from somebody to heir"),
        ("somebody", "3 runs and 1 dataset handed over from somebody to heir"),
    ]


def test_no_transaction_holds_more_than_a_batch(
    owned: list[Run], user: User, heir: User, staff: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "BATCH", 2)
    with CaptureQueriesContext(connection) as queries:
        hand_over(owner=user, to=heir, by=staff)

    # "RELEASE SAVEPOINT " is the end of a transaction in a test
    told = [query["sql"].split('"')[0] for query in queries]
    first, second = (
        place
        for place, query in enumerate(queries)
        if query["sql"].startswith('UPDATE "tunix_runs"')
    )
    assert "RELEASE SAVEPOINT " in told[first:second]


def test_again_nothing_is_left_to_do(owned: list[Run], user: User, heir: User, staff: User) -> None:
    hand_over(owner=user, to=heir, by=staff)
    entries = LogEntry.objects.count()
    assert not hand_over(owner=user, to=heir, by=staff)
    assert LogEntry.objects.count() == entries


def test_the_new_owner_acts_on_them_and_the_old_one_no_longer_does(
    owned: list[Run], user: User, heir: User, staff: User
) -> None:
    hand_over(owner=user, to=heir, by=staff)
    clients = {}
    for person in (user, heir):
        clients[person.username] = APIClient(REMOTE_ADDR=FAR_AWAY)
        clients[person.username].force_authenticate(person)
    path = f"/api/tunix/runs/{owned[1].pk}"
    assert clients["somebody"].post(f"{path}/cancel").status_code == 403
    assert clients["heir"].post(f"{path}/cancel").status_code == 202
    assert (
        clients["somebody"].get(path).json()["config"]["webhook_url"]
        == "https://hooks.example.org/…"
    )
    assert (
        clients["heir"].get(path).json()["config"]["webhook_url"] == "https://hooks.example.org/key"
    )


def test_who_cannot_own_runs_gets_none(
    owned: list[Run], user: User, heir: User, staff: User
) -> None:
    with pytest.raises(NotAllowed, match="operator"):
        hand_over(owner=user, to=heir, by=heir)
    with pytest.raises(CannotOwn, match="one and the same"):
        hand_over(owner=user, to=user, by=staff)
    set_role(user=heir, role=Role.VIEWER)
    with pytest.raises(
        CannotOwn, match="heir has the role viewer; owning runs takes the role researcher"
    ):
        hand_over(owner=user, to=heir, by=staff)
    User.objects.filter(pk=heir.pk).update(is_active=False)
    heir.refresh_from_db()
    with pytest.raises(CannotOwn, match="not active"):
        hand_over(owner=user, to=heir, by=staff)
    assert Run.objects.filter(owner=user).count() == 3


def test_the_command(owned: list[Run], user: User, heir: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)
    said = io.StringIO()
    call_command("hand_over", "somebody", "heir", stdout=said)
    assert said.getvalue() == "3 runs and 1 dataset handed over from somebody to heir.\n"
    with pytest.raises(CommandError, match="There is no account nobody-here"):
        call_command("hand_over", "somebody", "nobody-here")
    with pytest.raises(CommandError, match="one and the same"):
        call_command("hand_over", "heir", "heir")


LIST = "/admin/auth/user/"


def act(client: Client, action: str, *users: User, **more: str) -> str:
    data = {"action": action, "_selected_action": [str(user.pk) for user in users], **more}
    return client.post(LIST, data, follow=True).content.decode()


class TestTheAdmin:
    def test_it_asks_to_whom_and_does_it(
        self, owned: list[Run], user: User, heir: User, operator: Client
    ) -> None:
        page = act(operator, "hand_over", user)
        assert "somebody owns 3 runs and 1 dataset." in page
        assert Run.objects.filter(owner=user).count() == 3
        assert "There is no account of this name." in act(
            operator, "hand_over", user, to="nobody-here"
        )
        assert "one and the same account" in act(operator, "hand_over", user, to="somebody")

        page = act(operator, "hand_over", user, to="heir")

        assert "3 runs and 1 dataset handed over from somebody to heir." in page
        assert Run.objects.filter(owner=heir).count() == 3

    def test_one_account_at_a_time(self, user: User, heir: User, operator: Client) -> None:
        assert "Choose one account" in act(operator, "hand_over", user, heir)

    def test_a_great_many_are_for_the_command(
        self,
        owned: list[Run],
        user: User,
        heir: User,
        operator: Client,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(owners, "HANDED_MAX", 2)
        assert "use manage.py hand_over somebody NEW-OWNER" in act(
            operator, "hand_over", user, to="heir"
        )
        assert Run.objects.filter(owner=user).count() == 3

    def test_a_researcher_may_not(self, owned: list[Run], user: User, heir: User) -> None:
        client = Client(REMOTE_ADDR=FAR_AWAY)
        client.force_login(heir)
        act(client, "hand_over", user, to="heir")
        assert Run.objects.filter(owner=user).count() == 3

    def test_the_deactivation_of_an_owner_offers_it(
        self, owned: list[Run], user: User, heir: User, operator: Client
    ) -> None:
        page = act(operator, "deactivate", user, heir)
        assert page.count("still owns") == 1
        assert (
            "The account somebody still owns 3 runs and 1 dataset. To give them to another account"
            in page
        )
        act(operator, "activate", user)

        fields = {
            "username": "somebody",
            "date_joined_0": "2026-01-01",
            "date_joined_1": "00:00:00",
        }
        page = operator.post(f"{LIST}{user.pk}/change/", fields, follow=True).content.decode()
        assert "The account somebody still owns 3 runs and 1 dataset" in page


@pytest.mark.parametrize(("runs", "datasets"), [(1, 0), (0, 1), (2, 3)])
def test_whoever_has_runs_or_datasets_owns_something(runs: int, datasets: int) -> None:
    assert Belongings(runs, datasets)
    assert not Belongings(0, 0)
