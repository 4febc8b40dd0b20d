"""Guesses of a password: limited for an account from an address and for an address, on every page
that asks for one; recorded.

Counted in the database, for all processes and hosts together, before a password is looked at.
"""

import hashlib
import logging
import unicodedata
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.admin.models import CHANGE
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from tunixrt.audit import write_log_entry
from tunixrt.client_address import client_address, client_network
from tunixrt.models import LoginAttempts
from tunixrt.refusals import TooMany

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=15)


class LimitBackend:
    """Never authenticate; refuse an attempt over the limit before the other backends look at the
    password."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, **credentials: Any
    ) -> None:
        if request is None or username is None:
            return
        count_guess(request, username)


class LimitedPasswordChangeForm(PasswordChangeForm):
    """Ask for the old password, which a person at an unattended browser may guess as at a login."""

    request: HttpRequest

    def clean_old_password(self) -> str:
        """Check the old password. Raise TooMany."""
        count_guess(self.request, self.user.get_username())
        try:
            given: str = super().clean_old_password()
        except ValidationError:
            credentials = {"username": self.user.get_username()}
            user_login_failed.send(
                sender=type(self).__module__, credentials=credentials, request=self.request
            )
            raise
        forget_guesses(self.request, self.user.get_username())
        return given


def count_guess(request: HttpRequest, username: str) -> None:
    """Count a guess of the password of an account. Raise TooMany."""
    account, address = _buckets(request, username)
    _count(address, settings.TUNIXRT_LOGIN_ATTEMPTS_PER_ADDRESS)
    _count(account, settings.TUNIXRT_LOGIN_ATTEMPTS)


def forget_guesses(request: HttpRequest, username: str) -> None:
    """Take back what a right password has counted, with the wrong ones of the same account from the
    same address."""
    account, address = _buckets(request, username)
    LoginAttempts.objects.filter(pk=account).delete()
    LoginAttempts.objects.filter(pk=address, count__gt=0).update(count=F("count") - 1)


def _buckets(request: HttpRequest, username: str) -> tuple[str, str]:
    network = client_network(client_address(request))
    return _bucket("account", unicodedata.normalize("NFKC", username), network), _bucket(
        "address", network
    )


def _bucket(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()


def _count(bucket: str, limit: int) -> int:
    """Count one attempt; return how many there were in its time span. Raise TooMany when there were
    ``limit`` before."""
    now = timezone.now()
    with transaction.atomic():
        row = _row(bucket, now)
        if row.count < limit:
            LoginAttempts.objects.filter(pk=bucket).update(count=F("count") + 1)
            return row.count + 1
    wait = max(1, round((row.until - now).total_seconds()))
    raise TooMany(
        f"Too many attempts to log in. Try again in {-(-wait // 60)} minutes.", retry_after=wait
    )


def _row(bucket: str, now: datetime) -> LoginAttempts:
    """Return the bucket's row, locked; restarts its count when its time is over. In a
    transaction."""
    # of everybody: no more rows than attempts in a span of time
    LoginAttempts.objects.filter(until__lte=now).delete()
    LoginAttempts.objects.bulk_create(
        [LoginAttempts(bucket=bucket, count=0, until=now + WINDOW)], ignore_conflicts=True
    )
    return LoginAttempts.objects.select_for_update().get(pk=bucket)


@receiver(user_logged_in)
def _forget_failures(sender: Any, request: HttpRequest, user: User, **kwargs: Any) -> None:
    forget_guesses(request, user.get_username())


@receiver(user_login_failed)
def _record_failure(
    sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    """Write to the audit log the first, the tenth, the hundredth … failure of an account within the
    span of time, so that an attacker cannot fill it. Names that are no account's go to the
    server's log."""
    username, address = (
        str(credentials.get("username", "")),
        "" if request is None else client_network(client_address(request)),
    )
    user = User.objects.filter(
        username=unicodedata.normalize("NFKC", username).replace("\0", "")
    ).first()
    if user is None:
        logger.warning("failed login of no account from %s", address)
        return
    try:
        count = _count(_bucket("failures", str(user.pk)), 10**9)
    except TooMany:
        return
    if str(count).strip("0") == "1":
        message = (
            "failed login"
            if count == 1
            else f"{count:,} failed logins within {WINDOW.seconds // 60} minutes, the last"
        )
        write_log_entry(
            by=user,
            target=user,
            name=user.get_username(),
            flag=CHANGE,
            message=f"{message} from {address}",
        )
