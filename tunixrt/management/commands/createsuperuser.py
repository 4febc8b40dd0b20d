import os
from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError


class Command(createsuperuser.Command):
    """Django's own, which asks no validator about the password in ``DJANGO_SUPERUSER_PASSWORD``."""

    def handle(self, *args: Any, **options: Any) -> None:
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD")
        if not options["interactive"] and password is not None:
            username, email = (
                options.get(name) or os.environ.get(f"DJANGO_SUPERUSER_{name.upper()}", "")
                for name in ("username", "email")
            )
            try:
                validate_password(password, User(username=username, email=email))
            except ValidationError as error:
                raise CommandError(
                    f"DJANGO_SUPERUSER_PASSWORD: {' '.join(error.messages)}"
                ) from error
        super().handle(*args, **options)
