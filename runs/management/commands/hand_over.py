from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser

from runs.services.handover import hand_over
from tunixrt.audit import system_user
from tunixrt.commands import Command as BaseCommand
from tunixrt.commands import not_empty


class Command(BaseCommand):
    help = (
        "Make the account TO the owner of all runs and datasets of the account FROM. May be"
        " interrupted and called again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "owner",
            type=not_empty,
            metavar="FROM",
            help="whose runs and datasets; may be deactivated",
        )
        parser.add_argument(
            "to",
            type=not_empty,
            metavar="TO",
            help="who gets them: an active account that may make runs",
        )

    def handle(self, *args: Any, owner: str, to: str, **options: Any) -> None:
        handed = hand_over(owner=self._account(owner), to=self._account(to), by=system_user())
        self.stdout.write(f"{handed} handed over from {owner} to {to}.")

    @staticmethod
    def _account(name: str) -> User:
        try:
            return User.objects.get(username=name)
        except User.DoesNotExist:
            raise CommandError(f"There is no account {name}.") from None
