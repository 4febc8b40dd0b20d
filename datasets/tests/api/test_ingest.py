import gzip
import io
import json
from urllib.parse import urlencode

import pytest
import zstandard
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import RequestFactory
from rest_framework.test import APIClient, APIRequestFactory, force_authenticate

from datasets.api.uploads import DatasetIngest
from datasets.models import Dataset
from datasets.storage import staging
from datasets.tests.factory import cut_off_body, jsonl, make_dataset, nothing_is_stored, trace_body

pytestmark = pytest.mark.django_db
INGEST = "/api/datasets/ingest"


def upload(api, content, **fields):
    file = SimpleUploadedFile("sums.jsonl", content)
    return api.post(
        INGEST, {"name": "sums", "version": "v1", "file": file} | fields, format="multipart"
    )


def send(api, content, query="name=sums&version=v1", content_type="application/x-ndjson", **more):
    return api.post(f"{INGEST}?{query}", content, content_type=content_type, **more)


def test_an_upload_becomes_traces_and_a_dataset(api, user):
    content = jsonl(*(trace_body(number) for number in range(10)))
    response = upload(api, content, description="Sums", held_out="2")
    assert response.status_code == 201
    body = response.json()
    assert (body["dataset_key"], body["size"], body["held_out_size"], body["description"]) == (
        "sums-v1",
        10,
        2,
        "Sums",
    )
    assert body["provenance"]["file"] == "sums.jsonl"
    assert body["provenance"]["imported_by"] == "somebody"
    assert body == api.get("/api/datasets/sums-v1").json()
    assert Dataset.objects.get().created_by == user


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/jsonl"])
def test_lines_as_the_body(api, content_type):
    content = jsonl(
        *({"question": f"{number}?", "answer": f"one\n#### {number}"} for number in range(10))
    )
    query = "name=sums&version=v1&held_out=0.2&format=gsm8k&description=a%20b"
    response = send(api, content, query, content_type)
    assert response.status_code == 201
    body = response.json()
    assert (body["size"], body["held_out_size"], body["description"]) == (10, 2, "a b")
    assert body["provenance"]["bytes"] == len(content)
    assert "file" not in body["provenance"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"frage,antwort,rank\n1+1?,2,7\n", "text/csv"),
        (b'[{"frage": "1+1?", "antwort": 2, "rank": 7}]', "application/json"),
        (gzip.compress(b"frage;antwort;rank\n1+1?;2;7\n"), "application/gzip"),
        (zstandard.compress(b"frage\tantwort\trank\n1+1?\t2\t7\n"), "application/zstd"),
        (b"frage|antwort|rank\n1+1?|2|7\n", "application/octet-stream"),
    ],
    ids=["csv", "json", "gzip", "zstd", "bytes"],
)
def test_other_containers_with_a_mapping_a_kind_and_a_field_to_ignore(api, content, content_type):
    mapping = '{"prompt": "frage", "ground_truth": "antwort"}'
    fields = {"name": "sums", "version": "v1", "kind": "prompt", "mapping": mapping}
    assert (
        "an example with a rating (rank)"
        in send(api, content, urlencode(fields), content_type).json()["errors"][0]["reason"]
    )

    response = send(api, content, urlencode(fields | {"ignore": "rank, x"}), content_type)

    assert response.status_code == 201
    body = response.json()
    assert (body["kind"], body["format"]) == ("prompt", "tunix_prompts")
    assert body["provenance"]["kept_in_meta"] == ["rank"]
    (prompt,) = api.get("/api/traces").json()["data"]
    assert (prompt["kind"], prompt["final_answer"]) == ("prompt", "2")
    assert prompt["content"] == {"messages": [{"role": "user", "content": "1+1?"}]}


def test_a_large_upload_goes_through_a_file(api, settings):
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 1_000
    assert upload(api, jsonl(*(trace_body(number) for number in range(50)))).json()["size"] == 50


