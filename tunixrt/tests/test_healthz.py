import pytest
from django.test import Client


@pytest.mark.django_db
def test_answers_ok_to_anybody(remote_client: Client):
    response = remote_client.get("/healthz")

    assert (response.status_code, response.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_is_for_reading_only(remote_client: Client):
    assert remote_client.post("/healthz").status_code == 405
