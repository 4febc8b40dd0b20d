"""Webhooks: a real receiver on loopback, real signatures, real failures."""

import contextlib
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from runs.models import DeliveryState, Run, RunStatus, WebhookDelivery
from runs.services import cancelling, deletion, webhook_delivery
from runs.tests.conftest import Submit
from runs.tests.ports import HeldPort
from tunixrt.addresses import is_public
from tunixrt.outbound import not_public


class Receiver(ThreadingHTTPServer):
    """Answers each POST with the next of ``answers`` (then 200) and keeps what came. ``endless``
    names the part of an answer that goes on, a little every tenth of a second, until
    ``released``."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", endless: str = "") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.answer_body = b""
        self.endless = endless
        self.released = Event()
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
        with contextlib.suppress(OSError):  # the client has given up
            self._wait("status", b"")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.flush_headers()
            self._wait("headers", b"X-More: 1\r\n")
            self.end_headers()
            self._wait("body", b".")
            self.wfile.write(self.server.answer_body)

    def _wait(self, part: str, drip: bytes) -> None:
        while self.server.endless == part and not self.server.released.wait(0.1):
            self.wfile.write(drip)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(server: Receiver) -> Iterator[Receiver]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver(settings: LazySettings) -> Iterator[Receiver]:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = True
    with serving(Receiver()) as server:
        yield server


def end(run: Run, user: User) -> Run:
    """The run's end: cancelled while it waits."""
    return cancelling.request_cancel(run=run, by=user)


def only_delivery(run: Run) -> WebhookDelivery:
    return run.webhook_deliveries.get()


def make_due(delivery: WebhookDelivery) -> None:
    delivery.next_attempt_at = timezone.now()
    delivery.save(update_fields=["next_attempt_at"])


def test_the_end_of_a_run_is_told_signed_and_once(
    submit: Submit, user: User, receiver: Receiver
) -> None:
    run = end(submit(webhook_url=receiver.url), user)

    assert webhook_delivery.deliver_due() == 1
    assert webhook_delivery.deliver_due() == 0

    [(path, headers, body)] = receiver.got
    assert path == "/hook?x=1"
    message = json.loads(body)
    assert message["event"] == "run.ended"
    assert message["run_id"] == str(run.run_id)
    assert message["status"] == "cancelled"
    assert message["exit_code"] is None
    assert message["message"] == "cancelled by somebody"
    assert message["completed_at"].endswith("Z")
    secret = webhook_delivery.webhook_secret()
    delivery = only_delivery(run)
    signed = f"{headers['X-Tunix-Timestamp']}\n{delivery.pk}\n{receiver.url}\n".encode() + body
    assert headers["X-Tunix-Delivery"] == str(delivery.pk)
    assert (
        headers["X-Tunix-Signature"]
        == f"sha256={hmac.new(secret, signed, hashlib.sha256).hexdigest()}"
    )
    assert delivery.state == DeliveryState.DELIVERED
    assert [attempt.status_code for attempt in delivery.log.all()] == [200]


def test_a_dry_run_answered_in_the_request_is_told(
    api: APIClient, body: dict[str, Any], receiver: Receiver
) -> None:
    answer = api.post("/api/tunix/run", body | {"webhook_url": receiver.url}, format="json").json()
    webhook_delivery.deliver_due()
    assert json.loads(receiver.got[0][2])["status"] == "completed"
    assert json.loads(receiver.got[0][2])["run_id"] == answer["run_id"]


def test_without_an_address_nothing_is_sent(submit: Submit, user: User) -> None:
    end(submit(), user)
    assert not WebhookDelivery.objects.exists()


def test_the_operators_address_is_told_of_every_run_and_a_runs_own_as_well(
    submit: Submit, user: User, receiver: Receiver, settings: LazySettings
) -> None:
    settings.TUNIX_WEBHOOK_URL = "https://everyone.example/hook"
    first, second = end(submit(), user), end(submit(webhook_url=receiver.url), user)
    same = end(submit(webhook_url=settings.TUNIX_WEBHOOK_URL), user)

    assert only_delivery(first).url == "https://everyone.example/hook"
    assert {delivery.url for delivery in second.webhook_deliveries.all()} == {
        "https://everyone.example/hook",
        receiver.url,
    }
    assert only_delivery(same).url == "https://everyone.example/hook"


def test_the_operators_address_may_be_private_without_allowing_it_for_runs(
    submit: Submit, user: User, receiver: Receiver, settings: LazySettings
) -> None:
    settings.TUNIX_WEBHOOK_URL = receiver.url
    waiting = submit(webhook_url=f"{receiver.url}&own=1")
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = False  # since it was submitted
    run = end(waiting, user)

    webhook_delivery.deliver_due()

    [(path, _, _)] = receiver.got
    assert path == "/hook?x=1"
    states = {delivery.url: delivery.state for delivery in run.webhook_deliveries.all()}
    assert states == {
        receiver.url: DeliveryState.DELIVERED,
        f"{receiver.url}&own=1": DeliveryState.GIVEN_UP,
    }


