"""Who may call the API: a token (knox), a login session, or, in local mode, anybody on this
machine."""

from typing import Any
from urllib.parse import urlsplit

from knox.auth import TokenAuthentication as KnoxAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
READ_ONLY = "This token may only read."


class TokenAuthentication(KnoxAuthentication):
    """``Authorization: Token <key>``. Knox takes the key for UTF-8; bytes that are none are a wrong
    key, not an error of ours."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        try:
            found = super().authenticate(request)
        except UnicodeError as error:
            raise exceptions.AuthenticationFailed("Invalid token.") from error
        if found is not None and found[1].read_only and request.method not in _SAFE_METHODS:
            raise exceptions.PermissionDenied(READ_ONLY)
        return found


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
