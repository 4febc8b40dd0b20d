"""The machines that train."""

from datetime import timedelta
from typing import Self

from django.conf import settings
from django.db import models
from django.utils import timezone


class HostQuerySet(models.QuerySet["Host"]):
    def alive(self) -> Self:
        """Return hosts whose heartbeat is younger than TUNIX_HOST_SILENT_SECONDS."""
        return self.filter(
            heartbeat_at__gte=timezone.now() - timedelta(seconds=settings.TUNIX_HOST_SILENT_SECONDS)
        )


class Host(models.Model):
    """A machine that trains. Its attendant keeps ``heartbeat_at`` fresh."""

    name = models.CharField(max_length=255, unique=True)
    boot_id = models.CharField(max_length=64, blank=True)
    slots = models.PositiveIntegerField(default=1, help_text="Trainings at once.")
    runtime_version = models.CharField(
        max_length=64, blank=True, help_text="google-tunix on this host; empty: none."
    )
    heartbeat_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True, help_text="When the attendant started.")
    canary_at = models.DateTimeField(
        null=True, help_text="When the task queue of this host last did a task."
    )
    silent_since = models.DateTimeField(
        null=True, help_text="Another host saw no heartbeat since; its own beat clears it."
    )

    objects = HostQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
