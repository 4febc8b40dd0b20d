"""Local mode: requests of the account that started the server act as the user `local` without a
login.

Four things must hold, else nothing is assumed about who asks: the setting is on, the connection
comes from loopback, its other end belongs to the account that this server runs as, and no proxy
says that it stands in between. In local mode ALLOWED_HOSTS holds loopback names only
(tunixrt.E009), which keeps DNS rebinding out.

A program of the same account that forwards connections (``ssh -R``, socat) forwards this right too.
"""

import os
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse

from tunixrt.compiled import Finder
from tunixrt.errors import answer_refusal
from tunixrt.peers import PEER_UID, is_loopback
from tunixrt.refusals import NotAllowed

LOCAL_USERNAME = "local"
_PROXY_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")
_accounts = Finder(User, "username", "")
_OPEN_TO_ALL = ("/healthz", "/login", "/logout", "/metrics")
ANOTHER_ACCOUNT = (
    "This server is in local mode: it serves only the account of this machine that started it,"
    " without a login. To serve others, start it with TUNIXRT_LOCAL_MODE=false, SECRET_KEY and"
    " ALLOWED_HOSTS (docs/operations.md)."
)


def comes_through_loopback(request: HttpRequest) -> bool:
    """Return whether a request in local mode comes from this machine and no proxy has named
    itself."""
    return (
        settings.TUNIXRT_LOCAL_MODE
        and is_loopback(request.META.get("REMOTE_ADDR", ""))
        and not any(header in request.META for header in _PROXY_HEADERS)
    )


def is_local_request(request: HttpRequest) -> bool:
    return comes_through_loopback(request) and request.META.get(PEER_UID) == os.getuid()


def local_user() -> User:
    """Return the person at this machine, made on first use. May do everything; can never log in
    with a password."""
    if found := _accounts.find(LOCAL_USERNAME):
        return found
    user, _ = User.objects.get_or_create(
        username=LOCAL_USERNAME, defaults={"is_staff": True, "is_superuser": True, "password": "!"}
    )
    return user


class LocalModeMiddleware:
    """Set ``request.local_access`` and, when no user is logged in, ``request.user``. Refuse other
    accounts of this machine that have neither a login nor a token."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.local_access = False  # type: ignore[attr-defined]
        if (
            comes_through_loopback(request)
            and not _brings_token(request)
            and (
                settings.SESSION_COOKIE_NAME not in request.COOKIES
                or not request.user.is_authenticated
            )
        ):
            if is_local_request(request):
                user = local_user()
                if user.is_active:
                    request.local_access = True  # type: ignore[attr-defined]
                    request.user = user
            elif "HTTP_AUTHORIZATION" not in request.META and request.path not in _OPEN_TO_ALL:
                return answer_refusal(request, NotAllowed(ANOTHER_ACCOUNT))
        return self.get_response(request)


def _brings_token(request: HttpRequest) -> bool:
    """Return whether a request of the API names a token, which then decides alone who asks: reading
    the local account would be a query for nothing."""
    header = request.META.get("HTTP_AUTHORIZATION", "")
    return request.path.startswith("/api/") and header[:6].lower() == "token "
