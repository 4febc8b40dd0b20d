"""Fixtures of the browser tests: one Chromium and one house for all of them, a fresh profile for
each test."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from runs.tests.browser.house import House
from runs.tests.launching import PATIENCE
from tunixrt.tests.plugin import SERVER_URL, with_database

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
SLOW = PATIENCE * 1000  # milliseconds

Visit = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the browser tests, and keep them together where the random order has put the first: they
    share a house."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.browser)
    if ours:
        place = items.index(ours[0])
        others = [item for item in items if item not in ours]
        items[:] = [*others[:place], *ours, *others[place:]]


# One for the package, not for the session: Playwright keeps an event loop in this thread, and where
# one is, Django keeps its database away from all other tests.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, EXECUTABLES)), None)
    with sync_playwright() as playwright:
        # Without one of the system's: the one that `playwright install chromium` has brought.
        executable = found or playwright.chromium.executable_path
        assert os.path.exists(executable), (
            "These tests need Debian's chromium; pytest -m 'not browser' leaves them out."
        )
        expect.set_options(timeout=SLOW)
        browser = playwright.chromium.launch(
            executable_path=executable, args=ARGUMENTS, timeout=SLOW
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def house(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[House]:
    """A server and an attendant with one slot: of two trainings the second waits."""
    folder = tmp_path_factory.mktemp("house")
    with contextlib.ExitStack() as stack:
        database_url = ""
        if request.config.getoption("database") == "postgresql":
            database_url = stack.enter_context(_own_database())
        house = House(folder, database_url=database_url, TUNIX_SLOTS="1")
        stack.callback(house.close)
        yield house


@contextlib.contextmanager
def _own_database() -> Iterator[str]:
    """The address of an empty database on the server of the tests."""
    server, name = os.environ[SERVER_URL], f"tunixrt_browser_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def visit(browser: Browser, house: House) -> Iterator[Visit]:
    """Opens a page of the house in a fresh profile. What it says on the console or asks of other
    hosts fails the test."""
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def open_page(path: str, **options: Any) -> Page:
        context = browser.new_context(base_url=house.url, **options)
        contexts.append(context)
        context.set_default_timeout(SLOW)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: trouble.append(f"{page.url}: {error}"))
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((house.url, "data:")) else trouble.append(asked.url)
            ),
        )
        page.goto(path)
        return page

    def hear(said: ConsoleMessage) -> None:
        # That the page itself has a code from 400 on is what such a test is about.
        own_code = (
            said.text.startswith("Failed to load resource")
            and said.page
            and said.location.get("url") == said.page.url
        )
        if said.type in ("error", "warning") and not own_code:
            trouble.append(f"{said.location.get('url')}: {said.text}")

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def dataset(house: House, request: pytest.FixtureRequest) -> str:
    """The key of a dataset of this test's own: three examples."""
    return house.add_dataset(request.node.name.replace("[", "-").replace("]", ""))
