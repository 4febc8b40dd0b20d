from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models


class AccountSession(AbstractBaseSession):
    """A login session that knows whose it is.

    A trigger on the table of accounts deletes an account's sessions when the account is deactivated or activated, whoever does
    it and however (migration 0001): a session from before never works again.
    """

    account = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, editable=False, related_name="+")

    class Meta(AbstractBaseSession.Meta):
        db_table = "tunixrt_session"