def test_bad_lines_are_named_and_nothing_is_stored(api):
    content = jsonl(trace_body(0)) + b"{\n\n" + jsonl({"prompt": 1, "final_answer": "x"})
    for response in (upload(api, content), send(api, content)):
        assert response.status_code == 400
        assert response.json() == {
            "detail": "2 lines are not valid, so nothing was stored.",
            "error_count": 2,
            "errors": [
                {"line": 2, "reason": "is not JSON: unexpected end of data (character 2)"},
                {"line": 4, "reason": "prompt: Must be text, not a number"},
            ],
        }
        assert nothing_is_stored()


def test_the_first_hundred_bad_lines(api):
    body = send(api, b"{\n" * 300).json()
    assert (body["error_count"], len(body["errors"])) == (300, 100)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x1f\x8b\x08gz"])
def test_files_without_examples(api, content):
    for response in (upload(api, content), send(api, content)):
        assert response.status_code == 400
        assert list(response.json()) == ["detail", "file"]


def test_a_key_that_is_taken_is_409(api):
    make_dataset(0)
    for response in (upload(api, jsonl(trace_body())), send(api, jsonl(trace_body()))):
        assert response.status_code == 409
        assert "sums-v1 exists already" in response.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "../x"),
        ("name", "a\x00"),
        ("version", "a/b"),
        ("format", "parquet"),
        ("kind", "essay"),
        ("mapping", "prompt"),
        ("mapping", '{"prompt": 1}'),
        ("held_out", "many"),
        ("held_out", "-1"),
        ("held_out", "2"),  # all there are
        ("description", "d" * 10_001),
        ("surprise", "x"),
        ("trace_ids", "[]"),
    ],
)
def test_fields_that_are_refused(api, field, value):
    content = jsonl(trace_body(0), trace_body(1))
    response = upload(api, content, **{field: value})
    assert response.status_code == 400
    assert field in response.json()
    query = {"name": "sums", "version": "v1"} | {field: value}
    response = send(
        api,
        content,
        "&".join(f"{key}={value}" for key, value in query.items()).replace("\x00", "%00"),
    )
    assert response.status_code == 400
    assert field in response.json()
    assert nothing_is_stored()


@pytest.mark.parametrize("field", ["name", "version"])
def test_required_fields(api, field):
    fields = {"name": "sums", "version": "v1"}
    del fields[field]
    response = api.post(
        INGEST, fields | {"file": SimpleUploadedFile("x", b"{}")}, format="multipart"
    )
    assert response.json()[field] == ["This field is required."]
    response = send(api, b"{}", "&".join(f"{key}={value}" for key, value in fields.items()))
    assert (response.status_code, response.json()[field]) == (400, ["This field is required."])


def test_fields_are_given_once(api):
    assert send(api, jsonl(trace_body()), "name=a&name=b&version=1").json()["name"] == [
        "Is given more than once."
    ]
    file = SimpleUploadedFile("x", jsonl(trace_body()))
    response = api.post(
        INGEST, {"name": ["a", "b"], "version": "1", "file": file}, format="multipart"
    )
    assert response.json()["name"] == ["Is given more than once."]


def test_a_form_has_one_file_and_its_fields_inside(api):
    fields = {"name": "sums", "version": "v1"}
    for file in (None, "text", [SimpleUploadedFile("a", b"{}"), SimpleUploadedFile("b", b"{}")]):
        response = api.post(INGEST, fields | ({"file": file} if file else {}), format="multipart")
        assert (response.status_code, response.json()["file"]) == (400, ["Give one file."])
    good = SimpleUploadedFile("a", jsonl(trace_body()))
    response = api.post(f"{INGEST}?name=x", fields | {"file": good}, format="multipart")
    assert (response.status_code, "name" in response.json()) == (400, True)
    response = api.post(
        INGEST,
        {"name": SimpleUploadedFile("a", b"x"), "version": "v1", "file": good},
        format="multipart",
    )
    assert response.status_code == 400
    assert "Must be text, not a file." in response.json()["detail"]
    assert nothing_is_stored()


@pytest.mark.parametrize(
    "content_type", ["application/xml", "text/plain", "application/x-www-form-urlencoded"]
)
def test_other_content_types_are_415(api, content_type):
    response = send(api, jsonl(trace_body()), content_type=content_type)
    assert response.status_code == 415
    assert "detail" in response.json()


