"""What the commands of every application share."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def tidy_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an exception does, so that what is half done is taken back."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
