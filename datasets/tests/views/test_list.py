import re

import pytest

from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


def keys(response):
    return [dataset.dataset_key for dataset in response.context["page"].rows]


def test_datasets_newest_first(browser):
    make_dataset(3, held_out=1, version="v1")
    make_dataset(1, version="v2")
    response = browser.get("/datasets")
    assert response.status_code == 200
    assert keys(response) == ["sums-v2", "sums-v1"]
    text = response.content.decode()
    assert text.count('data-testid="dataset-row"') == 2
    assert 'href="/datasets/sums-v1"' in text
    assert 'href="/datasets/new"' in text


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_queries(browser, count, django_assert_num_queries):
    for number in range(count):
        make_dataset(1, version=str(number))
    browser.get("/datasets")
    with django_assert_num_queries(4):  # session, user, role, datasets
        assert len(keys(browser.get("/datasets"))) == count


def test_search(browser):
    make_dataset(0, name="sums")
    make_dataset(0, name="products")
    assert keys(browser.get("/datasets?q=SUM")) == ["sums-v1"]
    response = browser.get("/datasets?q=<script>alert(1)</script>")
    assert keys(response) == []
    assert "&lt;script&gt;alert(1)" in response.content.decode()
    assert "<script>alert" not in response.content.decode()


def test_pages(browser, monkeypatch):
    monkeypatch.setattr("datasets.views.datasets.PAGE", 2)
    for number in range(5):
        make_dataset(0, version=str(number), name="a_b")
    response, seen = browser.get("/datasets?q=a_b"), []
    for _ in range(3):
        seen += keys(response)
        cursor = response.context["page"].next_cursor
        if cursor:
            assert f'href="?q=a_b&amp;cursor={cursor}"' in response.content.decode()
            response = browser.get(f"/datasets?q=a_b&cursor={cursor}")
    assert seen == [f"a_b-{number}" for number in (4, 3, 2, 1, 0)]
    assert 'rel="next"' not in response.content.decode()
    assert 'href="?q=a_b"' in response.content.decode()


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=%00", "q=%00", "q=" + "x" * 3_000, "cursor="]
)
def test_addresses_that_make_no_sense_show_a_page(browser, query):
    make_dataset(0)
    assert browser.get(f"/datasets?{query}").status_code == 200


def test_empty_states(browser):
    assert "No datasets yet" in browser.get("/datasets").content.decode()
    assert "No dataset matches" in browser.get("/datasets?q=x").content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/datasets",
        "/datasets/new",
        "/datasets/sums-v1",
        "/traces",
        "/traces/00000000-0000-4000-8000-000000000000",
    ],
)
def test_pages_need_a_login(remote_client, path):
    make_dataset(1)
    for response in (remote_client.get(path), remote_client.post(path)):
        assert response.status_code == 302
        assert response.headers["location"].startswith("/login?next=")


def test_local_mode_needs_none(local_client):
    assert local_client.get("/datasets").status_code == 200


def test_pages_are_read(browser):
    for path in ("/datasets", "/datasets/x", "/traces"):
        assert browser.post(path).status_code == 405


@pytest.mark.parametrize("path", ["/datasets", "/datasets/new", "/datasets/sums-v1", "/traces"])
def test_nothing_inline(browser, path):
    """The Content-Security-Policy forbids inline script and style."""
    make_dataset(3, held_out=1)
    text = browser.get(path).content.decode()
    main = text[text.index("<main") :]
    assert "style=" not in main
    assert not re.search("<script(?! src=)", main)
    assert "onclick" not in main
