"""Webhooks: a real receiver on loopback, real signatures, real failures."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from runs import services, webhooks
from runs.models import DeliveryState, Run, RunStatus, WebhookDelivery
from runs.tests.conftest import Submit
from runs.tests.ports import HeldPort


class Receiver(HTTPServer):
    """Answers each POST with the next of ``answers`` (then 200) and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?x=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(settings: LazySettings) -> Iterator[Receiver]:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = True
    server = Receiver()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def end(run: Run, user: User) -> Run:
    """The run's end: cancelled while it waits."""
    return services.request_cancel(run=run, by=user)


def only_delivery(run: Run) -> WebhookDelivery:
    return run.webhook_deliveries.get()


def make_due(delivery: WebhookDelivery) -> None:
    delivery.next_attempt_at = timezone.now()
    delivery.save(update_fields=["next_attempt_at"])


def test_the_end_of_a_run_is_told_signed_and_once(submit: Submit, user: User, receiver: Receiver) -> None:
    run = end(submit(webhook_url=receiver.url), user)

    assert webhooks.deliver_due() == 1
    assert webhooks.deliver_due() == 0

    [(path, headers, body)] = receiver.got
    assert path == "/hook?x=1"
    message = json.loads(body)
    assert message["event"] == "run.ended"
    assert message["run_id"] == str(run.run_id)
    assert message["status"] == "cancelled"
    assert message["exit_code"] is None
    assert message["message"] == "cancelled by somebody"
    assert message["completed_at"].endswith("Z")
    secret = webhooks.webhook_secret()
    signed = hmac.new(secret, f"{headers['X-Tunix-Timestamp']}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-Tunix-Signature"] == f"sha256={signed}"
    delivery = only_delivery(run)
    assert delivery.state == DeliveryState.DELIVERED
    assert [attempt.status_code for attempt in delivery.log.all()] == [200]


def test_a_dry_run_answered_in_the_request_is_told(api: APIClient, body: dict[str, Any], receiver: Receiver) -> None:
    answer = api.post("/api/tunix/run", body | {"webhook_url": receiver.url}, format="json").json()
    webhooks.deliver_due()
    assert json.loads(receiver.got[0][2])["status"] == "completed"
    assert json.loads(receiver.got[0][2])["run_id"] == answer["run_id"]


def test_without_an_address_nothing_is_sent(submit: Submit, user: User) -> None:
    end(submit(), user)
    assert not WebhookDelivery.objects.exists()


def test_the_setting_is_the_default_and_the_run_has_the_last_word(
    submit: Submit, user: User, receiver: Receiver, settings: LazySettings
) -> None:
    settings.TUNIX_WEBHOOK_URL = "https://everyone.example/hook"
    first, second = end(submit(), user), end(submit(webhook_url=receiver.url), user)
    assert only_delivery(first).url == "https://everyone.example/hook"
    assert only_delivery(second).url == receiver.url


def test_a_secret_of_ones_own(settings: LazySettings) -> None:
    derived = webhooks.webhook_secret()
    settings.TUNIX_WEBHOOK_SECRET = "told to the receiver"
    assert webhooks.webhook_secret() == b"told to the receiver" != derived


def test_a_failing_receiver_is_tried_again_later(submit: Submit, user: User, receiver: Receiver) -> None:
    receiver.answers = [(500, {}), (503, {})]
    run = end(submit(webhook_url=receiver.url), user)
    for _ in range(3):
        make_due(only_delivery(run))
        webhooks.deliver_due()
    delivery = only_delivery(run)
    assert delivery.state == DeliveryState.DELIVERED
    assert [attempt.status_code for attempt in delivery.log.all()] == [500, 503, 200]
    assert [attempt.error for attempt in delivery.log.all()] == ["The receiver answered 500.", "The receiver answered 503.", ""]


def test_pauses_double_up_to_an_hour() -> None:
    pauses = [webhooks.pause_after(attempts).total_seconds() for attempts in range(1, 12)]
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


def test_a_dead_receiver_is_given_up_and_the_run_is_untouched(
    submit: Submit, user: User, settings: LazySettings, receiver: Receiver, port: HeldPort
) -> None:
    run = end(submit(webhook_url=port.url), user)
    for _ in range(webhooks.MAX_ATTEMPTS):
        make_due(only_delivery(run))
        webhooks.deliver_due()
    delivery = only_delivery(run)
    assert delivery.state == DeliveryState.GIVEN_UP
    assert delivery.log.count() == webhooks.MAX_ATTEMPTS
    assert "refused" in delivery.log.all()[0].error
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED


def test_redirects_are_not_followed(submit: Submit, user: User, receiver: Receiver) -> None:
    receiver.answers = [(302, {"Location": receiver.url})]
    run = end(submit(webhook_url=receiver.url), user)
    webhooks.deliver_due()
    assert len(receiver.got) == 1
    assert only_delivery(run).log.get().error == "The receiver answered with a redirect, which is not followed."


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[::1]", "[fe80::1]", "[::ffff:10.0.0.1]"]
)
def test_private_addresses_are_refused(host: str, submit: Submit, user: User, settings: LazySettings) -> None:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = False
    run = end(submit(), user)
    delivery = WebhookDelivery.objects.create(run=run, url=f"http://{host}:9/", payload={}, next_attempt_at=timezone.now())
    webhooks.deliver_due()
    assert "not a public address" in delivery.log.get().error


def test_one_worker_sends_while_the_others_wait(submit: Submit, user: User, receiver: Receiver) -> None:
    run = end(submit(webhook_url=receiver.url), user)
    delivery = only_delivery(run)
    stale = WebhookDelivery.objects.get(pk=delivery.pk)
    assert webhooks._take_due() == [delivery]
    assert webhooks._take_due() == []
    assert WebhookDelivery.objects.get(pk=delivery.pk).next_attempt_at - stale.next_attempt_at > timedelta(seconds=60)


def test_a_run_purged_while_its_message_is_sent_does_no_harm(submit: Submit, user: User, receiver: Receiver) -> None:
    run = end(submit(webhook_url=receiver.url), user)
    [delivery] = webhooks._take_due()
    outcome = webhooks.send(delivery.url, delivery.payload, delivery.pk)
    services.trash_run(run=run, by=user)
    run.refresh_from_db()
    services.purge_run(run=run)
    webhooks._record(delivery, outcome)
    assert not WebhookDelivery.objects.exists()


@pytest.mark.parametrize("url", ["ftp://host.example/", "http://", "javascript:alert(1)", "http://host.example:99999999/", 5])
def test_addresses_that_are_none(url: Any, api: APIClient, body: dict[str, Any]) -> None:
    response = api.post("/api/tunix/run", body | {"webhook_url": url}, format="json")
    assert response.status_code == 400
    assert list(response.json()) == ["detail", "webhook_url"]
