"""The pytest plugin that gives the tests their database and folders, before Django reads its
settings.

``pytest --database=sqlite`` (the default) or ``--database=postgresql``. The tests' variables,
database and files are their own: nothing of the developer's environment, database or var/ is read
or touched. Programs that a test starts inherit the environment and so see the test database. With
xdist each process has a database and folders of its own.

The tests run in random order (pytest-randomly); the last lines name the seed that repeats it
(docs/testing.md).

    TEST_DATABASE_URL   another PostgreSQL server instead of the one from PyPI; its user must be
                        allowed to make databases
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest

from tunixrt.tests.postgres import postgres_server

ROOT = Path(__file__).resolve().parents[2]
SERVER_URL = "TUNIXRT_TEST_SERVER_URL"  # from the first process to xdist's others
_OURS = re.compile(
    r"(TUNIX|TUNIXRT)_\w+|SECRET_KEY|DEBUG|ALLOWED_HOSTS|CSRF_TRUSTED_ORIGINS|DATABASE_URL"
)
_stack = contextlib.ExitStack()

# The examples follow from the test alone, and their time does not count: neither chance nor a busy
# machine fails a test. `--hypothesis-profile=search` draws others (make test-long). Fixtures are
# shared by the examples of a test on purpose.
_check = hypothesis.HealthCheck
_PROFILE = hypothesis.settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[_check.too_slow, _check.function_scoped_fixture],
)
hypothesis.settings.register_profile("same", _PROFILE, derandomize=True)
hypothesis.settings.register_profile("search", _PROFILE, derandomize=False)
hypothesis.settings.load_profile("same")
_DATABASE_FIXTURES = {
    "db",
    "transactional_db",
    "django_db_setup",
    "django_db_serialized_rollback",
    "live_server",
    "house",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="the database the tests run on (default: sqlite)",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Around pytest-django's own hook, which loads the settings."""
    try:
        _prepare(early_config.known_args_namespace.database)
        return (yield)
    except BaseException:  # pytest ends without calling pytest_unconfigure
        _stack.close()
        raise


def _prepare(database: str) -> None:
    server_url = os.environ.get(SERVER_URL)
    for name in [name for name in os.environ if _OURS.fullmatch(name)]:
        del os.environ[name]
    session = f"{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"[:12] + os.environ.get(
        "PYTEST_XDIST_WORKER", ""
    )
    var = Path(tempfile.mkdtemp(prefix="tunixrt-tests-"))
    _stack.callback(shutil.rmtree, var, ignore_errors=True)
    os.environ["TUNIXRT_VAR_DIR"] = str(var)
    os.environ["TUNIX_OUTPUT_ROOT"] = str(var / "output")
    os.environ["TUNIXRT_ENV_FILE"] = str(var / "no.env")
    if database == "postgresql":
        if server_url is None:
            server_url = (
                os.environ.get("TEST_DATABASE_URL") or _stack.enter_context(postgres_server()).url()
            )
        os.environ[SERVER_URL] = server_url
        os.environ["DATABASE_URL"] = with_database(server_url, f"tunixrt_test_{session}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    _stack.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL only what asks a database: the rest has passed on SQLite, and would prove the
    same once more."""
    if config.getoption("database") != "postgresql":
        return
    asking, others = [], []
    for item in items:
        (asking if _asks_a_database(item) else others).append(item)
    if asking and others:
        config.hook.pytest_deselected(items=others)
        items[:] = asking


def _asks_a_database(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return bool(fixtures & _DATABASE_FIXTURES) or item.get_closest_marker("django_db") is not None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the seed also with ``-q``, which leaves pytest-randomly's header out."""
    seed = config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"random order: --randomly-seed={seed} repeats it")


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.getoption('database')}"


def with_database(url: str, name: str) -> str:
    """The address of another database of the same server; who connects has patience."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, "connect_timeout=180")))
    return urlunsplit(parts._replace(path=f"/{name}", query=query))
