import uuid

import pytest

from datasets.models import Dataset
from datasets.services.datasets import MAX_DESCRIPTION, MAX_NAME, MAX_VERSION
from datasets.tests.factory import make_dataset, make_traces

pytestmark = pytest.mark.django_db
HOSTILE_KEYS = [
    "none",
    "..%2Fsums-v1",
    "%2e%2e%2fsums-v1",
    "sums-v1%00",
    "sums-v1%0a",
    "%ff",
    "sums%5cv1",
    "%F0%9F%98%80",
    "SUMS-V1",
    "x" * 3_000,
]


def post(api, **body):
    return api.post(
        "/api/datasets", {"name": "sums", "version": "v1", "trace_ids": []} | body, format="json"
    )


# --- POST /api/datasets ---------------------------------------------------------------------------


def test_a_dataset_is_answered_by_its_manifest(api, user):
    ids = [str(trace.id) for trace in make_traces(3)]
    response = post(api, name="test_tunix", trace_ids=ids, held_out_ids=ids[2:], description="Sums")
    assert response.status_code == 201
    dataset = Dataset.objects.get()
    body = response.json()
    assert body["dataset_key"] == "test_tunix-v1"
    assert (body["size"], body["held_out_size"], body["format"], body["description"]) == (
        3,
        1,
        "tunix_sft",
        "Sums",
    )
    assert body["provenance"] == {"source": "api"}
    assert dataset.created_by == user
    assert body == api.get("/api/datasets/test_tunix-v1").json()


def test_an_empty_dataset(api):
    response = post(api)
    assert response.status_code == 201
    assert response.json()["size"] == 0


def test_unknown_traces_are_named(api):
    known = str(make_traces(1)[0].id)
    unknown = [str(uuid.uuid4()) for _ in range(25)]
    response = post(api, trace_ids=[known, *unknown])
    assert response.status_code == 400
    body = response.json()
    assert body["unknown_trace_ids"] == unknown
    assert unknown[0] in body["detail"]
    assert not Dataset.objects.exists()


def test_the_same_name_and_version_again_is_409(api):
    assert post(api).status_code == 201
    response = post(api)
    assert response.status_code == 409
    assert "sums-v1 exists already" in response.json()["detail"]


def test_the_same_key_split_in_another_place_is_409(api):
    assert post(api, name="a-b", version="c").status_code == 201
    response = post(api, name="a", version="b-c")
    assert response.status_code == 409
    assert Dataset.objects.count() == 1


@pytest.mark.parametrize("field", ["name", "version", "trace_ids"])
def test_required_fields(api, field):
    body = {"name": "sums", "version": "v1", "trace_ids": []}
    del body[field]
    response = api.post("/api/datasets", body, format="json")
    assert response.status_code == 400
    assert response.json()[field] == ["This field is required."]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("name", None),
        ("name", True),
        ("name", ""),
        ("name", "../x"),
        ("name", "a..b"),
        ("name", "a/b"),
        ("name", "a b"),
        ("name", "ä"),
        ("name", "n" * (MAX_NAME + 1)),
        ("version", 1),
        ("version", 1.0),
        ("version", "1.."),
        ("version", "v" * (MAX_VERSION + 1)),
        ("description", 5),
        ("description", None),
        ("description", "d" * (MAX_DESCRIPTION + 1)),
        ("trace_ids", "all"),
        ("trace_ids", None),
        ("trace_ids", {}),
        ("trace_ids", [5]),
        ("trace_ids", ["../x"]),
        ("trace_ids", [None]),
        ("held_out_ids", "all"),
        ("held_out_ids", 5),
        ("held_out_ids", [[]]),
        ("held_out_ids", [str(uuid.UUID(int=1))]),
        ("size", 5),
        ("dataset_key", "x-y"),
    ],
)
def test_fields_that_are_refused(api, field, value):
    response = post(api, **{field: value})
    assert response.status_code == 400
    assert field in response.json()
    assert field in response.json()["detail"]
    assert not Dataset.objects.exists()


