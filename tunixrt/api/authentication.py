"""Who may call the API: a token (knox), a login session, or, in local mode, every client on this
machine."""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.models import User
from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxAuthentication
from knox.crypto import hash_token
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from tunixrt.compiled import Compiled, as_object, column_names
from tunixrt.models import ApiToken

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
READ_ONLY = "This token may only read."


class TokenAuthentication(KnoxAuthentication):
    """``Authorization: Token <key>``.

    The hash of a key is the primary key of its token, so one query finds the token, its account,
    and whether both are still valid. Nothing is remembered between requests: a token that is
    revoked, has expired, or has lost its account or its password is refused at once. Knox asks
    twice and reads all tokens of the account, which costs more than a whole page of the list.
    """

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        found = super().authenticate(request)
        if found is not None and found[1].read_only and request.method not in _SAFE_METHODS:
            raise exceptions.PermissionDenied(READ_ONLY)
        return found

    def authenticate_credentials(self, token: bytes) -> tuple[Any, Any]:
        """Raise AuthenticationFailed for a key that is unknown, expired, or not valid UTF-8."""
        try:
            digest = hash_token(token.decode())
        except UnicodeError as error:
            raise exceptions.AuthenticationFailed("Invalid token.") from error
        rows = _tokens().read(digest)
        if not rows:
            raise exceptions.AuthenticationFailed("Invalid token.")
        own = len(column_names(ApiToken))
        found = as_object(ApiToken, rows[0][:own])
        if found.expiry is not None and found.expiry <= timezone.now():
            raise exceptions.AuthenticationFailed("Invalid token.")
        found.user = as_object(User, rows[0][own:])
        return self.validate_user(found)


@cache
def _tokens() -> Compiled:
    """Return the query of a token and its account, by the token's primary key."""
    names = [*column_names(ApiToken), *(f"user__{name}" for name in column_names(User))]
    return Compiled(ApiToken.objects.filter(pk="").values_list(*names))


class LocalAuthentication(authentication.BaseAuthentication):
    """Local mode. A page of another site in the same browser is kept from writing: its requests
    name their origin."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        if not getattr(request._request, "local_access", False):
            return None
        if request.method not in _SAFE_METHODS and _from_another_site(request):
            raise exceptions.PermissionDenied("This request comes from a page of another site.")
        return request._request.user, None

    def authenticate_header(self, request: Request) -> str:
        return "Token"


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's login session, with the CSRF token on unsafe methods; never the stand-in user of
    local mode."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        if getattr(request._request, "local_access", False):
            return None
        return super().authenticate(request)


def _from_another_site(request: Request) -> bool:
    if request.META.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site"):
        return True
    origin = request.META.get("HTTP_ORIGIN")
    return bool(origin) and str(urlsplit(origin).netloc) != request.get_host()
