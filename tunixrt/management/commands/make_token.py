from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from tunixrt.audit import system_user
from tunixrt.commands import Command as TunixrtCommand
from tunixrt.commands import account_of_machine, number_between
from tunixrt.tokens import DAYS_MAX, make_token

SHORTEST_DAYS = 0.001  # a minute and a half


class Command(TunixrtCommand):
    help = (
        "Make an API token of an account and print its key. Only a hash is stored: the key is shown"
        " this once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        days = number_between(float, SHORTEST_DAYS, DAYS_MAX)
        parser.add_argument(
            "--days", type=days, help="how long it is valid; without it, until it is revoked"
        )
        parser.add_argument(
            "--read-only", action="store_true", help="programs can read with it and change nothing"
        )
        parser.add_argument("--name", default="", help="what it is for")

    def handle(
        self,
        *args: Any,
        username: str,
        days: float | None,
        read_only: bool,
        name: str,
        **options: Any,
    ) -> None:
        if len(name) > 100:
            raise CommandError("--name has at most 100 characters.")
        try:
            user = User.objects.get(username=username, is_active=True)
        except User.DoesNotExist as error:
            raise CommandError(
                f"There is no active account {username}; `manage.py createsuperuser` makes one."
            ) from error
        how = f"made by manage.py make_token, by {account_of_machine()} of this machine"
        _, key = make_token(
            of=user, by=system_user(), how=how, name=name, days=days, read_only=read_only
        )
        self.stdout.write(key)
