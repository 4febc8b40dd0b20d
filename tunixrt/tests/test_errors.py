"""Errors: JSON with `detail` below /api/, a page elsewhere, and never a stack trace."""

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory
from rest_framework.test import APIClient

import tunixrt.urls  # noqa: F401 - every module that has a refusal of its own is loaded
from tunixrt.api.errors import exception_handler
from tunixrt.errors import RefusalMiddleware, answer_refusal
from tunixrt.refusals import (
    DETAIL_MAX,
    ENTRIES_MAX,
    RETRY_AFTER,
    DatabaseAway,
    Refusal,
    TooLarge,
    TooMany,
)
from tunixrt.tests.clients import NEARBY

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tunixrt.tests.urls")]


@pytest.fixture
def browser() -> Client:
    """A browser on this machine whose server errors become answers, as on a real server."""
    return Client(**NEARBY, raise_request_exception=False)


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("403", 403, {"detail": "Not yours."}),
        ("404", 404, {"detail": "No such thing."}),
        ("conflict", 409, {"detail": "Somebody was first."}),
        ("501", 501, {"detail": "No runtime."}),
        (
            "list",
            400,
            {"detail": "Send one or the other.", "non_field_errors": ["Send one or the other."]},
        ),
        (
            "query",
            422,
            {
                "detail": "limit: Too large. Too many.; offset: Negative.",
                "limit": ["Too large.", "Too many."],
                "offset": ["Negative."],
            },
        ),
        (
            "fields",
            400,
            {
                "detail": "name: Too short. Too plain.; items[1].text: Missing.",
                "name": ["Too short.", "Too plain."],
                "items": [{}, {"text": ["Missing."]}],
            },
        ),
        ("detail", 400, {"detail": "detail: A field of that name."}),
        ("operational", 503, {"detail": DatabaseAway().detail}),
        ("interface", 503, {"detail": DatabaseAway().detail}),
    ],
)
def test_an_error_of_the_api_is_json_with_detail(
    api: APIClient, name: str, status: int, body: dict
):
    response = api.get(f"/api/raise/{name}")

    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    assert response.json() == body


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_a_wrong_method_is_405(api: APIClient, method: str):
    response = getattr(api, method)("/api/echo")

    assert response.status_code == 405
    assert response.json() == {"detail": f'Method "{method.upper()}" not allowed.'}


def test_no_route_below_the_api_is_json_too(api: APIClient):
    response = api.get("/api/no-such-route")

    assert response.status_code == 404
    assert response["Content-Type"] == "application/json"
    assert "detail" in response.json()


def test_an_unexpected_error_of_the_api_is_500_without_its_inside():
    response = APIClient(**NEARBY, raise_request_exception=False).get("/api/raise/500")

    assert response.status_code == 500
    assert response.json() == {"detail": "The server met an unexpected error; its log says which."}


@pytest.mark.parametrize(
    ("name", "status", "title"),
    [
        ("400", 400, "Bad request"),
        ("403", 403, "Not allowed"),
        ("404", 404, "Not found"),
        ("500", 500, "Something went wrong"),
        ("operational", 503, "The database is away"),
        ("interface", 503, "The database is away"),
    ],
)
def test_an_error_of_a_page_is_a_page(browser: Client, name: str, status: int, title: str):
    response = browser.get(f"/page/{name}")

    assert response.status_code == status
    assert response["Content-Type"].startswith("text/html")
    text = response.content.decode()
    assert title in text
    assert "secret" not in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("name", "status"),
    [("400", 400), ("403", 403), ("404", 404), ("500", 500), ("operational", 503)],
)
def test_below_the_api_every_error_is_json_whoever_raises_it(
    browser: Client, name: str, status: int
):
    response = browser.get(f"/api/page/{name}")

    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    assert response.json().keys() == {"detail"}
    assert "secret" not in response.json()["detail"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"name": "x" * (5 * 1024 * 1024 + 1)},
            "fields of the form hold more than 5,242,880 bytes",
        ),
        ({f"f{number}": "" for number in range(1001)}, "more than 1,000 fields"),
    ],
)
def test_a_form_over_a_limit_is_400_and_names_it(api: APIClient, data: dict[str, str], words: str):
    response = api.post("/api/datasets/ingest", data, format="multipart")

    assert response.status_code == 400
    assert words in response.json()["detail"]


def test_an_away_database_asks_to_come_back(browser: Client, api: APIClient):
    assert browser.get("/page/operational")["Retry-After"] == "5"
    assert api.get("/api/raise/operational")["Retry-After"] == "5"


def test_a_form_without_its_token_is_explained():
    response = Client(enforce_csrf_checks=True).post("/login", {"username": "a", "password": "b"})

    assert response.status_code == 403
    assert "Please send the form again" in response.content.decode()


def test_an_error_repeats_a_bounded_part_of_a_request(api: APIClient):
    many = {f"{number}-{'k' * 2_000}": 1 for number in range(500)}

    response = api.post(
        "/api/datasets",
        many | {"name": "n" * 200_000, "version": "v1", "trace_ids": []},
        format="json",
    )

    assert response.status_code == 400
    assert len(response.content) < 300_000
    body = response.json()
    assert body["non_field_errors"] == ["480 more unknown fields."]
    assert len(body["detail"]) <= 10_000


def refusal_classes(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    return [kind, *(further for each in kind.__subclasses__() for further in refusal_classes(each))]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in refusal_classes() if kind.status in RETRY_AFTER],
    ids=lambda kind: kind.__name__,
)
def test_every_refusal_that_asks_to_come_back_says_when(kind: type[Refusal]):
    refusal = kind.__new__(kind)
    Refusal.__init__(refusal, "Not now.")

    of_the_api = exception_handler(refusal, {"request": RequestFactory().get("/api/x")})
    of_a_page = answer_refusal(RequestFactory().get("/x"), refusal)

    for answer in (of_the_api, of_a_page):
        assert answer is not None
        assert (answer.status_code, int(answer["Retry-After"]) > 0) == (kind.status, True)


def test_a_known_time_goes_before_the_usual_one():
    assert TooMany("Not now.", retry_after=7).headers == {"Retry-After": "7"}
    assert TooMany("Not now.").headers == {"Retry-After": str(RETRY_AFTER[429])}
    assert TooLarge(5).headers == {"Retry-After": str(RETRY_AFTER[413])}


@pytest.mark.parametrize("status", RETRY_AFTER)
def test_whoever_answers_so_says_when_to_come_back(status: int):
    """Pages that show a refusal beside their form, and libraries."""
    answer = RefusalMiddleware(lambda request: HttpResponse(status=status))(
        RequestFactory().get("/")
    )

    assert answer["Retry-After"] == str(RETRY_AFTER[status])


def test_what_a_refusal_repeats_is_bounded_where_it_is_made():
    refusal = Refusal(
        messages={f"{number}-{'k' * 2_000}": ["m" * 5_000] * 500 for number in range(200)}
    )

    assert len(refusal.detail) <= DETAIL_MAX
    assert (
        sum(len(field) + sum(map(len, said)) for field, said in refusal.messages.items())
        < 2_200_000
    )
    assert len(refusal.messages) == ENTRIES_MAX + 1
