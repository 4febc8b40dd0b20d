"""Kept views: a name for the address of a history."""

import re
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client

from runs.models import SavedView
from runs.services import saved_views
from runs.services.saved_views import ViewRefused, save_view
from tunixrt.tests.clients import NEARBY


@pytest.fixture
def page(remote_client: Client, user: User) -> Client:
    remote_client.force_login(user)
    return remote_client


def keep(client: Client, name: str, query: str = "status=failed&tag=sweep-3") -> str:
    answer = client.post("/runs/views", {"name": name, "query": query})
    assert answer.status_code == 302
    return answer["Location"]


def links(client: Client, address: str = "/") -> list[tuple[str, str]]:
    text = client.get(address).content.decode()
    return re.findall(r'href="/\?([^"]*)" data-testid="view"[^>]*><bdi>([^<]*)<', text)


def test_a_view_is_kept_opened_renamed_and_deleted(page: Client, user: User) -> None:
    assert links(page) == []
    query = 'q=loss<1.5 after:7d&status=failed&tag=a"b&cursor=gone&nonsense=1&columns=status,loss'
    address = keep(page, "  failed   lately ", query)

    view = SavedView.objects.get()
    assert (view.owner, view.name) == (user, "failed lately")
    expected = urlencode(
        {"q": "loss<1.5 after:7d", "status": "failed", "tag": 'a"b', "columns": "status,loss"}
    )
    assert (view.query, address) == (expected, f"/?{expected}")
    assert page.get(address).status_code == 200
    assert links(page) == [(expected.replace("&", "&amp;"), "failed lately")]
    assert (
        'data-testid="view" aria-current="true"><bdi>failed lately</bdi>'
        in page.get(address).content.decode()
    )

    page.post(f"/runs/views/{view.pk}/rename", {"name": "red"})
    assert [name for _, name in links(page)] == ["red"]
    page.post(f"/runs/views/{view.pk}/delete")
    assert links(page) == []


@pytest.mark.parametrize("name", ["\u200b", "\u3164", "a\u202eb"], ids=ascii)
def test_a_name_that_cannot_be_read_is_refused_and_an_old_one_stays(user: User, name: str) -> None:
    with pytest.raises(ViewRefused, match="A name must"):
        save_view(by=user, name=name, query="mode=local")
    old = SavedView.objects.create(owner=user, name=name, query="mode=local")
    assert saved_views.rename_view(view=old, name=name).name == name


def test_the_page_offers_what_it_shows(page: Client) -> None:
    page.get("/?choose=1&columns=loss&columns=mode")  # remembered, not in the address
    text = page.get("/?mode=local&cursor=").content.decode()
    assert '<input type="hidden" name="query" value="mode=local&amp;columns=mode%2Closs">' in text


def test_keeping_it_under_a_name_that_is_there_changes_that_view(page: Client) -> None:
    keep(page, "mine", "mode=local")
    keep(page, "mine", "mode=dry-run")
    assert [view.query for view in SavedView.objects.all()] == ["mode=dry-run"]
    assert "The view \u2068mine\u2069 now shows this." in page.get("/").content.decode()


def test_everybody_has_their_own(page: Client, local_client: Client) -> None:
    keep(page, "mine")
    assert links(local_client) == []
    view = SavedView.objects.get()
    assert local_client.post(f"/runs/views/{view.pk}/delete").status_code == 404
    assert local_client.post(f"/runs/views/{view.pk}/rename", {"name": "x"}).status_code == 404
    keep(local_client, "mine", "mode=local")
    assert SavedView.objects.count() == 2


def test_in_local_mode_the_house_has_one_set(local_client: Client) -> None:
    keep(local_client, "ours")
    assert [name for _, name in links(Client(**NEARBY))] == ["ours"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\x00b"])
def test_a_name_that_is_none(page: Client, name: str) -> None:
    keep(page, name)
    assert not SavedView.objects.exists()
    assert "A name has 1 to 64 characters" in page.get("/runs/views").content.decode()


@pytest.mark.parametrize("query", ["status=nonsense", "q=loss<", "columns=nonsense"])
def test_filters_that_cannot_be_used_are_not_kept(page: Client, query: str) -> None:
    keep(page, "bad", query)
    assert not SavedView.objects.exists()


def test_a_name_that_is_taken(page: Client) -> None:
    keep(page, "one")
    keep(page, "two")
    view = SavedView.objects.get(name="two")
    answer = page.post(f"/runs/views/{view.pk}/rename", {"name": "one"}, follow=True)
    assert "There is a view &#x27;one&#x27; already." in answer.content.decode()
    assert SavedView.objects.filter(name="two").exists()


def test_there_is_a_limit(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_views, "VIEWS_MAX", 2)
    for name in ("a", "b"):
        save_view(by=user, name=name, query="")
    with pytest.raises(ViewRefused, match="At most 2"):
        save_view(by=user, name="c", query="")
    save_view(by=user, name="b", query="mode=local")
    assert SavedView.objects.count() == 2


def test_hostile_names_are_text(page: Client) -> None:
    keep(page, "<script>alert(1)</script>")
    for address in ("/", "/runs/views"):
        text = page.get(address).content.decode()
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_who_may(remote_client: Client, page: Client) -> None:
    assert (
        Client(REMOTE_ADDR="192.0.2.1")
        .post("/runs/views", {"name": "x"})["Location"]
        .startswith("/login")
    )
    assert page.put("/runs/views").status_code == 405
    assert page.get("/runs/views/1/delete").status_code == 405


def test_the_page_of_views_says_what_to_do_when_there_are_none(page: Client) -> None:
    text = page.get("/runs/views").content.decode()
    assert "No views saved yet" in text
