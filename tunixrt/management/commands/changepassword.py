import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

TRIES = 3


class Command(changepassword.Command):
    """Django's own, but for what it writes: the password alone. Django's writes every column back
    as it was before the questions, and so undoes a deactivation that came in between."""

    def handle(self, *args: Any, **options: Any) -> str:
        username = options["username"] or getpass.getuser()
        try:
            user = User.objects.using(options["database"]).get(username=username)
        except User.DoesNotExist as error:
            raise CommandError(f"user '{username}' does not exist") from error
        self.stdout.write(f"Changing password for user '{user}'")
        user.set_password(self._ask(user))
        user.save(update_fields=["password"])
        return f"Password changed successfully for user '{user}'"

    def _ask(self, user: User) -> str:
        for _ in range(TRIES):
            password = getpass.getpass(prompt="Password: ")
            if not password:
                raise CommandError("aborted")
            if password != getpass.getpass(prompt="Password (again): "):
                self.stdout.write("Passwords do not match. Please try again.")
                continue
            try:
                validate_password(password, user)
            except ValidationError as error:
                self.stderr.write("\n".join(error.messages))
                continue
            return password
        raise CommandError(f"Aborting password change for user '{user}' after {TRIES} attempts")
