"""What the log leaves out: tracebacks of refusals."""

import io
import logging
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tunixrt.roles import Role, set_role
from tunixrt.tests.clients import NEARBY

pytestmark = pytest.mark.django_db


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the console's handlers write of Django's records, through their own filters and
    formatters."""
    stream = io.StringIO()
    consoles = [
        one for one in logging.getLogger("django").handlers if type(one) is logging.StreamHandler
    ]
    before = [console.setStream(stream) for console in consoles]
    yield stream
    for console, usual in zip(consoles, before, strict=True):
        console.setStream(usual)


def test_what_is_refused_is_a_line_without_a_traceback(
    user: User, remote_client: Client, log: io.StringIO
) -> None:
    root = User.objects.create_superuser("root")
    set_role(user=user, role=Role.OPERATOR)
    remote_client.force_login(user)
    assert remote_client.get(f"/admin/auth/user/{root.pk}/password/").status_code == 403
    [line] = log.getvalue().splitlines()
    assert line.endswith(
        "WARNING django.request: Forbidden (Permission denied):"
        f" /admin/auth/user/{root.pk}/password/"
    )


@pytest.mark.urls("tunixrt.tests.urls")
def test_a_fault_of_the_server_keeps_its_traceback(log: io.StringIO) -> None:
    assert Client(**NEARBY, raise_request_exception=False).get("/page/500").status_code == 500
    assert "Traceback (most recent call last)" in log.getvalue()
