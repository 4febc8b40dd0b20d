"""What every page has around it: navigation, login and logout, errors, and nothing inline."""

import re
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from datasets.tests.factory import make_dataset

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def test_navigation_leads_everywhere(local_client: Client) -> None:
    page = local_client.get("/").content.decode()
    for href in ("/", "/datasets", "/traces", "/admin/", "/runs/new"):
        assert f'href="{href}"' in page
    assert re.search(r'<a href="/"\s+aria-current="true">Runs</a>', page)
    assert 'class="skip" href="#main"' in page


@pytest.mark.parametrize(
    ("address", "current"),
    [
        ("/", "Runs"),
        ("/runs/views", "Runs"),
        ("/runs/compare", "Runs"),
        ("/evaluations", "Evaluations"),
        ("/evaluations/compare", "Evaluations"),
        ("/leaderboards", "Evaluations"),
        ("/datasets", "Datasets"),
        ("/datasets/sums-v1/lineage", "Datasets"),
        ("/datasets/sums-v1/tokens", "Datasets"),
        ("/traces", "Traces"),
        ("/erasures/new", "Traces"),
        ("/runs/new", None),
    ],
)
def test_navigation_shows_where_one_is(
    local_client: Client, address: str, current: str | None
) -> None:
    make_dataset()
    page = local_client.get(address).content.decode()
    navigation = page[page.index('<nav aria-label="Main">') : page.index("</nav>")]
    marked = re.findall(r'aria-current="true">(\w+)</a>', navigation)
    assert marked == ([current] if current else [])


def test_login_and_logout(remote_client: Client, user: User, settings: LazySettings) -> None:
    user.set_password("a long enough one")
    user.save(update_fields=["password"])
    assert remote_client.get("/")["Location"] == "/login?next=/"
    wrong = remote_client.post(
        "/login", {"username": "somebody", "password": "wrong", "next": "/runs/new"}
    )
    assert "Please enter a correct username and password" in wrong.content.decode()
    right = remote_client.post(
        "/login", {"username": "somebody", "password": "a long enough one", "next": "/runs/new"}
    )
    assert right["Location"] == "/runs/new"
    page = remote_client.get("/").content.decode()
    assert "somebody" in page
    assert 'href="/admin/"' not in page
    assert 'action="/logout"' in page
    assert remote_client.post("/logout")["Location"] == "/login"
    assert remote_client.get("/").status_code == 302


def test_nobody_logs_out_in_local_mode(local_client: Client) -> None:
    assert 'action="/logout"' not in local_client.get("/").content.decode()


def test_an_error_page_asks_no_database(
    remote_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    remote_client.cookies["sessionid"] = "of-somebody"
    with django_assert_num_queries(0):
        response = remote_client.get("/nothing-here")
    assert response.status_code == 404
    assert "Not found" in response.content.decode()


@pytest.mark.parametrize(
    "path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES))
)
def test_templates_have_nothing_inline(path: Path) -> None:
    """The Content-Security-Policy allows our own files only."""
    text = path.read_text()
    assert not re.findall(
        r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:|hx-on", text
    )
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)


def test_lines_of_templates_have_at_most_160_characters() -> None:
    for path in TEMPLATES.rglob("*.html"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= 160, f"{path}:{number} has {len(line)} characters"


def test_templates_obey_the_arrows_of_the_apps() -> None:
    """An app's templates use their own, those of the project, and, in runs alone, those of
    datasets."""
    used_by = {
        "runs": {"runs", "datasets"},
        "datasets": {"datasets"},
        "registration": set(),
        "components": set(),
        "admin": {"admin"},
    }
    for path in TEMPLATES.rglob("*.html"):
        folder = path.relative_to(TEMPLATES).parts[0]
        for used in re.findall(r"{%\s*(?:include|extends)\s+[\"']([^\"']+)", path.read_text()):
            first, _, rest = used.partition("/")
            assert not rest or first in {"components"} | used_by.get(folder, set()), (
                f"{path} uses {used}"
            )
