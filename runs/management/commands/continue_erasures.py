"""``manage.py continue_erasures``: do what is left of erasures, whatever it takes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from datasets.models import Erasure
from runs.services.erasing import continue_erasure
from tunixrt.audit import system_user


class Command(BaseCommand):
    help = "Removes erased examples from the files of runs where that was interrupted."

    def handle(self, *args: Any, **options: Any) -> None:
        left = 0
        for erasure in Erasure.objects.filter(completed_at=None).order_by("created_at"):
            done = continue_erasure(erasure=erasure, by=system_user(), seconds=None)
            if done.completed_at is None:
                left += 1
                self.stderr.write(f"{erasure.pk}: {done.problem}")
            else:
                self.stdout.write(f"{erasure.pk}: complete")
        if left:
            raise CommandError(f"{left} erasures are not complete.")
