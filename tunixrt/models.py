from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from knox.models import AbstractAuthToken, AuthTokenManager


class AccountSession(AbstractBaseSession):
    """A login session that knows whose it is.

    A trigger on the table of accounts deletes an account's sessions when the account is deactivated
    or activated, by any user and any means (the first migration): a session from before never
    works again.
    """

    account = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        editable=False,
        related_name="+",
    )

    class Meta(AbstractBaseSession.Meta):
        db_table = "tunixrt_session"


class ApiToken(AbstractAuthToken):
    """A key for programs; only its hash and its beginning are stored. Can do what its account can,
    or only read.

    A trigger on the table of accounts deletes an account's tokens when the account is deactivated
    or activated, or loses its password (the first migration); a new password does so through
    ``tunixrt.passwords.RevokeTokens``.
    """

    name = models.CharField(max_length=100, blank=True, help_text="What it is for.")
    read_only = models.BooleanField(
        default=False, help_text="Programs can read with it and change nothing."
    )

    objects = AuthTokenManager()

    class Meta:
        verbose_name = "API token"
        verbose_name_plural = "API tokens"

    def __str__(self) -> str:
        return f"token {self.beginning} of {self.user}"

    @property
    def beginning(self) -> str:
        return f"{self.token_key[:8]}…"


class LoginAttempts(models.Model):
    """The number of login attempts within a span of time, by account and address
    (tunixrt/logins.py)."""

    bucket = models.CharField(
        max_length=64, primary_key=True, help_text="A hash of who tried, and from where."
    )
    count = models.PositiveIntegerField()
    until = models.DateTimeField(db_index=True, help_text="When counting begins again.")

    def __str__(self) -> str:
        return f"{self.count} until {self.until}"