@pytest.mark.parametrize(
    "body",
    ["null", "[]", "5", "{", "", '{"name": NaN}', '{"name": "a\\u0000"}', '{"name": "\\ud800"}'],
)
def test_bodies_that_are_no_datasets(api, body):
    response = api.post("/api/datasets", body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["detail"]


def test_fields_at_their_limits(api):
    response = post(
        api, name="n" * MAX_NAME, version="v" * MAX_VERSION, description="d" * MAX_DESCRIPTION
    )
    assert response.status_code == 201
    key = response.json()["dataset_key"]
    assert len(key) == 256
    assert api.get(f"/api/datasets/{key}").status_code == 200


def test_without_a_login_nothing_is_shown_or_made(remote_client):
    make_dataset()
    for response in (
        remote_client.get("/api/datasets"),
        remote_client.get("/api/datasets/sums-v1"),
        remote_client.get("/api/datasets/sums-v1/export.jsonl"),
        remote_client.post("/api/datasets", {"name": "a"}, content_type="application/json"),
        remote_client.post(
            "/api/datasets/ingest?name=a&version=b", b"{}", content_type="application/x-ndjson"
        ),
    ):
        assert response.status_code == 401
        assert "detail" in response.json()
    assert Dataset.objects.count() == 1


# --- GET /api/datasets ----------------------------------------------------------------------------


def test_datasets_are_listed_newest_first(api):
    for number in range(3):
        make_dataset(number, version=f"v{number}")
    body = api.get("/api/datasets").json()
    assert [row["dataset_key"] for row in body["data"]] == ["sums-v2", "sums-v1", "sums-v0"]
    assert [row["size"] for row in body["data"]] == [2, 1, 0]
    assert body["pagination"] == {
        "limit": 20,
        "offset": 0,
        "next_offset": None,
        "next_cursor": None,
    }


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_is_one_query(api, count, django_assert_num_queries):
    for number in range(count):
        make_dataset(1, version=str(number))
    with django_assert_num_queries(1):
        assert len(api.get("/api/datasets").json()["data"]) == count


def test_pages(api):
    for number in range(5):
        make_dataset(0, version=str(number))
    by_offset = [api.get(f"/api/datasets?limit=2&offset={offset}").json() for offset in (0, 2, 4)]
    assert [page["pagination"]["next_offset"] for page in by_offset] == [2, 4, None]
    by_cursor, cursor = [], ""
    while cursor is not None:
        page = api.get(f"/api/datasets?limit=2&cursor={cursor}").json()
        by_cursor.append(page)
        cursor = page["pagination"]["next_cursor"]
    for pages in (by_offset, by_cursor):
        assert [row["version"] for page in pages for row in page["data"]] == [
            "4",
            "3",
            "2",
            "1",
            "0",
        ]


def test_search(api):
    make_dataset(0, name="sums")
    make_dataset(0, name="products")
    assert [row["name"] for row in api.get("/api/datasets?q=SUM").json()["data"]] == ["sums"]
    assert api.get("/api/datasets?q=none").json()["data"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "offset=-1", "cursor=x", "q=%00", "page_size=5"]
)
def test_queries_that_cannot_be_read_are_422(api, query):
    response = api.get(f"/api/datasets?{query}")
    assert response.status_code == 422
    assert query.split("=")[0] in response.json()


# --- GET /api/datasets/{key} ----------------------------------------------------------------------


def test_the_manifest(api, django_assert_num_queries):
    dataset = make_dataset(3, held_out=1)
    with django_assert_num_queries(1):
        body = api.get("/api/datasets/sums-v1").json()
    assert body == {
        "dataset_key": "sums-v1",
        "name": "sums",
        "version": "v1",
        "description": "",
        "kind": "trace",
        "size": 3,
        "held_out_size": 1,
        "erased_size": 0,
        "format": "tunix_sft",
        "created_at": dataset.created_at.isoformat().replace("+00:00", "Z"),
        "stats": dataset.stats,
        "fingerprint": dataset.fingerprint,
        "provenance": {"source": "traces"},
        "licence": "",
        "source": "",
        "archived_at": None,
        "sealed_at": None,
    }


@pytest.mark.parametrize("path", ["/api/datasets/{}", "/api/datasets/{}/export.jsonl"])
@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_unknown_keys_and_path_tricks_are_404(api, path, key):
    make_dataset()
    response = api.get(path.format(key))
    assert response.status_code == 404
    assert response.json()["detail"]


def test_the_404_names_the_key(api):
    for path in ("/api/datasets/none-v1", "/api/datasets/none-v1/export.jsonl"):
        assert api.get(path).json() == {"detail": "Dataset not found: none-v1"}


def test_datasets_are_immutable(api):
    make_dataset()
    for method in (api.put, api.delete, api.post):
        response = method("/api/datasets/sums-v1")
        assert response.status_code == 405
        assert "detail" in response.json()