def test_a_secret_of_ones_own(settings: LazySettings) -> None:
    derived = webhook_delivery.webhook_secret()
    settings.TUNIX_WEBHOOK_SECRET = "told to the receiver"
    assert webhook_delivery.webhook_secret() == b"told to the receiver" != derived


def test_a_failing_receiver_is_tried_again_later(
    submit: Submit, user: User, receiver: Receiver
) -> None:
    receiver.answers = [(500, {}), (503, {})]
    run = end(submit(webhook_url=receiver.url), user)
    for _ in range(3):
        make_due(only_delivery(run))
        webhook_delivery.deliver_due()
    delivery = only_delivery(run)
    assert delivery.state == DeliveryState.DELIVERED
    assert [attempt.status_code for attempt in delivery.log.all()] == [500, 503, 200]
    assert [attempt.error for attempt in delivery.log.all()] == [
        "The receiver answered 500.",
        "The receiver answered 503.",
        "",
    ]


def test_pauses_double_up_to_an_hour() -> None:
    pauses = [webhook_delivery.pause_after(attempts).total_seconds() for attempts in range(1, 12)]
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


def test_a_dead_receiver_is_given_up_and_the_run_is_untouched(
    submit: Submit, user: User, settings: LazySettings, receiver: Receiver, port: HeldPort
) -> None:
    run = end(submit(webhook_url=port.url), user)
    for _ in range(webhook_delivery.MAX_ATTEMPTS):
        make_due(only_delivery(run))
        webhook_delivery.deliver_due()
    delivery = only_delivery(run)
    assert delivery.state == DeliveryState.GIVEN_UP
    assert delivery.log.count() == webhook_delivery.MAX_ATTEMPTS
    assert "connect" in delivery.log.all()[0].error
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED


def test_redirects_are_not_followed(submit: Submit, user: User, receiver: Receiver) -> None:
    receiver.answers = [(302, {"Location": receiver.url})]
    run = end(submit(webhook_url=receiver.url), user)
    webhook_delivery.deliver_due()
    assert len(receiver.got) == 1
    assert (
        only_delivery(run).log.get().error
        == "The receiver answered with a redirect, which is not followed."
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "localhost",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "[::1]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
    ],
)
def test_private_addresses_are_refused(
    host: str, submit: Submit, user: User, settings: LazySettings
) -> None:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = False
    run = end(submit(), user)
    delivery = WebhookDelivery.objects.create(
        run=run, url=f"http://{host}:9/", payload={}, next_attempt_at=timezone.now()
    )

    webhook_delivery.deliver_due()

    assert "TUNIX_WEBHOOK_ALLOW_PRIVATE allows it" in delivery.log.get().error
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == (
        DeliveryState.GIVEN_UP,
        1,
        None,
    )


def test_refused_addresses_are_said_in_the_right_number() -> None:
    assert not_public(["127.0.0.1"]).startswith("127.0.0.1 is not a public address;")
    assert not_public(["::1", "127.0.0.1"]).startswith("::1, 127.0.0.1 are not public addresses;")


NEVER = {
    "http://[64:ff9b::a9fe:a9fe]/": "The host '64:ff9b::a9fe:a9fe' is not a public address",
    "http://localhost/": "The host 'localhost' is not a public address",
    "http://100.64.0.1/": "The host '100.64.0.1' is not a public address",
    "https://user@10.0.0.1:8443/x": "The host '10.0.0.1' is not a public address",
    "http://127.1/": "Its host '127.1' is neither a full name nor an address in full.",
    "http://2130706433/": "Its host '2130706433' is neither",
    "http://[fe80::1%25lo]/": "Its host 'fe80::1%25lo' is neither",
    "http://127.0.0.1:80\\@host.example/": "The address must not hold backslashes.",
    "http://host.example:99999/": "The port must lie between 1 and 65535.",
    "http://host.example:0/": "The port must lie between 1 and 65535.",
    "http://intranet/": "Its host 'intranet' is neither",
}


@pytest.mark.parametrize(("url", "reason"), NEVER.items(), ids=NEVER)
def test_an_address_that_can_never_work_is_refused_with_the_reason(
    url: str, reason: str, api: APIClient, body: dict[str, Any], settings: LazySettings
) -> None:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = False
    for mode in ("", "?mode=async"):
        response = api.post(f"/api/tunix/run{mode}", body | {"webhook_url": url}, format="json")
        assert response.status_code == 400
        assert reason in response.json()["webhook_url"][0]
    assert not Run.objects.exists()


