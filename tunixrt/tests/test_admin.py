"""The admin of accounts, tokens and the audit log."""

import re

import pytest
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tunixrt.models import ApiToken

LIST = "/admin/tunixrt/apitoken/"


@pytest.fixture
def operator(remote_client: Client, staff: User) -> Client:
    remote_client.force_login(staff)
    return remote_client


def make_token(client: Client, **fields: object) -> str:
    page = client.post(f"{LIST}add/", {"username": "somebody", "days": "", **fields})
    assert page.status_code == 200
    found = re.search(r'data-testid="token-key">([0-9a-f]+)<', page.content.decode())
    assert found, page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert found[1] not in str(page.cookies)
    return found[1]


def test_a_key_is_shown_once_and_works(operator: Client, user: User, staff: User):
    key = make_token(operator)

    token = ApiToken.objects.get()
    assert (token.user, token.expiry) == (user, None)
    assert (
        Client(REMOTE_ADDR="192.0.2.1", headers={"authorization": f"Token {key}"})
        .get("/api/tunix/runs")
        .status_code
        == 200
    )
    for page in (LIST, f"{LIST}{token.pk}/change/", "/admin/admin/logentry/", "/admin/"):
        assert key not in operator.get(page).content.decode()
    entry = LogEntry.objects.get()
    assert (entry.user, entry.action_flag, entry.object_repr) == (
        staff,
        ADDITION,
        f"token {key[:8]}… of somebody",
    )


def test_a_token_may_expire(operator: Client, user: User):
    make_token(operator, days="2")
    token = ApiToken.objects.get()
    assert 1.99 < (token.expiry - token.created).total_seconds() / 86400 < 2.01


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"username": "nobody"}, "There is no active account of this name."),
        ({"username": ""}, "This field is required."),
        ({"days": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_token_that_is_not_made(
    operator: Client, user: User, fields: dict[str, str], reason: str
):
    page = operator.post(f"{LIST}add/", {"username": "somebody", "days": ""} | fields)
    assert reason in page.content.decode()
    assert not ApiToken.objects.exists()


def test_revoking_asks_first_and_is_logged(operator: Client, user: User):
    key = make_token(operator)
    token = ApiToken.objects.get()
    action = {"action": "delete_selected", "_selected_action": [token.pk]}

    question = operator.post(LIST, action)
    assert f"token {key[:8]}… of somebody" in question.content.decode()
    assert ApiToken.objects.exists()
    operator.post(LIST, action | {"post": "yes"})

    assert not ApiToken.objects.exists()
    assert (
        Client(REMOTE_ADDR="192.0.2.1", headers={"authorization": f"Token {key}"})
        .get("/api/tunix/runs")
        .status_code
        == 401
    )
    entry = LogEntry.objects.get(action_flag=DELETION)
    assert (entry.object_repr, entry.change_message) == (f"token {key[:8]}… of somebody", "revoked")


def test_a_token_is_never_edited(operator: Client, user: User):
    make_token(operator)
    token = ApiToken.objects.get()
    assert operator.post(f"{LIST}{token.pk}/change/", {"username": "x"}).status_code == 403


@pytest.mark.parametrize(
    "path", [LIST, "/admin/admin/logentry/", "/admin/auth/user/", "/admin/django_q/failure/"]
)
def test_lists_never_count(operator: Client, user: User, path: str):
    for _ in range(3):
        make_token(operator)
    with CaptureQueriesContext(connection) as captured:
        assert operator.get(path).status_code == 200
    statements = [query["sql"] for query in captured.captured_queries]
    assert len(statements) <= 6, statements
    assert not [statement for statement in statements if re.search(r"COUNT\(|DISTINCT", statement)]


def test_the_audit_log_is_found_by_account_and_by_what_it_was_done_to(operator: Client, user: User):
    make_token(operator)
    token = ApiToken.objects.get()
    for text, count in (("keeper-of-the-house", 1), (token.pk, 1), ("somebody", 0)):
        page = operator.get("/admin/admin/logentry/", {"q": text})
        assert len(page.context["cl"].result_list) == count
    assert operator.get("/admin/admin/logentry/add/").status_code == 403
