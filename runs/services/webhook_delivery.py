"""Send the deliveries of the outbox: at least once, signed, without delaying runs.

The receiver checks ``X-Tunix-Signature: sha256=<hex>``, the HMAC-SHA256 with the shared secret of
``<X-Tunix-Timestamp>\\n<X-Tunix-Delivery>\\n<the receiver's address>\\n<body>``: a message cannot
be replayed to another receiver or as another delivery.
"""

import hashlib
import hmac
import logging
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runs.models import DeliveryState, WebhookAttempt, WebhookDelivery
from runs.services.webhooks import due_deliveries
from tunixrt.outbound import AddressRefused, OutboundError, post

logger = logging.getLogger("tunixrt.webhooks")

TIMEOUT_SECONDS = 10.0  # for one attempt as a whole
MAX_ATTEMPTS = 12
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(hours=1)
LEASE = timedelta(seconds=120)  # while one worker sends, no other does
AT_ONCE = 20


def webhook_secret() -> bytes:
    """Return TUNIX_WEBHOOK_SECRET, or a secret derived from SECRET_KEY (``manage.py
    webhook_secret`` prints it)."""
    if settings.TUNIX_WEBHOOK_SECRET:
        return str(settings.TUNIX_WEBHOOK_SECRET).encode()
    return hmac.digest(settings.SECRET_KEY.encode(), b"tunixrt webhooks", "sha256").hex().encode()


def sign(*, timestamp: str, delivery: str, url: str, body: bytes) -> str:
    signed = f"{timestamp}\n{delivery}\n{url}\n".encode() + body
    return "sha256=" + hmac.new(webhook_secret(), signed, hashlib.sha256).hexdigest()


def deliver_due() -> int:
    """Send what is due, several at once, and record each result as it comes; return how many
    attempts were made."""
    due = _take_due()
    if not due:
        return 0
    # the threads only wait for receivers; this one has the database
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        attempts = {pool.submit(send, delivery): delivery for delivery in due}
        for attempt in as_completed(attempts):
            _record(attempts[attempt], attempt.result())
    return len(due)


def _take_due() -> list[WebhookDelivery]:
    taken = []
    for delivery in due_deliveries().order_by("next_attempt_at")[:AT_ONCE]:
        lease = timezone.now() + LEASE
        guard = WebhookDelivery.objects.filter(
            pk=delivery.pk, next_attempt_at=delivery.next_attempt_at
        )
        if guard.update(next_attempt_at=lease) == 1:
            taken.append(delivery)
    return taken


@dataclass(frozen=True)
class Outcome:
    at: datetime
    seconds: float
    status_code: int | None
    error: str
    final: bool  # trying again cannot help

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def _record(delivery: WebhookDelivery, outcome: Outcome) -> None:
    delivery.attempts += 1
    if outcome.delivered:
        delivery.state, delivery.next_attempt_at = DeliveryState.DELIVERED, None
    elif outcome.final or delivery.attempts >= MAX_ATTEMPTS:
        delivery.state, delivery.next_attempt_at = DeliveryState.GIVEN_UP, None
        logger.warning(
            "webhook %s of run %s given up: %s",
            delivery.pk,
            delivery.run_id,
            outcome.error or outcome.status_code,
        )
    else:
        delivery.next_attempt_at = timezone.now() + pause_after(delivery.attempts)
    with transaction.atomic():
        if not WebhookDelivery.objects.filter(pk=delivery.pk).exists():
            return  # the run was purged while we were sending
        delivery.save(update_fields=["attempts", "state", "next_attempt_at"])
        WebhookAttempt.objects.create(
            delivery=delivery,
            at=outcome.at,
            status_code=outcome.status_code,
            error=outcome.error,
            seconds=outcome.seconds,
        )


def pause_after(attempts: int) -> timedelta:
    """Return the pause after an attempt: 10 s, 20 s, 40 s … up to an hour."""
    return min(FIRST_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_PAUSE)


def send(delivery: WebhookDelivery) -> Outcome:
    """Make one attempt. Never raise: the outcome describes any error."""
    at, start = timezone.now(), time.monotonic()
    body = orjson.dumps(delivery.payload, option=orjson.OPT_SORT_KEYS)
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tunixrt-webhook",
        "X-Tunix-Delivery": str(delivery.pk),
        "X-Tunix-Timestamp": timestamp,
        "X-Tunix-Signature": sign(
            timestamp=timestamp, delivery=str(delivery.pk), url=delivery.url, body=body
        ),
    }
    status_code, error, final = None, "", False
    try:
        status_code = post(
            delivery.url,
            body,
            headers,
            timeout=TIMEOUT_SECONDS,
            allow_private=_may_be_private(delivery.url),
        )
        if 300 <= status_code < 400:
            error = "The receiver answered with a redirect, which is not followed."
        elif not 200 <= status_code < 300:
            error = f"The receiver answered {status_code}."
    except OutboundError as problem:
        error, final = str(problem)[:1000], isinstance(problem, AddressRefused)
    return Outcome(at, time.monotonic() - start, status_code, error, final)


def _may_be_private(url: str) -> bool:
    """Return whether an address may be private. The operator's own may be anywhere; those of runs
    only where the operator allows it."""
    return bool(settings.TUNIX_WEBHOOK_ALLOW_PRIVATE or url == settings.TUNIX_WEBHOOK_URL)
