"""What the commands of every application share."""

import argparse
import getpass
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def not_empty(text: str) -> str:
    """Return an argument that has to name something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def path_argument(text: str) -> Path:
    """Return an argument that is a path. ``Path("")`` would be the working directory."""
    return Path(not_empty(text))


def account_of_machine() -> str:
    """Return who runs this program, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such account, as in a container
        return f"uid {os.getuid()}"


@contextmanager
def tidy_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an exception does, so that what is half done is taken back."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
