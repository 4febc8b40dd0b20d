from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from knox.models import get_token_model


class Command(BaseCommand):
    help = "Make an API token of an account and print its key. Only a hash is stored: the key is shown this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--days", type=float, help="how long it is valid; without it, until it is deleted in the admin")

    def handle(self, *args: Any, username: str, days: float | None, **options: Any) -> None:
        if days is not None and days <= 0:
            raise CommandError("--days must be greater than 0.")
        try:
            user = User.objects.get(username=username, is_active=True)
        except User.DoesNotExist as error:
            raise CommandError(f"There is no active account {username}; `manage.py createsuperuser` makes one.") from error
        expiry = None if days is None else timedelta(days=days)
        _, key = get_token_model().objects.create(user=user, expiry=expiry)
        self.stdout.write(key)
