"""What the commands of every application share."""

import getpass
import os
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from django.core.management.base import BaseCommand, CommandError

from tunixrt.refusals import Refusal

Number = TypeVar("Number", int, float)


def number_between(kind: type[Number], low: float, high: float) -> Callable[[str], Number]:
    """Return a type for an option: a number from ``low`` to ``high``, else a sentence with both."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            number = kind(text)
            if low <= number <= high:  # NaN is not
                return number
        words = "a whole number" if kind is int else "a number"
        raise ArgumentTypeError(f"must be {words} from {low:,.15g} to {high:,.15g}.")

    return parse


class Command(BaseCommand):
    """A command that ends with a sentence, not with a traceback, when a service refuses what was
    asked."""

    def execute(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute(*args, **options)
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal


def not_empty(text: str) -> str:
    """Return an argument that has to name something."""
    if not text.strip():
        raise ArgumentTypeError("is empty")
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
