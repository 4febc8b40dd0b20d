import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from datasets.models import Dataset
from datasets.storage import staging
from datasets.tests.factory import cut_off_body, jsonl, make_dataset, nothing_is_stored, trace_body

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client, user):
    client.force_login(user)
    return client


def send(browser, content, **fields):
    data = {
        "name": "sums",
        "version": "v1",
        "description": "",
        "format": "",
        "held_out": "",
    } | fields
    return browser.post("/datasets/new", data | {"file": SimpleUploadedFile("sums.jsonl", content)})


def test_the_form(browser):
    response = browser.get("/datasets/new")
    text = response.content.decode()
    assert response.status_code == 200
    for name in (
        "file",
        "name",
        "version",
        "description",
        "format",
        "kind",
        "mapping",
        "ignore",
        "held_out",
        "csrfmiddlewaretoken",
    ):
        assert f'name="{name}"' in text


def test_an_upload_leads_to_the_dataset(browser, user):
    content = jsonl(*(trace_body(number) for number in range(10)))
    response = send(browser, content, description="Sums", held_out="2", format="trace")
    assert response.status_code == 302
    assert response.headers["location"] == "/datasets/sums-v1"
    dataset = Dataset.objects.get()
    assert (dataset.size, dataset.held_out_size, dataset.description, dataset.created_by) == (
        10,
        2,
        "Sums",
        user,
    )
    assert dataset.provenance["file"] == "sums.jsonl"
    assert "Stored sums-v1: 10 examples." in browser.get("/datasets/sums-v1").content.decode()


def test_columns_of_other_names_become_prompts(browser):
    content = b"frage,antwort,rank\n1+1?,2,7\n"
    asked = {"kind": "prompt", "mapping": '{"question": "frage", "answer": "antwort"}'}
    refused = send(browser, content, **asked).content.decode()
    assert "an example with a rating (rank)" in refused
    assert "&quot;question&quot;: &quot;frage&quot;" in refused  # what was typed stays
    assert send(browser, content, **asked, ignore="rank").status_code == 302
    dataset = Dataset.objects.get()
    assert (dataset.kind, dataset.provenance["ignore"]) == ("prompt", ["rank"])
    text = browser.get("/datasets/sums-v1").content.decode()
    assert '<dd data-testid="kind">prompt</dd>' in text
    assert "reference answer" in text
    assert "[&quot;rank&quot;]" in text


@pytest.mark.parametrize("mapping", ["prompt", "[]", '{"colour": "a"}'])
def test_a_mapping_that_is_refused_is_said_beside_its_field(browser, mapping):
    response = send(browser, jsonl(trace_body()), mapping=mapping)
    assert response.status_code == 400
    assert response.context["form"].errors["mapping"]


def test_a_script_is_told_where_the_dataset_is(browser):
    def send(content, version):
        file = SimpleUploadedFile("sums.jsonl", content)
        data = {"name": "sums", "version": version, "file": file}
        return browser.post("/datasets/new", data, headers={"X-Requested-With": "XMLHttpRequest"})

    response = send(jsonl(trace_body()), "v1")
    assert (response.status_code, response.json()) == (201, {"location": "/datasets/sums-v1"})
    assert "Stored sums-v1: 1 examples." in browser.get("/datasets/sums-v1").content.decode()

    response = send(b"{\n", "v2")
    assert response.status_code == 200  # an error code would be one on the browser's console
    assert 'data-testid="bad-line"' in response.content.decode()
    assert 'id="main"' in response.content.decode()  # the page, as without a script


def test_bad_lines_are_listed_and_the_fields_stay(browser):
    content = jsonl(trace_body(0)) + b"{\n" + jsonl({"prompt": "<script>", "final_answer": ""})
    response = send(browser, content, description="keep me")
    assert response.status_code == 400
    text = response.content.decode()
    assert text.count('data-testid="bad-line"') == 2
    assert "final_answer: Must not be blank" in text
    assert "keep me" in text
    assert nothing_is_stored()


