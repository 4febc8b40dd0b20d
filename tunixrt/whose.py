"""Whose request it was, for the front, which shares what the server can do among accounts
(tunixrt/front.py)."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject

ACCOUNT = "tunixrt.account"  # the key of a request's environment


class WhoseMiddleware:
    """Tell the front which account a request was found to come from. Asks nothing that the view has
    not asked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        # Django keeps the account of a session here once it has been read; the API and
        # local mode set the user itself.
        user = request.__dict__.get("user")
        if isinstance(user, SimpleLazyObject):
            user = request.__dict__.get("_cached_user")
        if user is not None and user.pk is not None:
            request.META[ACCOUNT] = user.pk
        return response
