"""What the commands of every application share."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tunixrt.refusals import Refusal


class Command(BaseCommand):
    """A command that ends with a sentence, not with a traceback, when a service refuses what was asked."""

    def execute(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute(*args, **options)
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
