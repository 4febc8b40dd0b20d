"""API tokens: made and revoked by their owner (/tokens), in the admin and by ``manage.py
make_token``."""

from datetime import timedelta

from django.contrib.admin.models import ADDITION, DELETION
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from tunixrt.audit import write_log_entry
from tunixrt.models import ApiToken
from tunixrt.readable import name_problem
from tunixrt.refusals import Conflict, NotAllowed, Refusal
from tunixrt.roles import May, outranks, require

TOKENS_MAX = 100  # of one account
DAYS_MAX = 3650


def make_token(
    *,
    of: User,
    by: User,
    name: str = "",
    days: float | None = None,
    read_only: bool = False,
    how: str = "made",
) -> tuple[ApiToken, str]:
    """Return a new token and its key, which is stored nowhere. ``how``: for the audit log. Expired
    tokens of the account are removed.

    Raises:
        NotAllowed: ``by`` makes no tokens of that account.
        Conflict: the account is not active or has as many as it may.
        Refusal: the name cannot be read.
    """
    if problem := name_problem(name):
        raise Refusal(f"The name of a token {problem}.")
    require_token_rights(of=of, by=by)
    if not of.is_active:
        raise Conflict(f"The account {of.get_username()} is not active.")
    ApiToken.objects.filter(user=of, expiry__lte=timezone.now()).delete()
    if ApiToken.objects.filter(user=of).count() >= TOKENS_MAX:
        raise Conflict(f"An account has at most {TOKENS_MAX} tokens: revoke one first.")
    with transaction.atomic():
        expiry = None if days is None else timedelta(days=days)
        token, key = ApiToken.objects.create(user=of, expiry=expiry, name=name, read_only=read_only)
        note = ", ".join(
            [
                how,
                *(["read-only"] if read_only else []),
                *([] if days is None else [f"for {days:,.15g} days"]),
            ]
        )
        write_log_entry(by=by, target=token, name=str(token), flag=ADDITION, message=note)
    return token, key


def revoke_token(*, token: ApiToken, by: User) -> None:
    """Revoke a token. Raise NotAllowed."""
    require_token_rights(of=token.user, by=by)
    with transaction.atomic():
        write_log_entry(by=by, target=token, name=str(token), flag=DELETION, message="revoked")
        token.delete()


def require_token_rights(*, of: User, by: User) -> None:
    """Raise NotAllowed unless ``by`` may make and revoke tokens of an account: one's own, or as an
    operator those of an account without more rights."""
    if of.pk == by.pk:
        return
    require(by, May.ACT, owner_id=of.pk)
    if outranks(by, of):
        raise NotAllowed(f"The account {of.get_username()} has more rights than yours.")
