"""Local mode: requests from this machine act as the user `local` without a login.

Three things must hold, else nothing is assumed about who asks: the setting is on, the connection comes from loopback, and
no proxy stands in between. ALLOWED_HOSTS holds loopback names only in local mode, which keeps DNS rebinding out.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from ipaddress import ip_address

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject

LOCAL_USERNAME = "local"
_PROXY_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


@lru_cache(maxsize=1024)  # asked at every request
def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def is_local_request(request: HttpRequest) -> bool:
    return (
        settings.LOCAL_MODE
        and is_loopback(request.META.get("REMOTE_ADDR", ""))
        and not any(header in request.META for header in _PROXY_HEADERS)
    )


def local_user() -> User:
    """The person at this machine, made on first use; may do everything, can never log in with a password."""
    user, _ = User.objects.get_or_create(
        username=LOCAL_USERNAME, defaults={"is_staff": True, "is_superuser": True, "password": "!"}
    )
    return user


@cache
def _remembered_local_user() -> User:
    return local_user()


class LocalModeMiddleware:
    """Sets ``request.local_access`` and, when nobody is logged in, ``request.user``."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.local_access = False  # type: ignore[attr-defined]
        if (is_local_request(request) and settings.SESSION_COOKIE_NAME not in request.COOKIES) or (
            is_local_request(request) and not request.user.is_authenticated
        ):
            self._assume_local(request)
        return self.get_response(request)

    @staticmethod
    def _assume_local(request: HttpRequest) -> None:
        request.local_access = True  # type: ignore[attr-defined]
        request.user = SimpleLazyObject(_remembered_local_user)  # type: ignore[assignment]
