"""The limit of requests that an account may make in a time (TUNIXRT_API_RATE)."""

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle

from tunixrt.shares import SharedFile

_counting = SharedFile("rate")


class AccountRateThrottle(UserRateThrottle):
    """Counts one request at a time: the cache reads and writes what it has counted in two steps,
    and threads and workers answer at the same time."""

    def allow_request(self, request: Request, view: Any) -> bool:
        with _counting.locked():
            allowed: bool = super().allow_request(request, view)
        return allowed
