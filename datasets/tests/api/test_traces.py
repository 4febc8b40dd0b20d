import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.models import Trace
from datasets.tests.factory import make_traces, trace_body

pytestmark = pytest.mark.django_db


def post(api, body, **more):
    return api.post("/api/traces", body, content_type="application/json", **more)


# --- POST /api/traces -----------------------------------------------------------------------------


def test_one_trace_is_answered_by_one_receipt(api, user):
    response = api.post("/api/traces", trace_body(1), format="json")
    assert response.status_code == 201
    trace = Trace.objects.get()
    body = response.json()
    assert set(body) == {"id", "created_at", "trace_version"}
    assert body["id"] == str(trace.id)
    assert body["trace_version"] == "1.0"
    assert body["created_at"] == trace.created_at.isoformat().replace("+00:00", "Z")
    assert trace.created_by == user


def test_a_list_is_answered_by_a_list_in_its_order(api):
    response = api.post("/api/traces", [trace_body(2), trace_body(1), trace_body(2)], format="json")
    assert response.status_code == 201
    ids = [receipt["id"] for receipt in response.json()]
    assert ids[0] == ids[2]
    assert [str(Trace.objects.get(pk=pk).prompt) for pk in ids] == ["2+1=?", "1+1=?", "2+1=?"]


def test_the_same_trace_again_is_the_same_receipt(api):
    first = api.post("/api/traces", trace_body(1), format="json")
    second = api.post("/api/traces", trace_body(1), format="json")
    assert second.status_code == 201
    assert second.json() == first.json()


def test_an_empty_list_is_an_empty_list(api):
    response = api.post("/api/traces", [], format="json")
    assert (response.status_code, response.json()) == (201, [])


def test_a_trace_that_is_not_valid_names_its_fields(api):
    response = api.post(
        "/api/traces", trace_body(1, prompt=5, promt="x", steps=[{"i": 0}]), format="json"
    )
    assert response.status_code == 400
    body = response.json()
    assert body["prompt"] == ["Must be text, not a number."]
    assert body["promt"] == ["Unknown field."]
    assert body["steps"] == ["steps[0]: content is missing.", "steps[0]: type is missing."]
    assert "prompt: Must be text, not a number." in body["detail"]
    assert not Trace.objects.exists()


def test_one_bad_trace_of_a_list_stores_nothing_and_is_named_by_its_place(api):
    response = api.post(
        "/api/traces", [trace_body(1), trace_body(2, final_answer="")], format="json"
    )
    assert response.status_code == 400
    assert response.json() == {
        "detail": "[1].final_answer: Must not be blank.",
        "[1].final_answer": ["Must not be blank."],
    }
    assert not Trace.objects.exists()


@pytest.mark.parametrize("body", ["null", "1", '"text"', "true", "[1]", "[[]]"])
def test_bodies_that_are_no_traces(api, body):
    response = post(api, body)
    assert response.status_code == 400
    assert "Must be an object" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        '{"prompt": "p", "final_answer": NaN}',
        '{"prompt": "p", "final_answer": "a", "meta": {"x": Infinity}}',
        '{"prompt": "p", "final_answer": "a", "meta": {"x": 1e999}}',
        '{"prompt": "p\\u0000", "final_answer": "a"}',
        '{"prompt": "p", "final_answer": "a", "meta": {"x\\u0000": 1}}',
        '{"prompt": "\\ud800", "final_answer": "a"}',
        b'{"prompt": "\xff", "final_answer": "a"}',
        b"\xef\xbb\xbf{}",
        "[" * 100_000,
        '{"prompt": "p", "final_answer": "a", "meta": {"x": ' + "[" * 900 + "]" * 900 + "}}",
    ],
)
def test_hostile_bodies_are_400_with_a_reason(api, body):
    response = post(api, body)
    assert response.status_code == 400
    assert len(response.json()["detail"]) > 10
    assert not Trace.objects.exists()


def test_a_body_of_ten_megabytes_is_413(api):
    response = api.post("/api/traces", trace_body(1, prompt="x" * 10_000_000), format="json")
    assert response.status_code == 413
    assert "limit" in response.json()["detail"]


