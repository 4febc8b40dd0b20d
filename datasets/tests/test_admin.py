import pytest

from datasets import admin as datasets_admin
from datasets.models import Dataset, Trace
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces
from datasets.tests.factory import make_dataset

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client, staff):
    client.force_login(staff)
    return client


@pytest.fixture
def dataset():
    return make_dataset(30, held_out=5)


def found(response):
    return [str(row) for row in response.context["cl"].result_list]


def test_lists_are_searched_and_filtered(browser, dataset):
    make_dataset(0, name="products")
    assert len(found(browser.get("/admin/datasets/dataset/"))) == 2
    assert found(browser.get("/admin/datasets/dataset/?q=prod")) == ["products-v1"]
    assert found(browser.get(f"/admin/datasets/dataset/?q={dataset.fingerprint}")) == ["sums-v1"]
    assert found(browser.get("/admin/datasets/trace/?q=29%2B1")) == ["29+1=?"]
    assert (
        len(found(browser.get("/admin/datasets/trace/?created_at__gte=2020-01-01T00:00:00Z"))) == 30
    )
    assert browser.get("/admin/datasets/trace/?q=%00").status_code == 200


@pytest.mark.parametrize("name", ["dataset", "trace"])
def test_no_list_counts_its_rows(browser, dataset, name, django_assert_max_num_queries):
    with django_assert_max_num_queries(4) as captured:
        browser.get(f"/admin/datasets/{name}/")
    assert not [
        query["sql"] for query in captured.captured_queries if "COUNT(" in query["sql"].upper()
    ]


def test_text_is_searched_in_the_newest_traces_only_and_every_trace_is_found_by_id_or_hash(
    browser, dataset, monkeypatch
):
    monkeypatch.setattr(datasets_admin, "SEARCHED_MAX", 1)
    oldest = Trace.objects.order_by("created_at", "id").first()
    newest = Trace.objects.order_by("-created_at", "-id").first()

    def search(text):
        return [
            row.pk
            for row in browser.get("/admin/datasets/trace/", {"q": text}).context["cl"].result_list
        ]

    assert search("=?") == [newest.pk]
    assert search(str(oldest.pk)) == [oldest.pk]
    assert search(oldest.content_hash) == [oldest.pk]
    assert search("0" * 64) == []


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_queries(browser, count, django_assert_num_queries, staff):
    for number in range(count):
        make_dataset(1, version=str(number), first=number)
    Dataset.objects.update(created_by=staff)
    # Session, user, a look ahead, rows.
    for path, queries in {"/admin/datasets/dataset/": 4, "/admin/datasets/trace/": 4}.items():
        browser.get(path)
        with django_assert_num_queries(queries):
            assert len(found(browser.get(path))) == count


def test_the_first_examples_of_a_dataset(browser, dataset):
    text = browser.get(f"/admin/datasets/dataset/{dataset.pk}/change/").content.decode()
    assert text.count("/admin/datasets/trace/") >= 20
    assert "19+1=?" in text
    assert "20+1=?" not in text
    empty = make_dataset(0, version="v2")
    assert browser.get(f"/admin/datasets/dataset/{empty.pk}/change/").status_code == 200


def test_a_trace_names_its_datasets(browser, dataset):
    trace = dataset.items.get(position=0).trace
    text = browser.get(f"/admin/datasets/trace/{trace.pk}/change/").content.decode()
    assert f'<a href="/admin/datasets/dataset/{dataset.pk}/change/">sums-v1</a>' in text


def test_nothing_can_be_changed(browser, dataset):
    trace = dataset.items.get(position=0).trace
    for path in (f"/admin/datasets/dataset/{dataset.pk}", f"/admin/datasets/trace/{trace.pk}"):
        assert browser.post(f"{path}/change/", {"prompt": "x", "name": "x"}).status_code == 403
        assert browser.post(f"{path}/delete/", {"post": "yes"}).status_code == 403
    for name in ("dataset", "trace"):
        assert browser.get(f"/admin/datasets/{name}/add/").status_code == 403
    assert (Dataset.objects.count(), Trace.objects.count()) == (1, 30)
    assert not Trace.objects.filter(prompt="x").exists()


def test_text_of_traces_is_escaped(browser):
    (trace,) = create_traces(
        items=[{"prompt": "<script>1</script>", "final_answer": "<b>"}], by=None
    )
    dataset = create_dataset(name="hostile", version="1", trace_ids=[trace.id], by=None)
    for path in (f"trace/{trace.pk}/change/", f"dataset/{dataset.pk}/change/", "trace/"):
        text = browser.get(f"/admin/datasets/{path}").content.decode()
        assert "&lt;script&gt;1" in text
        assert "<script>1" not in text
