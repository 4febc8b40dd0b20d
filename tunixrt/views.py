from typing import Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse_lazy
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tunixrt.audit import write_log_entry


class ChangePassword(auth_views.PasswordChangeView):
    """People change their own password. Their logins elsewhere end; this one stays."""

    template_name = "registration/password.html"
    success_url = reverse_lazy("runs:history")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if isinstance(request.user, User) and not request.user.has_usable_password():
            return render(request, self.template_name, status=200 if request.method in ("GET", "HEAD") else 403)
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        response = super().form_valid(form)
        user = self.request.user
        assert isinstance(user, User)
        write_log_entry(by=user, target=user, name=user.get_username(), flag=CHANGE, message="changed their own password")
        messages.success(self.request, "Your password is changed. Logins elsewhere have ended.")
        return response


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while this process answers and its database does too; for load balancers and compose."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Everything Prometheus scrapes: ours from the database, Django's of this process."""
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)
