"""The outbox of webhooks."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from runs.models.run import Run


class DeliveryState(models.TextChoices):
    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"


class WebhookDelivery(models.Model):
    """One message to one receiver about the end of one run. Made in the transaction that ends the
    run."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="webhook_deliveries")
    url = models.URLField(max_length=2000)
    payload = models.JSONField()
    state = models.CharField(
        max_length=16, choices=DeliveryState.choices, default=DeliveryState.WAITING
    )
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "webhook deliveries"
        indexes = [
            # what is due
            models.Index(
                fields=["next_attempt_at"], name="ix_webhook_due", condition=Q(state="waiting")
            ),
            # the admin's list, filtered
            models.Index(F("state"), F("id").desc(), name="ix_webhook_state"),
        ]

    def __str__(self) -> str:
        return f"{self.url} ({self.state})"


class WebhookAttempt(models.Model):
    delivery = models.ForeignKey(WebhookDelivery, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField()
    status_code = models.PositiveIntegerField(null=True)
    error = models.TextField(blank=True)
    seconds = models.FloatField()

    class Meta:
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return str(self.status_code or self.error)
