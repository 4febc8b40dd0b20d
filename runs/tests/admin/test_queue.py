"""The queue page of the admin: what it shows, who may look, and what it costs."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Failure, OrmQ

from runs.models import Host, Run, WebhookDelivery
from runs.queries import queue as queue_state
from runs.queries.queue import read_queue
from runs.services.annotations import set_priority
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.output_root import root_problem
from runs.tests.conftest import Submit

QUEUE = "/admin/runs/host/queue/"


class Parts(HTMLParser):
    """The text of every element with a data-testid, by that id, in their order."""

    VOID = {"input", "link", "meta", "br", "img"}

    def __init__(self, page: str):
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._open: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        name = dict(attrs).get("data-testid")
        self._open.append(name)
        if name:
            self.found.setdefault(name, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in filter(None, self._open):
            self.found[name][-1] = " ".join(f"{self.found[name][-1]} {data}".split())

    def __getitem__(self, name: str) -> list[str]:
        return self.found.get(name, [])


pytestmark = pytest.mark.usefixtures("a_training_command")


@pytest.fixture
def host(db: None) -> Host:
    now = timezone.now()
    return Host.objects.create(
        name="a-host",
        slots=2,
        heartbeat_at=now,
        canary_at=now,
        started_at=now,
        runtime_version="0.1.7",
    )


def look(client: Client) -> Parts:
    page = client.get(QUEUE)
    assert page.status_code == 200
    return Parts(page.content.decode())


def test_an_empty_system(operator: Client) -> None:
    parts = look(operator)
    assert parts["queue-waiting"] == ["0"]
    assert parts["queue-oldest"] == ["–"]
    assert (
        parts["queue-host"]
        == parts["queue-next"]
        == parts["queue-failed"]
        == parts["queue-problem"]
        == []
    )


def test_what_executes_waits_and_failed(operator: Client, submit: Submit, host: Host) -> None:
    running, failed, first, second = (submit() for _ in range(4))
    claim_run(run=running, host=host, by="test")
    claim_run(run=failed, host=host, by="test")
    finish_run(run=failed, status="failed", reason="the disk is <full>", by="test")
    set_priority(run=second, by=running.owner, priority=5)

    page = operator.get(QUEUE).content.decode()
    parts = Parts(page)

    assert parts["queue-waiting"] == ["2"]
    assert parts["queue-slots"] == ["1 of 2 used"]
    (row,) = parts["queue-host"]
    assert row.startswith("a-host alive")
    assert "1 used, 1 free of 2" in row and str(running.pk)[:8] in row and "0.1.7" in row
    assert [row[:8] for row in parts["queue-next"]] == [str(second.pk)[:8], str(first.pk)[:8]]
    (row,) = parts["queue-failed"]
    assert row.startswith(str(failed.pk)[:8]) and row.endswith("the disk is <full>")
    assert "<full>" not in page
    for run in (running, failed, first, second):
        assert f"/admin/runs/run/{run.pk}/change/" in page


def test_says_what_is_wrong(operator: Client, submit: Submit, host: Host) -> None:
    submit()
    Run.objects.update(created_at=timezone.now() - timedelta(minutes=6))
    assert look(operator)["queue-problem"] == [
        "A run has waited longer than five minutes although slots are free: look at the attendants'"
        " logs."
    ]
    Host.objects.update(canary_at=timezone.now() - timedelta(minutes=2), slots=0)
    assert look(operator)["queue-problem"] == [
        "Trainings wait and no live host has a slot: TUNIX_SLOTS is 0 everywhere.",
        "The task workers of a-host have done nothing for a minute; its attendant replaces them.",
    ]
    Host.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=10))
    assert look(operator)["queue-problem"] == [
        "Runs wait and no host is alive: start “manage.py attend” on one."
    ]
    claim_run(run=Run.objects.get(), host=host, by="test")
    assert look(operator)["queue-problem"] == [
        "a-host has not been heard of for longer than 60 s while it executes 1 run."
    ]


def test_a_full_output_root_is_what_runs_wait_for(
    operator: Client, submit: Submit, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit()
    Run.objects.update(created_at=timezone.now() - timedelta(minutes=6))
    assert root_problem() is None  # marks the root, as every host does
    monkeypatch.setattr("runs.services.output_root.ROOT_FREE_BYTES", 2**80)
    (problem,) = look(operator)["queue-problem"]
    assert "is full:" in problem


def test_runs_of_a_host_that_is_gone_are_not_forgotten(
    operator: Client, submit: Submit, host: Host
) -> None:
    run = submit()
    claim_run(run=run, host=host, by="test")
    Run.objects.update(host=None)
    assert any(str(run.pk)[:8] in problem for problem in [operator.get(QUEUE).content.decode()])
    assert read_queue().homeless == [run]


def test_messages_and_failed_tasks_of_the_task_queue(operator: Client) -> None:
    OrmQ.objects.create(key="tunixrt", payload="no payload of ours")
    now = timezone.now()
    Failure.objects.create(
        id="f" * 32,
        name="canary-1",
        func="runs.tasks.canary",
        started=now,
        stopped=now,
        success=False,
        result="it <broke>",
    )
    page = operator.get(QUEUE).content.decode()
    assert "runs.tasks.canary" in page and "it &lt;broke&gt;" in page
    assert read_queue().tasks.number == 1
    assert operator.get("/admin/django_q/ormq/").status_code == 200
    assert operator.get(f"/admin/django_q/failure/{'f' * 32}/change/").status_code == 200
    operator.post(
        "/admin/django_q/failure/",
        {"action": "delete_selected", "_selected_action": ["f" * 32], "post": "yes"},
        follow=True,
    )
    assert not Failure.objects.exists()


@pytest.mark.parametrize("permissions", [[], ["view_run"], ["view_host"]])
def test_staff_without_the_permissions_see_nothing(
    remote_client: Client, user: User, permissions: list[str]
) -> None:
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    remote_client.force_login(user)
    assert remote_client.get(QUEUE).status_code == 403
    assert "to-queue" not in remote_client.get("/admin/").content.decode()


def test_who_is_not_staff_is_asked_to_log_in(remote_client: Client, user: User) -> None:
    remote_client.force_login(user)
    answer = remote_client.get(QUEUE)
    assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/admin/login/")


def test_is_linked_from_the_index_and_only_read(operator: Client) -> None:
    assert f'href="{QUEUE}"' in operator.get("/admin/").content.decode()
    assert operator.post(QUEUE).status_code == 405


def test_costs_the_same_whatever_waits_and_counts_no_further_than_it_shows(
    operator: Client, submit: Submit, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_state, "COUNTED_MAX", 3)
    monkeypatch.setattr(queue_state, "NEXT_MAX", 2)

    def statements() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            look(operator)
        # what requests measure is written after them
        return [
            query["sql"] for query in captured.captured_queries if query["sql"].startswith("SELECT")
        ]

    submit()
    look(operator)  # what is read once and remembered
    few = statements()
    claim_run(run=submit(), host=host, by="test")
    for _ in range(5):
        submit()
    many = statements()

    assert len(many) == len(few) <= 16, many  # with the session and its account
    for statement in many:
        if "COUNT(" in statement:
            assert re.search(r"LIMIT 4\)", statement), statement
    parts = look(operator)
    assert parts["queue-waiting"] == ["more than 3"]
    assert len(parts["queue-next"]) == 2


def test_failures_and_waiting_webhooks_are_found_by_their_index(submit: Submit, host: Host) -> None:
    rows = Run.objects.visible().failed("failed")[:10]
    if connection.vendor == "sqlite":
        assert "ix_tunix_runs_failed" in rows.explain() and "TEMP" not in rows.explain()
        assert (
            "INDEX ix_webhook_"
            in WebhookDelivery.objects.filter(state="waiting").order_by().explain()
        )
    else:
        # A planner that has seen three rows reads the table. Forbid that, to see whether the index
        # serves.
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
        assert "ix_tunix_runs_failed" in rows.explain()
