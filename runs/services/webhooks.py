"""The outbox of messages about ended runs. A message is a row that is made in the transaction that
ends the run; ``runs.services.webhook_delivery`` sends what is due.
"""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from runs.models import DeliveryState, Run, WebhookDelivery


def announce_end(run: Run) -> None:
    """Put a message about the end of ``run`` into the outbox for the operator's address and for the
    run's own, once each. Must be called inside the transaction that ends the run."""
    urls = dict.fromkeys(
        url for url in (settings.TUNIX_WEBHOOK_URL, run.config.get("webhook_url")) if url
    )
    WebhookDelivery.objects.bulk_create(
        WebhookDelivery(
            run=run, url=url, payload=webhook_payload(run), next_attempt_at=timezone.now()
        )
        for url in urls
    )


def due_deliveries() -> Any:
    """Return the query of deliveries that are to be sent now."""
    return WebhookDelivery.objects.filter(
        state=DeliveryState.WAITING, next_attempt_at__lte=timezone.now()
    )


def webhook_payload(run: Run) -> dict[str, Any]:
    return {
        "event": "run.ended",
        "run_id": str(run.run_id),
        "name": run.name,
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
