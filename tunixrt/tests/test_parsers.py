"""Request bodies: bounded, strict JSON. Nothing that PostgreSQL cannot store gets in."""

import io

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError
from rest_framework.test import APIClient

from tunixrt.api.parsers import parse_json, read_bounded
from tunixrt.refusals import TooLarge
from tunixrt.tests.cpu import run_within_cpu_seconds

pytestmark = pytest.mark.urls("tunixrt.tests.urls")
JSON = "application/json"


def post(api: APIClient, body: bytes, **extra: str):
    return api.generic("POST", "/api/echo", body, content_type=JSON, **extra)


def test_json_comes_through_as_it_was_sent(api: APIClient):
    sent = {"text": "schön 漢字 🦜", "number": 1.5, "list": [True, None]}

    assert post(api, orjson.dumps(sent)).json()["data"] == sent


def test_a_body_of_the_limit_is_read_and_one_byte_more_is_413(api: APIClient, settings):
    settings.TUNIXRT_API_MAX_BODY_BYTES = 100
    fits = b'"' + b"x" * 98 + b'"'

    assert post(api, fits).json()["data"] == "x" * 98
    refused = post(api, fits + b" ")
    assert refused.status_code == 413
    assert refused.json() == {"detail": "The request body is larger than the limit of 100 bytes."}


def test_ten_megabytes_are_413_under_the_default_limit(api: APIClient):
    assert post(api, b'"' + b"x" * 10_000_000 + b'"').status_code == 413


def test_a_body_longer_than_declared_is_not_believed():
    with pytest.raises(TooLarge):
        read_bounded(io.BytesIO(b"x" * 101), 100, declared="5")


def test_a_body_declared_too_large_is_not_even_read():
    stream = io.BytesIO(b"x" * 101)

    with pytest.raises(TooLarge):
        read_bounded(stream, 100, declared="101")
    assert stream.tell() == 0


@pytest.mark.parametrize("declared", [None, "", "many", "-1"])
def test_an_unreadable_length_is_no_reason_to_refuse(declared: str | None):
    assert read_bounded(io.BytesIO(b"x"), 100, declared) == b"x"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'"\\ud800"',
        b'"\\udfff\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',  # a surrogate in UTF-8
        b'"a\x00b"',
        b"[" * 100_000,
    ],
)
def test_what_is_not_strict_json_is_400_with_the_reason(api: APIClient, body: bytes):
    response = post(api, body)

    assert response.status_code == 400
    assert response.json()["detail"].startswith("Malformed JSON: ")


def test_no_body_is_an_empty_request(api: APIClient):
    assert post(api, b"").json()["data"] == {}


@pytest.mark.parametrize(
    "body", [b'"\\u0000"', b'{"a": ["b", {"c": "d\\u0000"}]}', b'{"a\\u0000": 1}']
)
def test_nul_characters_are_400_with_the_reason(api: APIClient, body: bytes):
    response = post(api, body)

    assert response.status_code == 400
    assert response.json() == {"detail": "NUL characters (\\u0000) cannot be stored; remove them."}


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "c": 2, "\\u0061": 3}}]'])
def test_a_key_that_is_given_twice_is_400_and_named(api: APIClient, body: bytes):
    response = post(api, body)

    assert response.status_code == 400
    assert response.json() == {"detail": "The key 'a' is given twice."}


def test_the_look_for_such_keys_converts_no_number():
    """Converting an integer of 200,000 digits takes a second, and a body may hold one for each
    key."""
    run_within_cpu_seconds(
        10,
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'tunixrt.settings'\n"
        "sys.set_int_max_str_digits(0)\n"
        "from tunixrt.api.parsers import _require_unique_keys\n"
        "for _ in range(100): _require_unique_keys(b'[' + b'1' * 200_000 + b']')\n",
    )


def test_the_text_of_an_escape_is_no_nul():
    assert parse_json(b'"\\\\u0000"') == "\\u0000"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_anything_but_json_is_415(api: APIClient, content_type: str):
    response = api.generic("POST", "/api/echo", b"{}", content_type=content_type)

    assert response.status_code == 415
    assert "Unsupported media type" in response.json()["detail"]


@given(st.binary(max_size=200))
def test_any_bytes_give_json_or_a_parse_error(body: bytes):
    try:
        data = parse_json(body)
    except ParseError:
        return
    assert "\x00" not in str(data)
    assert parse_json(orjson.dumps(data)) == data