def test_a_private_address_is_taken_where_the_operator_allows_it(
    api: APIClient, body: dict[str, Any], settings: LazySettings
) -> None:
    private, own = "http://10.0.0.1/", "http://192.168.0.1/"
    for allowed, url, status in ((True, private, 202), (False, own, 202), (False, private, 400)):
        settings.TUNIX_WEBHOOK_ALLOW_PRIVATE, settings.TUNIX_WEBHOOK_URL = allowed, own
        assert (
            api.post("/api/tunix/run", body | {"webhook_url": url}, format="json").status_code
            == status
        )


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        ("::ffff:93.184.215.14", True),
        ("2002:5db8:d70e::1", True),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("::", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2002:0a00:0001::", False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),
        ("2001:db8::1", False),
        ("2606:2800::5efe:7f00:1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("fe80::1%eth0", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_name_with_two_addresses_is_reached_at_the_one_that_listens(
    family: socket.AddressFamily, submit: Submit, user: User, settings: LazySettings
) -> None:
    """curl resolves ``localhost`` to 127.0.0.1 and ::1."""
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = True
    with serving(Receiver("::1" if family == socket.AF_INET6 else "127.0.0.1")) as receiver:
        run = end(submit(webhook_url=f"http://localhost:{receiver.server_port}/"), user)
        webhook_delivery.deliver_due()
    assert only_delivery(run).state == DeliveryState.DELIVERED


@pytest.mark.parametrize("part", ["status", "headers", "body"])
def test_a_receiver_that_never_ends_its_answer_is_given_up_in_time(
    part: str, submit: Submit, user: User, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = True
    monkeypatch.setattr(webhook_delivery, "TIMEOUT_SECONDS", 1.0)
    with serving(Receiver(endless=part)) as receiver:
        run = end(submit(webhook_url=receiver.url), user)
        webhook_delivery.deliver_due()
        receiver.released.set()
    assert "timed out" in only_delivery(run).log.get().error.lower()


def test_an_answer_of_any_size_is_cut_and_its_status_counts(
    submit: Submit, user: User, receiver: Receiver
) -> None:
    receiver.answer_body = b"x" * 10_000_000
    run = end(submit(webhook_url=receiver.url), user)
    webhook_delivery.deliver_due()
    assert only_delivery(run).state == DeliveryState.DELIVERED


def test_a_result_is_recorded_while_a_slow_receiver_is_waited_for(
    submit: Submit, user: User, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Receiver(endless="status")) as slow:
        end(submit(webhook_url=slow.url), user)
        quick = end(submit(webhook_url=receiver.url), user)
        record = webhook_delivery._record

        def record_and_release(
            delivery: WebhookDelivery, outcome: webhook_delivery.Outcome
        ) -> None:
            record(delivery, outcome)
            if delivery.run_id == quick.pk:
                slow.released.set()  # only now the slow receiver answers

        monkeypatch.setattr(webhook_delivery, "_record", record_and_release)
        webhook_delivery.deliver_due()
    assert set(WebhookDelivery.objects.values_list("state", flat=True)) == {DeliveryState.DELIVERED}


def test_proxies_of_the_environment_are_not_used(
    submit: Submit, user: User, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    end(submit(webhook_url=receiver.url), user)
    webhook_delivery.deliver_due()
    assert len(receiver.got) == 1


def test_one_worker_sends_while_the_others_wait(
    submit: Submit, user: User, receiver: Receiver
) -> None:
    run = end(submit(webhook_url=receiver.url), user)
    delivery = only_delivery(run)
    stale = WebhookDelivery.objects.get(pk=delivery.pk)
    assert webhook_delivery._take_due() == [delivery]
    assert webhook_delivery._take_due() == []
    assert WebhookDelivery.objects.get(
        pk=delivery.pk
    ).next_attempt_at - stale.next_attempt_at > timedelta(seconds=60)


def test_a_run_purged_while_its_message_is_sent_does_no_harm(
    submit: Submit, user: User, receiver: Receiver
) -> None:
    run = end(submit(webhook_url=receiver.url), user)
    [delivery] = webhook_delivery._take_due()
    outcome = webhook_delivery.send(delivery)
    deletion.trash_run(run=run, by=user)
    run.refresh_from_db()
    deletion.purge_run(run=run, by=run.owner)
    webhook_delivery._record(delivery, outcome)
    assert not WebhookDelivery.objects.exists()


@pytest.mark.parametrize(
    "url",
    ["ftp://host.example/", "http://", "javascript:alert(1)", "http://host.example:99999999/", 5],
)
def test_addresses_that_are_none(url: Any, api: APIClient, body: dict[str, Any]) -> None:
    response = api.post("/api/tunix/run", body | {"webhook_url": url}, format="json")
    assert response.status_code == 400
    assert list(response.json()) == ["detail", "webhook_url"]
