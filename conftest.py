"""Fixtures for the tests of every application. Database and folders: tunixrt/tests/plugin.py."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from knox.models import get_token_model
from rest_framework.test import APIClient

from runs.services import telemetry
from runs.tests.ports import HeldPort
from tunixrt.tests.answers import check_answer
from tunixrt.tests.clients import FAR_AWAY, NEARBY

MEASURING = "COVERAGE_PROCESS_CONFIG"  # by it coverage reaches subprocesses


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """The test database is the very one the settings name, so that programs started by a test find
    it. In place of pytest-django's, which a plugin's fixture could not replace.

    On SQLite that makes it a file: a database in memory cannot be shared by processes, and its
    threads get "table is locked".
    """
    database = settings.DATABASES["default"]
    database.setdefault("TEST", {})["NAME"] = database["NAME"]
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"]["timeout"] = (
            180  # fifty writers at once on a busy machine are slow, not locked out
        )


@pytest.fixture(scope="session", autouse=True)
def _static_files_on_demand() -> None:
    """Every test client loads the middleware, and WhiteNoise would look at each static file again,
    for a tenth of a second."""
    settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture(scope="session", autouse=True)
def coverage_of_programs() -> Iterator[str | None]:
    """What makes coverage measure the programs that tests start, taken away: mostly they run what
    other tests cover, and take much longer for it. Given back by ``measured_programs``, and by
    tests that make an environment themselves (keeper, settings).
    """
    with pytest.MonkeyPatch.context() as patch:
        measuring = os.environ.get(MEASURING)
        patch.delenv(MEASURING, raising=False)
        yield measuring


@pytest.fixture
def measured_programs(coverage_of_programs: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the test starts are measured, where coverage is."""
    if coverage_of_programs is not None:
        monkeypatch.setenv(MEASURING, coverage_of_programs)


@pytest.fixture(scope="session", autouse=True)
def _answers_as_described() -> Iterator[None]:
    """Every answer of the API is one that its OpenAPI document allows."""
    ask = Client.request

    def request(self: Client, **environ: Any) -> Any:
        response = ask(self, **environ)
        check_answer(environ.get("REQUEST_METHOD", "GET"), response)
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "request", request)
        yield


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of an answer writes to the database what its process has measured: no test pays for
    an earlier one's, nor for its own when it happens to be slow."""
    telemetry._measured.clear()
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", float("inf"))


@pytest.fixture
def port() -> Iterator[HeldPort]:
    """A port of loopback that belongs to this test."""
    held = HeldPort()
    yield held
    held.close()


@pytest.fixture
def user(db: None) -> User:
    """A user without special permissions and without a password (``force_login``)."""
    return User.objects.create_user("somebody")


@pytest.fixture
def staff(db: None) -> User:
    """A superuser."""
    return User.objects.create_superuser("keeper-of-the-house")


@pytest.fixture
def api(user: User) -> APIClient:
    """Calls the API from far away as ``user``: no local mode, no CSRF."""
    client = APIClient(REMOTE_ADDR=FAR_AWAY)
    client.force_authenticate(user)
    return client


@pytest.fixture
def make_token(db: None) -> Callable[[User], str]:
    """Makes an API token of an account and returns its key, which is stored hashed only."""

    def make(owner: User) -> str:
        _, key = get_token_model().objects.create(user=owner)
        return key

    return make


@pytest.fixture
def api_token(user: User, make_token: Callable[[User], str]) -> str:
    """The key of an API token of ``user``."""
    return make_token(user)


@pytest.fixture
def local_client(db: None) -> Client:
    """A browser on this machine in local mode, without login."""
    return Client(**NEARBY)


@pytest.fixture
def remote_client(db: None) -> Client:
    """A browser on another machine, not logged in."""
    return Client(REMOTE_ADDR=FAR_AWAY)


@pytest.fixture
def operator(remote_client: Client, staff: User) -> Client:
    """A browser elsewhere in which ``staff`` is logged in."""
    remote_client.force_login(staff)
    return remote_client
