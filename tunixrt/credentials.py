"""What a long answer was authorised with, and whether that still holds."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone
from rest_framework.request import Request

from tunixrt.models import AccountSession, ApiToken


@dataclass(frozen=True)
class Credential:
    """An account with the password it had, and the token or the session that named it; neither in
    local mode."""

    user_id: int
    password: str
    token: str | None = None
    session: str | None = None

    @classmethod
    def of(cls, request: Request) -> "Credential":
        user = request.user
        assert isinstance(user, User)
        if isinstance(request.auth, ApiToken):
            return cls(user.pk, user.password, token=request.auth.pk)
        session = (
            None
            if getattr(request._request, "local_access", False)
            else getattr(request._request, "session", None)
        )
        return cls(
            user.pk, user.password, session=session.session_key if session is not None else None
        )


def still_valid(credentials: Iterable[Credential]) -> set[Credential]:
    """Return those that would be accepted now: the account is active and has the same password, its
    token or session is there."""
    asked = set(credentials)
    now = timezone.now()
    accounts = set(
        User.objects.filter(pk__in={one.user_id for one in asked}, is_active=True).values_list(
            "pk", "password"
        )
    )
    tokens = {one.token for one in asked if one.token is not None}
    sessions = {one.session for one in asked if one.session is not None}
    alive = Q(expiry=None) | Q(expiry__gt=now)
    found = (
        set(ApiToken.objects.filter(alive, pk__in=tokens).values_list("pk", flat=True))
        if tokens
        else set()
    )
    if sessions:
        found |= set(
            AccountSession.objects.filter(pk__in=sessions, expire_date__gt=now).values_list(
                "pk", flat=True
            )
        )
    return {
        one
        for one in asked
        if (one.user_id, one.password) in accounts
        and ((one.token or one.session) is None or (one.token or one.session) in found)
    }
