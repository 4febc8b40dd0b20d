"""Named histories."""

from urllib.parse import parse_qsl

from django.conf import settings
from django.db import models
from django.utils import timezone


class SavedView(models.Model):
    """A saved history: a name for its query string. In local mode the owner is the user
    ``local``."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views"
    )
    name = models.CharField(max_length=64)
    query = models.TextField(help_text="Query string of the history, without the question mark.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="uq_saved_view")]

    def __str__(self) -> str:
        return self.name

    @property
    def filters(self) -> list[tuple[str, str]]:
        """Return the query's parameters as pairs."""
        return parse_qsl(self.query)