def test_only_the_first_hundred_bad_lines_are_listed(browser):
    text = send(browser, b"{\n" * 101).content.decode()
    assert text.count('data-testid="bad-line"') == 100
    assert "The first 100 are listed." in text
    assert "101 lines are not valid" in text


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"name": "../x"}, "name", "May hold letters"),
        ({"name": ""}, "name", "This field is required."),
        ({"version": "v" * 56}, "version", "at most 55 characters"),
        ({"held_out": "many"}, "held_out", "Must be a number of examples"),
        ({"held_out": "9"}, "held_out", "leave none to train on"),
        ({"format": "parquet"}, "format", "Select a valid choice"),
        ({"format": "gsm8k"}, "file", "1 line is not valid"),
    ],
)
def test_errors_stand_beside_their_fields(browser, fields, field, reason):
    response = send(browser, jsonl(trace_body()), **fields)
    assert response.status_code == 400
    assert reason in "".join(response.context["form"].errors[field])
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "The file holds no example."), (b"PK\x03\x04", "The file is zip.")],
)
def test_files_that_are_refused(browser, content, reason):
    response = send(browser, content)
    assert (response.status_code, reason in "".join(response.context["form"].errors["file"])) == (
        400,
        True,
    )


def test_a_part_named_twice_is_said_above_the_form(browser):
    response = send(browser, jsonl(trace_body(0), trace_body(0, split="held_out")))
    assert response.status_code == 400
    assert "stand in both parts" in response.content.decode()


def test_a_key_that_is_taken(browser):
    make_dataset(0)
    response = send(browser, jsonl(trace_body()))
    assert (
        response.status_code,
        "exists already" in "".join(response.context["form"].errors["version"]),
    ) == (400, True)


def test_no_file(browser):
    response = browser.post("/datasets/new", {"name": "a", "version": "b"})
    assert (response.status_code, list(response.context["form"].errors)) == (400, ["file"])


def test_sizes_at_both_sides_of_the_limit(browser, settings):
    settings.TUNIXRT_UPLOAD_MAX_BYTES = 2_000
    assert send(browser, jsonl(trace_body())).status_code == 302
    response = send(browser, b" " * 2_000, version="v2")
    assert response.status_code == 413
    assert "limit of 2,000 bytes" in response.content.decode()


def test_an_upload_that_was_cut_off_stores_nothing(user):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    browser.get("/datasets/new")
    token = browser.cookies["csrftoken"].value
    head = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"csrfmiddlewaretoken": token, "name": "a", "version": "1"}.items()
    )
    file = '--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    received = head.encode() + file.encode() + jsonl(trace_body())
    body = cut_off_body(
        received, announced=len(received) + 500, content_type="multipart/form-data; boundary=x"
    )
    response = browser.generic("POST", "/datasets/new", **body)
    assert response.status_code in (400, 403)
    assert nothing_is_stored()


def test_the_csrf_token_is_needed(user):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    assert send(browser, jsonl(trace_body())).status_code == 403
    browser.get("/datasets/new")
    assert (
        send(
            browser, jsonl(trace_body()), csrfmiddlewaretoken=browser.cookies["csrftoken"].value
        ).status_code
        == 302
    )


def test_a_disk_without_room(browser, monkeypatch):
    monkeypatch.setattr(staging, "_SCHEMA", f"{staging._SCHEMA} PRAGMA max_page_count = 4;")
    response = send(browser, jsonl(trace_body(prompt="long " * 5_000)))
    assert (response.status_code, "no room" in response.content.decode()) == (507, True)
    assert nothing_is_stored()


def test_a_folder_that_cannot_be_used_is_an_error_of_the_server(browser, output_root):
    output_root.mkdir()
    (output_root / ".imports").write_text("not a folder")
    with pytest.raises(OSError, match="Not a directory"):
        send(browser, jsonl(trace_body()))
    assert nothing_is_stored()


def test_other_methods(browser):
    assert browser.put("/datasets/new").status_code == 405


def test_a_share_with_a_comma_is_named(local_client: Client) -> None:
    file = SimpleUploadedFile("sums.jsonl", b'{"prompt": "1+1", "completion": "2"}\n')
    response = local_client.post(
        "/datasets/new", {"file": file, "name": "sums", "version": "v1", "held_out": "0,1"}
    )
    assert (
        response.context["form"].errors["held_out"][0].startswith("'0,1' has a comma: write 0.1, ")
    )
    assert Dataset.objects.count() == 0