def test_the_number_of_traces_at_both_sides_of_the_limit(api, monkeypatch):
    monkeypatch.setattr("datasets.api.traces.TRACES_MAX", 3)
    assert (
        api.post(
            "/api/traces", [trace_body(number) for number in range(3)], format="json"
        ).status_code
        == 201
    )
    response = api.post("/api/traces", [trace_body(number) for number in range(4)], format="json")
    assert response.status_code == 400
    assert "more than the limit of 3" in response.json()["detail"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
def test_other_content_types_are_415(api, content_type):
    response = api.post("/api/traces", "x", content_type=content_type)
    assert response.status_code == 415
    assert "detail" in response.json()


def test_without_a_login_nothing_is_shown_or_stored(remote_client):
    for response in (
        remote_client.get("/api/traces"),
        remote_client.get(f"/api/traces/{uuid.uuid4()}"),
        remote_client.post("/api/traces", trace_body(1), content_type="application/json"),
    ):
        assert response.status_code == 401
        assert "detail" in response.json()
    assert not Trace.objects.exists()


def test_other_methods_are_405(api):
    (trace,) = make_traces(1)
    for response in (
        api.put("/api/traces"),
        api.delete(f"/api/traces/{trace.id}"),
        api.patch(f"/api/traces/{trace.id}"),
    ):
        assert response.status_code == 405
        assert "detail" in response.json()


@settings(max_examples=50)
@given(body=st.binary(max_size=200))
def test_no_body_brings_the_server_down(api, body):
    assert post(api, body).status_code in (201, 400)


# --- GET /api/traces ------------------------------------------------------------------------------


def test_traces_are_listed_newest_first(api):
    make_traces(3)
    body = api.get("/api/traces").json()
    assert [trace["final_answer"] for trace in body["data"]] == ["3", "2", "1"]
    assert body["pagination"] == {
        "limit": 20,
        "offset": 0,
        "next_offset": None,
        "next_cursor": None,
    }
    assert set(body["data"][0]) == {
        "id",
        "kind",
        "content",
        "prompt",
        "steps",
        "final_answer",
        "meta",
        "trace_version",
        "erased_at",
        "archived_at",
        "sealed_at",
        "created_at",
    }


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_is_one_query(api, count, django_assert_num_queries):
    make_traces(count)
    with django_assert_num_queries(1):
        assert len(api.get("/api/traces").json()["data"]) == count


def test_pages_by_offset_neither_skip_nor_repeat(api):
    make_traces(5)
    first = api.get("/api/traces?limit=2").json()
    second = api.get("/api/traces?limit=2&offset=2").json()
    third = api.get("/api/traces?limit=2&offset=4").json()
    assert [page["pagination"]["next_offset"] for page in (first, second, third)] == [2, 4, None]
    answers = [trace["final_answer"] for page in (first, second, third) for trace in page["data"]]
    assert answers == ["5", "4", "3", "2", "1"]


def test_pages_by_cursor_stay_in_place_while_traces_arrive(api):
    make_traces(5)
    answers, cursor = [], ""
    for number in range(3):
        page = api.get(f"/api/traces?limit=2&cursor={cursor}").json()
        answers += [trace["final_answer"] for trace in page["data"]]
        cursor = page["pagination"]["next_cursor"]
        make_traces(1, first=100 + number)
    assert answers == ["5", "4", "3", "2", "1"]
    assert cursor is None


def test_traces_of_the_same_moment_are_ordered_by_id(api):
    traces = make_traces(5)
    Trace.objects.update(created_at=traces[0].created_at.replace(microsecond=0))
    ids, cursor = [], ""
    while cursor is not None:
        page = api.get(f"/api/traces?limit=2&cursor={cursor}").json()
        ids += [trace["id"] for trace in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert ids == sorted((str(trace.id) for trace in traces), reverse=True)


def test_search_finds_prompts_answers_and_ids(api):
    traces = make_traces(3)

    def found(text):
        return [trace["prompt"] for trace in api.get("/api/traces", {"q": text}).json()["data"]]

    assert found("1+1") == ["1+1=?"]
    assert found("3") == ["2+1=?"]
    assert found(str(traces[0].id)) == ["0+1=?"]
    assert found("%") == []
    assert found("nothing") == []


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.5", "limit"),
        ("limit=٣", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("offset=-1", "offset"),
        ("offset=x", "offset"),
        ("offset=1000001", "offset"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=ä", "cursor"),
        # 0001-01-01T00:00:00+23:00|…, which lies before all time in UTC
        (
            "cursor=MDAwMS0wMS0wMVQwMDowMDowMCsyMzowMHwwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA",
            "cursor",
        ),
        ("q=" + "x" * 257, "q"),
        ("q=a%00", "q"),
        ("page=2", "page"),
    ],
)
def test_queries_that_cannot_be_read_are_422(api, query, name):
    response = api.get(f"/api/traces?{query}")
    assert response.status_code == 422
    assert name in response.json()
    assert name in response.json()["detail"]


@pytest.mark.parametrize(
    "query", ["limit=1", "limit=100", "offset=0", "offset=1000000", "q=" + "x" * 256, "limit="]
)
def test_queries_at_their_limits(api, query):
    assert api.get(f"/api/traces?{query}").status_code == 200


# --- GET /api/traces/{id} -------------------------------------------------------------------------


def test_a_trace_in_full(api):
    (trace,) = make_traces(1)
    assert api.get(f"/api/traces/{trace.id}").json() == {
        "id": str(trace.id),
        "kind": "trace",
        "content": None,
        **trace_body(0),
        "trace_version": "1.0",
        "erased_at": None,
        "archived_at": None,
        "sealed_at": None,
        "created_at": trace.created_at.isoformat().replace("+00:00", "Z"),
    }


def test_an_unknown_trace_is_404(api):
    unknown = uuid.uuid4()
    response = api.get(f"/api/traces/{unknown}")
    assert (response.status_code, response.json()) == (
        404,
        {"detail": f"Trace not found: {unknown}"},
    )


@pytest.mark.parametrize("text", ["1", "none", "a" * 36, "0" * 32, "%00", "..", "x" * 2_000])
def test_a_malformed_id_is_422(api, text):
    response = api.get(f"/api/traces/{text}")
    assert response.status_code == 422
    assert "is not a UUID" in response.json()["detail"]


def test_a_slash_at_the_end_is_no_route(api):
    for path in ("/api/traces/", "/api/datasets/"):
        response = api.get(path)
        assert response.status_code in (404, 422)
        assert "detail" in response.json()


def test_browsers_get_the_browsable_api(client, user):
    client.force_login(user)
    make_traces(1)
    for path in (
        "/api/traces",
        f"/api/traces/{Trace.objects.get().id}",
        "/api/datasets",
        "/api/datasets/none",
        "/api/traces/x",
    ):
        response = client.get(path, headers={"accept": "text/html"})
        assert response.headers["content-type"].startswith("text/html")
        assert response.status_code in (200, 404, 422)