def test_sizes_at_both_sides_of_the_limit(api, settings):
    content = jsonl(trace_body())
    settings.TUNIXRT_UPLOAD_MAX_BYTES = len(content)
    assert send(api, content).status_code == 201
    for response in (
        send(api, content + b"\n", "name=sums&version=v2"),
        upload(api, content, version="v3"),
    ):
        assert response.status_code == 413
        assert f"limit of {len(content):,} bytes" in response.json()["detail"]
    assert Dataset.objects.count() == 1


def test_uploads_are_not_held_to_the_limit_of_json_bodies(api, settings):
    settings.TUNIXRT_API_MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 500
    content = jsonl(*(trace_body(number) for number in range(50)))
    assert upload(api, content).status_code == 201
    assert send(api, content, "name=sums&version=v2").status_code == 201


def ingest_directly(request, user):
    force_authenticate(request, user)
    response = DatasetIngest.as_view()(request)
    response.render()
    return response.status_code, json.loads(response.content)


@pytest.mark.parametrize("missing", [1, 150])
def test_an_upload_that_was_cut_off_stores_nothing(user, missing):
    lines = jsonl(trace_body(0), trace_body(1))
    whole = APIRequestFactory().post(
        INGEST, {"name": "a", "version": "1", "file": io.BytesIO(lines)}, format="multipart"
    )
    body = whole.body
    # The end of the form is missing; all lines, or the first one, came in whole.
    received = cut_off_body(
        body[:-missing], announced=len(body), content_type=whole.META["CONTENT_TYPE"]
    )
    request = RequestFactory().generic("POST", INGEST, **received)
    status, answer = ingest_directly(request, user)
    assert status == 400
    assert "The upload ended after" in answer["detail"]
    assert nothing_is_stored()


def test_lines_that_were_cut_off_between_two_of_them_store_nothing(user):
    first, both = jsonl(trace_body(0)), jsonl(trace_body(0), trace_body(1))
    received = cut_off_body(first, announced=len(both), content_type="application/x-ndjson")
    request = RequestFactory().generic("POST", f"{INGEST}?name=a&version=1", **received)
    status, answer = ingest_directly(request, user)
    assert (status, answer["detail"]) == (
        400,
        f"The upload ended after {len(first)} of {len(both)} bytes. Nothing was stored.",
    )
    assert nothing_is_stored()


def test_lines_are_cut_without_the_help_of_the_server(user):
    class OnlyRead:
        """A server's input whose ``readline`` is of no use, like granian's."""

        def __init__(self, content):
            self.read = io.BytesIO(content).read

        def readline(self, size=-1):
            return b""

    lines = jsonl(*(trace_body(number) for number in range(300)))
    received = cut_off_body(b"", announced=len(lines), content_type="application/x-ndjson")
    received["wsgi.input"] = OnlyRead(lines)
    status, answer = ingest_directly(
        RequestFactory().generic("POST", f"{INGEST}?name=a&version=1", **received), user
    )
    assert (status, answer["size"]) == (201, 300)


def test_who_may_upload_is_told_before_the_upload(api, remote_client):
    assert api.get("/api/uploads/permission").status_code == 204
    assert remote_client.get("/api/uploads/permission").status_code == 401


def test_a_disk_without_room_is_507(api, monkeypatch):
    monkeypatch.setattr(staging, "_SCHEMA", f"{staging._SCHEMA} PRAGMA max_page_count = 4;")
    response = send(api, jsonl(trace_body(prompt="long " * 5_000)))
    assert response.status_code == 507
    assert response.json() == {
        "detail": "The server has no room for the upload. Nothing was stored."
    }
    assert nothing_is_stored()


def test_sessions_need_the_csrf_token(user):
    client = APIClient(enforce_csrf_checks=True, REMOTE_ADDR="192.0.2.1")
    client.force_login(user)
    response = upload(client, jsonl(trace_body()))
    assert (response.status_code, nothing_is_stored()) == (403, True)
    token = client.get("/datasets/new").cookies["csrftoken"].value
    response = upload(client, jsonl(trace_body()), csrfmiddlewaretoken=token)
    assert response.status_code == 201


def test_other_methods_are_405(api):
    for method in (api.get, api.put, api.delete):
        assert method(INGEST).status_code in (405, 415)
