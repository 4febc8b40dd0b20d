"""Passwords and sessions: what a password must be, who can change it, and when a login ends."""

import io
import os
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import MD5PasswordHasher
from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.password_validation import validate_password
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from conftest import FAR_AWAY
from tunixrt.models import AccountSession, ApiToken

OLD, NEW = "an old pass phrase", "a new pass phrase"
# Blanks of several kinds, what cannot be seen, one character or two over and over.
NO_PASSWORDS = [
    " " * 12, "\t \n" * 4, "\u00a0" * 12, "\u2003\u3000" * 6, "\u200b" * 12, "\u00ad\ufeff" * 6,
    "\u3164\u2800\u115f\u1160" * 2, "\ufe00\ufe01\ufe02\ufe03\u034f\u17b4" * 2,
    "a" * 12, "🙂" * 12, "ab" * 6, "  a  a  b  a  ", "    a    b    c    ",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_hashes(settings: LazySettings) -> None:
    """A hash that takes long is the point of a password's hash, not of these tests."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def somebody(user: User) -> User:
    """``user``, with a password."""
    user.set_password(OLD)
    user.save(update_fields=["password"])
    return user


def logged_in(password: str = OLD) -> Client:
    client = Client(REMOTE_ADDR=FAR_AWAY)
    assert client.post("/login", {"username": "somebody", "password": password}).status_code == 302
    return client


def is_logged_in(client: Client) -> bool:
    return (
        client.get("/runs/new").status_code == 200
        and client.get("/api/tunix/runs").status_code == 200
    )


def change(client: Client, old: str, new: str):
    return client.post(
        "/password", {"old_password": old, "new_password1": new, "new_password2": new}
    )


class TestWhatAPasswordIs:
    @pytest.mark.parametrize("password", NO_PASSWORDS)
    def test_blanks_and_one_character_over_and_over_are_none(self, password: str):
        with pytest.raises(ValidationError) as error:
            validate_password(password)
        assert "too few different characters" in " ".join(error.value.messages)

    @pytest.mark.parametrize(
        "password",
        ["kwdf        ", "пароль-и-пробел", "四つの文字です。はい", "a b c d e f g", NEW],
    )
    def test_a_few_different_characters_are_enough(self, password: str):
        validate_password(password)

    @pytest.mark.parametrize("password", [NO_PASSWORDS[0], NO_PASSWORDS[6], NO_PASSWORDS[8]])
    def test_neither_pages_nor_admin_nor_commands_take_them(
        self, somebody: User, staff: User, password: str, monkeypatch: pytest.MonkeyPatch
    ):
        assert "too few different characters" in change(logged_in(), OLD, password).content.decode()

        operator = Client(REMOTE_ADDR=FAR_AWAY)
        operator.force_login(staff)
        passwords = {"password1": password, "password2": password, "usable_password": "true"}
        for path in (f"/admin/auth/user/{somebody.pk}/password/", "/admin/auth/user/add/"):
            page = operator.post(path, {"username": "another", **passwords})
            assert "too few different characters" in page.content.decode()

        monkeypatch.setattr("getpass.getpass", lambda prompt: password)
        with pytest.raises(CommandError, match="Aborting password change"):
            call_command("changepassword", "somebody", stdout=io.StringIO(), stderr=io.StringIO())
        monkeypatch.setitem(os.environ, "DJANGO_SUPERUSER_PASSWORD", password)
        with pytest.raises(
            CommandError, match=r"DJANGO_SUPERUSER_PASSWORD: .*too few different characters"
        ):
            call_command(
                "createsuperuser", "--noinput", "--username", "another", "--email", "a@example.org"
            )

        assert not User.objects.filter(username="another").exists()
        assert User.objects.get(pk=somebody.pk).check_password(OLD)

    def test_createsuperuser_asks_every_validator(self, db: None, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(os.environ, "DJANGO_SUPERUSER_USERNAME", "some-operator")
        for password, reason in (
            ("password", "too common"),
            ("some-operator", "too similar"),
            ("", "too short"),
        ):
            monkeypatch.setitem(os.environ, "DJANGO_SUPERUSER_PASSWORD", password)
            with pytest.raises(CommandError, match=reason):
                call_command("createsuperuser", "--noinput", "--email", "a@example.org")
        monkeypatch.setitem(os.environ, "DJANGO_SUPERUSER_PASSWORD", NEW)
        call_command("createsuperuser", "--noinput", "--email", "a@example.org", verbosity=0)
        assert User.objects.get(username="some-operator", is_superuser=True).check_password(NEW)

    def test_createsuperuser_without_a_password_makes_an_account_without_one(self, db: None):
        call_command(
            "createsuperuser",
            "--noinput",
            "--username",
            "another",
            "--email",
            "a@example.org",
            verbosity=0,
        )
        assert not User.objects.get(username="another").has_usable_password()


class TestChangingIt:
    def test_the_page_is_linked_from_the_name_of_the_account(self, somebody: User):
        client = logged_in()
        assert 'class="who" href="/password"' in client.get("/").content.decode()
        assert (
            "Your password must have at least 4 different characters"
            in client.get("/password").content.decode()
        )

    def test_it_ends_the_other_sessions_and_is_logged(self, somebody: User):
        here, elsewhere = logged_in(), logged_in()

        response = change(here, OLD, NEW)

        assert response["Location"] == "/"
        assert "Logins elsewhere have ended" in here.get("/").content.decode()
        assert is_logged_in(here)
        assert not is_logged_in(elsewhere)
        assert is_logged_in(logged_in(NEW))
        entry = LogEntry.objects.get()
        assert (entry.user, entry.object_repr, entry.change_message) == (
            somebody,
            "somebody",
            "changed their own password",
        )

    def test_the_old_password_is_asked_for(self, somebody: User):
        assert (
            "old password was entered incorrectly"
            in change(logged_in(), "a wrong one", NEW).content.decode()
        )
        assert is_logged_in(logged_in(OLD))

    def test_the_admin_asks_for_it_as_well(self, staff: User, remote_client: Client):
        """Whoever finds an operator's open session must not be able to keep the account."""
        staff.groups.add(Group.objects.get_or_create(name="operator")[0])
        remote_client.force_login(staff)
        form = {"password1": NEW, "password2": NEW, "usable_password": "true"}

        answer = remote_client.post(f"/admin/auth/user/{staff.pk}/password/", form)

        assert (answer.status_code, answer["Location"]) == (302, "/password")
        staff.refresh_from_db()
        assert not staff.check_password(NEW)

    def test_it_needs_a_login(self, remote_client: Client):
        assert remote_client.get("/password")["Location"] == "/login?next=/password"
        assert change(remote_client, OLD, NEW)["Location"] == "/login?next=/password"

    def test_the_user_of_local_mode_has_none(self, local_client: Client):
        page = local_client.get("/password")
        assert page.status_code == 200
        assert "Local mode has no login" in page.content.decode()
        assert "<form" not in page.content.decode().partition("<main")[2]
        assert change(local_client, "!", NEW).status_code == 403
        assert not User.objects.get(username="local").has_usable_password()

    def test_an_account_without_a_password_is_told_so(self, user: User, remote_client: Client):
        user.set_unusable_password()
        user.save(update_fields=["password"])
        remote_client.force_login(user)
        assert "no password to change" in remote_client.get("/password").content.decode()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """``meanwhile(act)``: ``act`` happens once, while the hash of the password NEW is made, as it
    does in another process during the second that this takes."""

    def arrange(act: Callable[[], Any]) -> None:
        make_hash = MD5PasswordHasher.encode
        left = [act]

        def encode(self: MD5PasswordHasher, password: str, salt: str, *args: Any) -> str:
            if password == NEW and left:
                left.pop()()
            return make_hash(self, password, salt, *args)

        monkeypatch.setattr(MD5PasswordHasher, "encode", encode)

    return arrange


class TestWhatOthersChangeMeanwhile:
    """A form or command that wrote every column back undid it."""

    def test_a_deactivation_stands_when_the_password_is_changed(
        self, somebody: User, meanwhile: Callable[..., None]
    ):
        client = logged_in()
        meanwhile(lambda: by_update(somebody, False))

        answer = change(client, OLD, NEW)

        assert answer.status_code == 409
        assert "Your password was not changed" in answer.content.decode()
        somebody.refresh_from_db()
        assert not somebody.is_active
        assert somebody.check_password(OLD)
        assert not is_logged_in(client)
        assert not AccountSession.objects.exists()
        assert not LogEntry.objects.exists()

    def test_nor_does_a_password_change_log_in_after_an_activation(
        self, somebody: User, meanwhile: Callable[..., None]
    ):
        """Deactivated, given another password, activated: whoever held the session is out."""
        client = logged_in()

        def take_back() -> None:
            by_update(somebody, False)
            account = User.objects.get(pk=somebody.pk)
            account.set_password("set by an operator")
            account.save(update_fields=["password"])
            by_update(somebody, True)

        meanwhile(take_back)

        assert change(client, OLD, NEW).status_code == 409
        assert not is_logged_in(client)
        somebody.refresh_from_db()
        assert somebody.check_password("set by an operator")

    def test_a_demotion_stands_when_the_password_is_changed(
        self, somebody: User, meanwhile: Callable[..., None]
    ):
        User.objects.filter(pk=somebody.pk).update(is_staff=True, is_superuser=True)
        client = logged_in()
        meanwhile(
            lambda: User.objects.filter(pk=somebody.pk).update(is_staff=False, is_superuser=False)
        )

        assert change(client, OLD, NEW).status_code == 302

        somebody.refresh_from_db()
        assert (somebody.is_staff, somebody.is_superuser) == (False, False)
        assert somebody.check_password(NEW)
        assert is_logged_in(client)

    def test_a_new_password_still_ends_the_tokens(
        self, somebody: User, make_token: Callable[[User], str]
    ):
        client, _ = logged_in(), make_token(somebody)
        assert change(client, OLD, NEW).status_code == 302
        assert not ApiToken.objects.filter(user=somebody).exists()

    @pytest.mark.parametrize("usable", ["true", "false"])
    def test_it_stands_when_an_operator_sets_the_password(
        self,
        somebody: User,
        operator: Client,
        usable: str,
        monkeypatch: pytest.MonkeyPatch,
    ):
        make, refuse = User.set_password, User.set_unusable_password

        def set_password(self: User, password: str) -> None:
            by_update(somebody, False)
            make(self, password)

        def set_unusable_password(self: User) -> None:
            by_update(somebody, False)
            refuse(self)

        monkeypatch.setattr(User, "set_password", set_password)
        monkeypatch.setattr(User, "set_unusable_password", set_unusable_password)
        form = {"password1": NEW, "password2": NEW, "usable_password": usable, "unset-password": ""}

        answer = operator.post(f"/admin/auth/user/{somebody.pk}/password/", form)

        assert answer.status_code == 302
        somebody.refresh_from_db()
        assert not somebody.is_active
        assert somebody.has_usable_password() == (usable == "true")
        assert not somebody.check_password(OLD)

    def test_it_stands_when_a_command_sets_the_password(
        self, somebody: User, monkeypatch: pytest.MonkeyPatch
    ):
        def answer(prompt: str) -> str:
            by_update(somebody, False)
            return NEW

        monkeypatch.setattr("getpass.getpass", answer)
        call_command("changepassword", "somebody", stdout=io.StringIO())
        somebody.refresh_from_db()
        assert (somebody.is_active, somebody.check_password(NEW)) == (False, True)

    def test_it_stands_when_an_older_page_of_the_account_is_saved(
        self, somebody: User, operator: Client
    ):
        """The page says active, staff and operator; the account is none of it by now."""
        somebody.groups.add(Group.objects.get_or_create(name="operator")[0])
        page = f"/admin/auth/user/{somebody.pk}/change/"
        fields = fields_of(operator.get(page).content.decode())
        by_update(somebody, False)
        somebody.groups.clear()
        User.objects.filter(pk=somebody.pk).update(last_name="Body")

        answer = operator.post(page, fields | {"first_name": ["Some"]})

        assert answer.status_code == 302
        somebody.refresh_from_db()
        assert (somebody.first_name, somebody.last_name) == ("Some", "Body")
        assert (somebody.is_active, somebody.is_staff) == (False, False)
        assert not somebody.groups.exists()

    def test_what_a_page_of_the_account_changes_is_written(self, somebody: User, operator: Client):
        group = Group.objects.get_or_create(name="operator")[0]
        page = f"/admin/auth/user/{somebody.pk}/change/"
        fields = fields_of(operator.get(page).content.decode())
        del fields["is_active"]

        answer = operator.post(page, fields | {"groups": [str(group.pk)]})

        assert answer.status_code == 302
        somebody.refresh_from_db()
        assert (somebody.is_active, somebody.is_staff) == (False, True)
        assert list(somebody.groups.all()) == [group]
        assert somebody.check_password(OLD)


class Fields(HTMLParser):
    """What a browser sends when a form is saved as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, list[str]] = {}
        self.select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "select":
            self.select = name
        elif tag == "option" and "selected" in found:
            self.sent.setdefault(self.select, []).append(value)
        elif tag == "input" and name and found.get("type") == "checkbox":
            if "checked" in found:
                self.sent.setdefault(name, []).append(value or "on")
        elif tag == "input" and name and found.get("type") != "submit":
            self.sent.setdefault(name, []).append(value)


def fields_of(page: str) -> dict[str, list[str]]:
    parser = Fields()
    parser.feed(page.partition('id="user_form"')[2])
    return parser.sent


def through_the_admin(user: User, active: bool) -> None:
    operator = Client(REMOTE_ADDR=FAR_AWAY)
    operator.force_login(User.objects.get(username="keeper-of-the-house"))
    fields = {"username": user.username, "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    page = operator.post(
        f"/admin/auth/user/{user.pk}/change/", fields | ({"is_active": "on"} if active else {})
    )
    assert page.status_code == 302


def by_save(user: User, active: bool) -> None:
    user = User.objects.get(pk=user.pk)
    user.is_active = active
    user.save()


def by_saving_the_field(user: User, active: bool) -> None:
    user.is_active = active
    user.save(update_fields=["is_active"])


def by_update(user: User, active: bool) -> None:
    User.objects.filter(pk=user.pk).update(is_active=active)


def by_bulk_update(user: User, active: bool) -> None:
    user.is_active = active
    User.objects.bulk_update([user], ["is_active"])


def by_sql(user: User, active: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE auth_user SET is_active = %s WHERE id = %s", [active, user.pk])


class TestWhenSessionsEnd:
    @pytest.mark.parametrize(
        "switch",
        [through_the_admin, by_save, by_saving_the_field, by_update, by_bulk_update, by_sql],
    )
    def test_the_sessions_of_a_deactivated_account_never_work_again(
        self, somebody: User, staff: User, switch: Callable[[User, bool], None]
    ):
        used, unused = logged_in(), logged_in()
        other = Client(REMOTE_ADDR=FAR_AWAY)
        other.force_login(staff)

        switch(somebody, False)
        assert not is_logged_in(used)
        switch(somebody, True)

        assert not is_logged_in(used)
        assert not is_logged_in(unused)
        assert is_logged_in(other)
        assert is_logged_in(logged_in())

    def test_a_session_that_a_login_left_at_the_moment_of_deactivation_ends_with_the_activation(
        self, somebody: User
    ):
        by_update(somebody, False)
        late = Client(REMOTE_ADDR=FAR_AWAY)
        late.force_login(somebody)
        by_update(somebody, True)
        assert not is_logged_in(late)

    def test_a_request_under_way_does_not_bring_the_session_back(self, somebody: User):
        session = logged_in().session
        assert session["_auth_user_id"] == str(somebody.pk)
        by_update(somebody, False)
        by_update(somebody, True)
        session["seen"] = True
        with pytest.raises(UpdateError):
            session.save()
        assert not AccountSession.objects.exists()

    def test_other_changes_of_an_account_leave_its_sessions(self, somebody: User):
        client = logged_in()
        somebody.first_name = "Some"
        somebody.save()
        User.objects.update(last_name="Body", is_active=True)
        assert is_logged_in(client)

    def test_a_password_that_an_operator_sets_ends_them(self, somebody: User):
        client = logged_in()
        somebody.set_password(NEW)
        somebody.save()
        assert not is_logged_in(client)

    def test_they_go_with_the_account(self, somebody: User):
        client = logged_in()
        assert AccountSession.objects.get().account == somebody
        somebody.delete()
        assert not AccountSession.objects.exists()
        assert not is_logged_in(client)

    def test_permissions_taken_away_are_gone_at_once(self, somebody: User):
        somebody.is_staff = True
        somebody.save()
        somebody.user_permissions.set(Permission.objects.filter(codename="view_user"))
        client = logged_in()
        assert client.get("/admin/auth/user/").status_code == 200

        somebody.user_permissions.clear()
        assert client.get("/admin/auth/user/").status_code == 403
        User.objects.update(is_staff=False)
        assert client.get("/admin/").status_code == 302
        assert is_logged_in(client)
