"""What a password must have besides what Django's own validators ask
(``AUTH_PASSWORD_VALIDATORS``)."""

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from tunixrt.models import ApiToken
from tunixrt.readable import is_seen


class DifferentCharactersValidator:
    """A password needs some different characters that can be seen: twelve blanks or fillers are
    none, nor is one letter twelve times."""

    def __init__(self, least: int = 4):
        self.least = least

    def validate(self, password: str, user: object = None) -> None:
        """Raise ValidationError if the password has too few different characters."""
        visible = {character for character in password if is_seen(character)}
        if len(visible) < self.least:
            raise ValidationError(
                f"This password has too few different characters: it must have {self.least},"
                " without those that cannot be seen, such as blanks.",
                code="password_too_uniform",
            )

    def get_help_text(self) -> str:
        return (
            f"Your password must have at least {self.least} different characters, without"
            " those that cannot be seen, such as blanks."
        )


class RevokeTokens:
    """Asks nothing of a password. Django tells validators of each new one, however it was set, and
    the account's API tokens end with the old one. A hash that a login renews is no new password."""

    def validate(self, password: str, user: object = None) -> None:
        pass

    def get_help_text(self) -> str:
        return ""

    def password_changed(self, password: str, user: User) -> None:
        ApiToken.objects.filter(user=user).delete()
