"""API tokens: made, seen and revoked by their owner, read-only if wanted, and gone with what they
stood on."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from tunixrt import tokens
from tunixrt.models import ApiToken
from tunixrt.refusals import NotAllowed
from tunixrt.roles import Role, set_role
from tunixrt.tests.clients import FAR_AWAY, NEARBY
from tunixrt.tokens import make_token as make_token_of

pytestmark = pytest.mark.django_db
OLD, NEW = "an old pass phrase", "a new pass phrase"


@pytest.fixture(autouse=True)
def _quick_hashes(settings: LazySettings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def somebody(user: User) -> User:
    user.set_password(OLD)
    user.save()
    return user


@pytest.fixture
def browser(remote_client: Client, somebody: User) -> Client:
    remote_client.force_login(somebody)
    return remote_client


def ask(key: str, method: str = "get", path: str = "/api/tunix/runs", **more: Any) -> int:
    client = Client(REMOTE_ADDR=FAR_AWAY, headers={"authorization": f"Token {key}"})
    return getattr(client, method)(path, **more).status_code


def make(client: Client, **fields: object) -> str:
    page = client.post("/tokens", {"name": "", "days": "", **fields})
    assert page.status_code == 200
    assert "no-store" in page["Cache-Control"]
    found = re.search(r'data-testid="token-key">([0-9a-f]+)<', page.content.decode())
    assert found
    return found[1]


class TestThePage:
    def test_a_key_is_shown_once_works_and_is_revoked(self, browser: Client, somebody: User):
        key = make(browser, name="<notebook>", days="2")

        assert ask(key) == 200
        page = browser.get("/tokens").content.decode()
        assert key not in page and f"{key[:8]}…" in page and "&lt;notebook&gt;" in page
        assert "/tokens" in browser.get("/password").content.decode()
        token = ApiToken.objects.get()
        assert 1.99 < (token.expiry - token.created).total_seconds() / 86400 < 2.01
        assert browser.post("/tokens/revoke", {"token": token.pk})["Location"] == "/tokens"
        assert ask(key) == 401
        assert list(
            LogEntry.objects.order_by("id").values_list(
                "user", "action_flag", "object_repr", "change_message"
            )
        ) == [
            (somebody.pk, ADDITION, f"token {key[:8]}… of somebody", "made, for 2 days"),
            (somebody.pk, DELETION, f"token {key[:8]}… of somebody", "revoked"),
        ]

    def test_nobody_sees_or_revokes_those_of_others(
        self, browser: Client, staff: User, make_token: Callable[[User], str]
    ):
        key = make_token(staff)
        assert key[:8] not in browser.get("/tokens").content.decode()
        assert (
            browser.post("/tokens/revoke", {"token": ApiToken.objects.get().pk}).status_code == 404
        )
        assert ask(key) == 200

    @pytest.mark.parametrize("token", ["", "x" * 200, "a\x00b"])
    def test_what_is_no_token_is_not_there(self, browser: Client, token: str):
        assert browser.post("/tokens/revoke", {"token": token}).status_code == 404

    def test_one_in_the_admin_needs_a_name_that_can_be_read(
        self, admin_client: Client, admin_user: User
    ):
        given = {"username": admin_user.username, "name": "a\u202eb"}
        page = admin_client.post("/admin/tunixrt/apitoken/add/", given).content.decode()
        assert "The name of a token must not hold U+202E RIGHT-TO-LEFT OVERRIDE" in page
        assert not ApiToken.objects.exists()

    @pytest.mark.parametrize("fields", [
        {"days": "0"}, {"days": "x"}, {"days": "9" * 30}, {"name": "x" * 101}, {"name": "\u200b"},
        {"name": "a\u202eb"},
    ])  # fmt: skip
    def test_a_token_that_is_not_made(self, browser: Client, fields: dict[str, str]):
        assert browser.post("/tokens", fields).status_code == 400
        assert not ApiToken.objects.exists()

    def test_their_number_is_bounded(self, browser: Client, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(tokens, "TOKENS_MAX", 2)
        make(browser), make(browser)
        page = browser.post("/tokens", {})
        assert (page.status_code, "revoke one first" in page.content.decode()) == (409, True)

    def test_it_needs_a_login(self, remote_client: Client):
        assert remote_client.get("/tokens")["Location"] == "/login?next=/tokens"
        assert remote_client.post("/tokens/revoke")["Location"] == "/login?next=/tokens/revoke"


class TestWhatATokenCosts:
    """One query, whatever else the account has: a token must not cost more than what is asked."""

    @pytest.mark.parametrize("place", [{"REMOTE_ADDR": FAR_AWAY}, NEARBY])
    def test_one_query_and_no_other_token_is_read(
        self,
        somebody: User,
        make_token: Callable[[User], str],
        place: dict[str, Any],
        django_assert_num_queries: Any,
    ):
        key, expired = make_token(somebody), make_token(somebody)
        ApiToken.objects.filter(token_key=expired[:15]).update(expiry=timezone.now())
        client = Client(**place, headers={"authorization": f"Token {key}"})
        client.get("/api/tunix/status")  # warm

        with django_assert_num_queries(1):
            assert client.get("/api/tunix/status").status_code == 200
        assert ApiToken.objects.count() == 2  # a read changes nothing

    def test_what_is_revoked_or_expires_between_two_requests_is_refused(
        self, somebody: User, make_token: Callable[[User], str]
    ):
        revoked, expired = make_token(somebody), make_token(somebody)
        assert (ask(revoked), ask(expired)) == (200, 200)

        ApiToken.objects.filter(token_key=revoked[:15]).delete()
        ApiToken.objects.filter(token_key=expired[:15]).update(expiry=timezone.now())

        assert (ask(revoked), ask(expired)) == (401, 401)

    @pytest.mark.parametrize("key", ["x", "\u00e4" * 64, "a" * 128, "0" * 10_000])
    def test_what_is_no_key_is_refused(self, key: str):
        assert ask(key.encode().decode("latin-1")) == 401

    def test_the_beginning_of_a_key_is_no_key(
        self, somebody: User, make_token: Callable[[User], str]
    ):
        key = make_token(somebody)
        assert (ask(key[:15]), ask(f"{key}0"), ask(f"{key[:-1]}{'1' if key[-1] == '0' else '0'}"),
                ask(ApiToken.objects.get().pk)) == (401,) * 4  # fmt: skip

    def test_expired_ones_make_room_for_new_ones(
        self, somebody: User, make_token: Callable[[User], str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(tokens, "TOKENS_MAX", 1)
        make_token(somebody)
        ApiToken.objects.update(expiry=timezone.now())

        token, _ = make_token_of(of=somebody, by=somebody)

        assert list(ApiToken.objects.all()) == [token]


class TestReadOnly:
    def test_it_reads_and_changes_nothing(self, browser: Client):
        key = make(browser, read_only="on")

        assert ask(key) == 200
        assert ask(key, path="/metrics") == 200
        assert ask(key, path="/api/uploads/permission") == 403  # asked before a body is received
        for method, path in (
            ("post", "/api/tunix/run"), ("post", "/api/traces"), ("patch", "/api/tunix/runs/x"),
            ("delete", "/api/tunix/runs/x"), ("put", "/api/traces"),
        ):  # fmt: skip
            assert ask(key, method, path, data={}, content_type="application/json") == 403

    def test_another_token_of_the_account_writes(self, browser: Client):
        make(browser, read_only="on")
        assert (
            ask(make(browser), "post", "/api/tunix/run", data={}, content_type="application/json")
            == 400
        )


def by_page(user: User) -> None:
    client = Client(REMOTE_ADDR=FAR_AWAY)
    client.force_login(user)
    assert (
        client.post(
            "/password", {"old_password": OLD, "new_password1": NEW, "new_password2": NEW}
        ).status_code
        == 302
    )


def through_the_admin(user: User) -> None:
    client = Client(REMOTE_ADDR=FAR_AWAY)
    client.force_login(User.objects.get(username="keeper-of-the-house"))
    passwords = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    assert client.post(f"/admin/auth/user/{user.pk}/password/", passwords).status_code == 302


def taken_away_in_the_admin(user: User) -> None:
    client = Client(REMOTE_ADDR=FAR_AWAY)
    client.force_login(User.objects.get(username="keeper-of-the-house"))
    assert (
        client.post(
            f"/admin/auth/user/{user.pk}/password/",
            {"usable_password": "false", "unset-password": "1"},
        ).status_code
        == 302
    )


def by_save(user: User) -> None:
    user.set_password(NEW)
    user.save()


def unusable(user: User) -> None:
    user.set_unusable_password()
    user.save()


def by_command(user: User) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("getpass.getpass", lambda prompt: NEW)
        call_command("changepassword", user.username, stdout=io.StringIO())


def deactivated(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)
    User.objects.filter(pk=user.pk).update(is_active=True)


def deactivated_by_sql(user: User) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE auth_user SET is_active = %s WHERE id = %s", [False, user.pk])
        cursor.execute("UPDATE auth_user SET is_active = %s WHERE id = %s", [True, user.pk])


@pytest.mark.parametrize(
    "end",
    [
        by_page,
        through_the_admin,
        taken_away_in_the_admin,
        by_save,
        unusable,
        by_command,
        deactivated,
        deactivated_by_sql,
    ],
)
def test_tokens_end_with_the_password_and_with_the_account(
    somebody: User, staff: User, make_token: Callable[[User], str], end: Callable[[User], None]
):
    gone, kept = make_token(somebody), make_token(staff)
    assert (ask(gone), ask(kept)) == (200, 200)

    end(User.objects.get(pk=somebody.pk))

    assert (ask(gone), ask(kept)) == (401, 200)


def test_a_hash_that_a_login_renews_is_no_new_password(
    somebody: User, make_token: Callable[[User], str], settings: LazySettings
):
    key = make_token(somebody)
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.ScryptPasswordHasher",
        "django.contrib.auth.hashers.MD5PasswordHasher",
    ]
    assert authenticate(username="somebody", password=OLD) == somebody
    assert User.objects.get(pk=somebody.pk).password.startswith("scrypt")
    assert ask(key) == 200


class TestTokensOfOthers:
    @pytest.mark.parametrize(
        ("by", "of", "may"),
        [
            (Role.VIEWER, Role.VIEWER, False), (Role.RESEARCHER, Role.VIEWER, False),
            (Role.OPERATOR, Role.VIEWER, True), (Role.OPERATOR, Role.OPERATOR, True),
            (Role.OPERATOR, Role.SUPERUSER, False), (Role.SUPERUSER, Role.SUPERUSER, True),
        ],
    )  # fmt: skip
    def test_who_makes_them(self, user: User, staff: User, by: Role, of: Role, may: bool):
        set_role(user=user, role=of)
        set_role(user=staff, role=by)
        if may:
            make_token_of(of=user, by=staff)
        else:
            with pytest.raises(NotAllowed):
                make_token_of(of=user, by=staff)
        assert ApiToken.objects.exists() is may

    def test_a_command_says_in_the_audit_log_who_ran_it(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("getpass.getuser", lambda: "someone-at-the-machine")
        call_command(
            "make_token", "somebody", "--read-only", "--name", "metrics", stdout=io.StringIO()
        )

        entry, token = LogEntry.objects.get(), ApiToken.objects.get()
        assert (token.read_only, token.name) == (True, "metrics")
        assert (entry.user.username, entry.object_repr) == ("system", str(token))
        assert (
            entry.change_message
            == "made by manage.py make_token, by someone-at-the-machine of this machine, read-only"
        )
