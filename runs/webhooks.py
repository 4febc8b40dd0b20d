"""Telling others that a run has ended: at least once, signed, never to a private address unless allowed, never in a run's way.

A delivery is a row made in the transaction that ends the run; a task sends what is due. The receiver checks
``X-Tunix-Signature: sha256=<hex>``, the HMAC-SHA256 of ``<X-Tunix-Timestamp>.<body>`` with the shared secret.
"""

import hashlib
import hmac
import http.client
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runs.models import DeliveryState, Run, WebhookAttempt, WebhookDelivery

logger = logging.getLogger("tunixrt.webhooks")

TIMEOUT_SECONDS = 10.0
MAX_ATTEMPTS = 12
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
LEASE = timedelta(seconds=120)  # while one worker sends, no other does
AT_ONCE = 20


def announce_end(run: Run) -> None:
    """Put a message about the end of ``run`` into the outbox. Inside the transaction that ends it."""
    url = run.config.get("webhook_url") or settings.TUNIX_WEBHOOK_URL
    if url:
        WebhookDelivery.objects.create(run=run, url=url, payload=payload_of(run), next_attempt_at=timezone.now())


def payload_of(run: Run) -> dict[str, Any]:
    return {
        "event": "run.ended",
        "run_id": str(run.run_id),
        "status": run.status,
        "mode": run.mode,
        "dataset_key": run.dataset_key,
        "model_id": run.model_id,
        "exit_code": run.exit_code,
        "message": run.message,
        "created_at": _iso(run.created_at),
        "started_at": _iso(run.started_at),
        "completed_at": _iso(run.completed_at),
        "duration_seconds": run.duration_seconds,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def webhook_secret() -> bytes:
    """TUNIX_WEBHOOK_SECRET, or one derived from SECRET_KEY (``manage.py webhook_secret`` shows it)."""
    if settings.TUNIX_WEBHOOK_SECRET:
        return str(settings.TUNIX_WEBHOOK_SECRET).encode()
    return hmac.digest(settings.SECRET_KEY.encode(), b"tunixrt webhooks", "sha256").hex().encode()


def sign(timestamp: str, body: bytes) -> str:
    return "sha256=" + hmac.new(webhook_secret(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


# --- sending ----------------------------------------------------------------------------------------------------------


def deliver_due() -> int:
    """Send what is due, several at once; returns how many attempts were made."""
    due = _take_due()
    if not due:
        return 0
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:  # threads wait for receivers; the database stays with us
        outcomes = list(pool.map(lambda delivery: send(delivery.url, delivery.payload, delivery.pk), due))
    for delivery, outcome in zip(due, outcomes, strict=True):
        _record(delivery, outcome)
    return len(due)


def is_due() -> bool:
    return _due().exists()


def _due() -> Any:
    return WebhookDelivery.objects.filter(state=DeliveryState.WAITING, next_attempt_at__lte=timezone.now())


def _take_due() -> list[WebhookDelivery]:
    taken = []
    for delivery in _due().order_by("next_attempt_at")[:AT_ONCE]:
        lease = timezone.now() + LEASE
        guard = WebhookDelivery.objects.filter(pk=delivery.pk, next_attempt_at=delivery.next_attempt_at)
        if guard.update(next_attempt_at=lease) == 1:
            taken.append(delivery)
    return taken


@dataclass(frozen=True)
class Outcome:
    at: datetime
    seconds: float
    status_code: int | None = None
    error: str = ""

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def _record(delivery: WebhookDelivery, outcome: Outcome) -> None:
    delivery.attempts += 1
    if outcome.delivered:
        delivery.state, delivery.next_attempt_at = DeliveryState.DELIVERED, None
    elif delivery.attempts >= MAX_ATTEMPTS:
        delivery.state, delivery.next_attempt_at = DeliveryState.GIVEN_UP, None
        logger.warning("webhook %s of run %s given up: %s", delivery.pk, delivery.run_id, outcome.error or outcome.status_code)
    else:
        delivery.next_attempt_at = timezone.now() + pause_after(delivery.attempts)
    with transaction.atomic():
        if not WebhookDelivery.objects.filter(pk=delivery.pk).exists():
            return  # the run was purged while we were sending
        delivery.save(update_fields=["attempts", "state", "next_attempt_at"])
        WebhookAttempt.objects.create(
            delivery=delivery, at=outcome.at, status_code=outcome.status_code, error=outcome.error, seconds=outcome.seconds
        )


def pause_after(attempts: int) -> timedelta:
    """10 s, 20 s, 40 s … up to an hour."""
    return min(FIRST_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_PAUSE)


def send(url: str, payload: dict[str, Any], delivery_id: int) -> Outcome:
    """One POST; redirects are not followed. Never raises: whatever goes wrong is in the outcome, in words."""
    at, start = timezone.now(), time.monotonic()
    body = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tunixrt-webhook",
        "X-Tunix-Delivery": str(delivery_id),
        "X-Tunix-Timestamp": timestamp,
        "X-Tunix-Signature": sign(timestamp, body),
    }
    status_code, error = None, ""
    try:
        status_code = _post(url, body, headers)
        if 300 <= status_code < 400:
            error = "The receiver answered with a redirect, which is not followed."
        elif not 200 <= status_code < 300:
            error = f"The receiver answered {status_code}."
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"[:1000]
    return Outcome(at, time.monotonic() - start, status_code, error)


def _post(url: str, body: bytes, headers: dict[str, str]) -> int:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is not an http or https address.")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = allowed_address(parts.hostname, port)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_SECONDS)
    # Connect to the address that was checked: asking the resolver again could give another one.
    connection._create_connection = _connector(address, port)  # type: ignore[attr-defined]
    path = parts.path or "/"
    try:
        connection.request("POST", f"{path}?{parts.query}" if parts.query else path, body=body, headers=headers)
        response = connection.getresponse()
        response.read(1024)
        return response.status
    finally:
        connection.close()


def _connector(address: str, port: int) -> Callable[..., socket.socket]:
    def connect(_: Any, timeout: Any = None, source_address: Any = None) -> socket.socket:
        return socket.create_connection((address, port), timeout, source_address)

    return connect


def allowed_address(hostname: str, port: int) -> str:
    """The address to connect to. Raises ValueError for one that is not public, unless TUNIX_WEBHOOK_ALLOW_PRIVATE is on."""
    found = {info[4][0] for info in socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)}
    addresses = sorted(str(address) for address in found)
    if not settings.TUNIX_WEBHOOK_ALLOW_PRIVATE:
        for address in addresses:
            parsed = ipaddress.ip_address(address.partition("%")[0])
            mapped = getattr(parsed, "ipv4_mapped", None)
            if not (mapped or parsed).is_global or parsed.is_multicast:
                raise ValueError(
                    f"{hostname} is at {address}, which is not a public address; TUNIX_WEBHOOK_ALLOW_PRIVATE allows it."
                )
    if not addresses:
        raise ValueError(f"{hostname} has no address.")
    return addresses[0]
