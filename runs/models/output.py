"""The output root: its id, the folders that are taken in it, disk quotas."""

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models

from runs.models.run import Run


class OutputRoot(models.Model):
    """The one output root of this database. Its folder holds the same id: a host that sees another
    folder claims nothing."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    single = models.BooleanField(default=True, unique=True, editable=False)

    def __str__(self) -> str:
        return str(self.id)


class FolderReservation(models.Model):
    """A folder that a run has asked for (``own``), or one above it. Read and written by
    ``runs.services.reservations`` alone."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="reservations")
    key = models.CharField(
        max_length=64,
        help_text="Hash of the path; the same for names that a file system may confuse.",
    )
    own = models.BooleanField()

    class Meta:
        # whether a folder is free
        indexes = [models.Index(fields=["key"], name="ix_folder_reservation_key")]

    def __str__(self) -> str:
        return self.key


class DiskQuota(models.Model):
    """The disk quota of one account, where it differs from TUNIX_OWNER_DISK_QUOTA_GB."""

    account = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="disk_quota",
    )
    gigabytes = models.FloatField(
        validators=[MinValueValidator(0)],
        help_text="GB that the account's runs may take; 0: no limit.",
    )

    def __str__(self) -> str:
        return f"{self.gigabytes:g} GB"
