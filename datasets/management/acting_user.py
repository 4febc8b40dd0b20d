"""For whom a command acts."""

from argparse import ArgumentParser

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from tunixrt.local_mode import local_user


def add_user_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--user", help="act for this user (default: in local mode the user `local`, else no user)"
    )


def acting_user(username: str | None) -> User | None:
    """Return the user with this name. Raise CommandError when there is no such user."""
    if username is None:
        return local_user() if settings.TUNIXRT_LOCAL_MODE else None
    try:
        return User.objects.get(username=username)
    except User.DoesNotExist as error:
        raise CommandError(f"There is no user {username!r}.") from error
