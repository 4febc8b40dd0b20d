from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.models import CHANGE
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import password_changed
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from tunixrt.accounts import save_own_password
from tunixrt.api.authentication import TokenAuthentication
from tunixrt.audit import write_log_entry
from tunixrt.client_address import client_address, lies_in
from tunixrt.local_mode import comes_through_loopback
from tunixrt.logins import LimitedPasswordChangeForm
from tunixrt.metrics import all_metrics
from tunixrt.models import ApiToken
from tunixrt.numbers import WholeNumberField
from tunixrt.reference import read_reference
from tunixrt.refusals import Missing, NotAllowed, Refusal
from tunixrt.tokens import DAYS_MAX, TOKENS_MAX, make_token, revoke_token


class ChangePassword(auth_views.PasswordChangeView):
    """People change their own password. Their logins elsewhere end; this one stays."""

    form_class = LimitedPasswordChangeForm
    template_name = "registration/password.html"
    success_url = reverse_lazy("runs:history")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if isinstance(request.user, User) and not request.user.has_usable_password():
            return render(
                request,
                self.template_name,
                status=200 if request.method in ("GET", "HEAD") else 403,
            )
        return super().dispatch(request, *args, **kwargs)

    def get_form(self, form_class: Any = None) -> LimitedPasswordChangeForm:
        form = super().get_form(form_class)
        assert isinstance(form, LimitedPasswordChangeForm)
        form.request = self.request
        return form

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        """Change the password. Raise Conflict."""
        user, known, password = form.user, form.user.password, form.cleaned_data["new_password1"]
        user.set_password(password)  # takes up to a second: outside the transaction
        with transaction.atomic():
            save_own_password(user=user, known=known)
            password_changed(password, user)
            # in the same transaction: a deactivation that waits for it ends this session as well
            update_session_auth_hash(self.request, user)
            write_log_entry(
                by=user,
                target=user,
                name=user.get_username(),
                flag=CHANGE,
                message="changed their own password",
            )
        messages.success(
            self.request,
            "Your password is changed. Logins elsewhere have ended, and API tokens with them.",
        )
        return redirect(self.get_success_url())


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100, required=False, help_text="What the token is for.")
    days = WholeNumberField(
        min_value=1,
        max_value=DAYS_MAX,
        required=False,
        label="Valid for days",
        help_text="Empty: until you revoke it.",
    )
    read_only = forms.BooleanField(
        required=False, label="Read only", help_text="Programs can read with it and change nothing."
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def tokens(request: HttpRequest) -> HttpResponse:
    """GET: one's own API tokens. POST: make one; its key is on this page and nowhere else."""
    assert isinstance(request.user, User)
    form, key, status = TokenForm(request.POST if request.method == "POST" else None), None, 200
    if request.method == "POST":
        try:
            if form.is_valid():
                _, key = make_token(of=request.user, by=request.user, **form.cleaned_data)
                form = TokenForm()
            else:
                status = 400
        except Refusal as refusal:
            form.add_error(None, refusal.detail)
            status = refusal.status
    rows = ApiToken.objects.filter(user=request.user).order_by("-created")[:TOKENS_MAX]
    return render(
        request,
        "registration/tokens.html",
        {"form": form, "key": key, "tokens": rows},
        status=status,
    )


@login_required
@require_POST
def token_revoke(request: HttpRequest) -> HttpResponse:
    assert isinstance(request.user, User)
    token = ApiToken.objects.filter(
        pk=request.POST.get("token", "")[:128].replace("\x00", ""), user=request.user
    ).first()
    if token is None:
        raise Missing("You have no such token; it may be revoked already.")
    revoke_token(token=token, by=request.user)
    messages.success(request, f"The token {token.beginning} is revoked.")
    return redirect("tokens")


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer 200 while this process and its database answer; for load balancers and compose."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return everything Prometheus scrapes: ours from the database, Django's of this web server.
    Accept an account (a token, a login), an allowed address, or in local mode this machine."""
    allowed = request.user.is_authenticated or comes_through_loopback(request)
    if not (
        allowed
        or lies_in(client_address(request), settings.TUNIXRT_METRICS_ALLOW)
        or _has_token(request)
    ):
        raise NotAllowed(METRICS_REFUSED)
    return HttpResponse(all_metrics(), content_type=CONTENT_TYPE_LATEST)


METRICS_REFUSED = (
    "Metrics take an API token (Authorization: Token …) or an address of TUNIXRT_METRICS_ALLOW:"
    " docs/operations.md, Prometheus."
)


def _has_token(request: HttpRequest) -> bool:
    try:
        return TokenAuthentication().authenticate(Request(request)) is not None
    except AuthenticationFailed:
        return False


@login_required
@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Show the description of the API, for people."""
    return render(request, "reference.html", {"reference": read_reference()})
