import io
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone
from knox.models import get_token_model
from rest_framework.test import APIClient

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tunixrt.tests.urls")]


def make_token(*arguments: str) -> str:
    output = io.StringIO()
    call_command("make_token", *arguments, stdout=output)
    return output.getvalue().strip()


def ask(key: str):
    return APIClient(REMOTE_ADDR="192.0.2.1").get(
        "/api/echo", headers={"Authorization": f"Token {key}"}
    )


def test_the_printed_key_opens_the_api_and_is_stored_hashed(user: User):
    key = make_token("somebody")

    assert ask(key).json() == {"user": "somebody"}
    (token,) = get_token_model().objects.all()
    assert token.expiry is None
    assert key not in "".join(str(value) for value in vars(token).values())


def test_a_token_ends_after_its_days(user: User):
    key = make_token("somebody", "--days", "2")
    assert ask(key).status_code == 200

    get_token_model().objects.update(expiry=timezone.now() - timedelta(seconds=1))

    assert ask(key).status_code == 401


def test_a_deactivated_account_has_no_way_in(user: User):
    key = make_token("somebody")
    User.objects.update(is_active=False)

    assert ask(key).status_code == 401
    with pytest.raises(CommandError, match="no active account somebody"):
        make_token("somebody")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nobody-here"],
        *(
            ["somebody", f"--days={days}"]
            for days in ("0", "-1", "3651", "999999999999", "1e400", "nan", "1e-300", "x")
        ),
    ],
)
def test_what_cannot_be_is_refused(user: User, arguments: list[str]):
    with pytest.raises(CommandError):
        make_token(*arguments)
    assert get_token_model().objects.count() == 0


def test_too_many_days_name_the_limit(user: User):
    with pytest.raises(CommandError, match=r"must be a number from 0\.001 to 3,650\."):
        make_token("somebody", "--days", "999999999999")
