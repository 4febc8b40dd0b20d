"""The API goes past what only pages need, and keeps what is documented for every answer."""

from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory
from rest_framework.test import APIClient

from tunixrt import pages_only

pytestmark = pytest.mark.django_db
PASSED = (
    pages_only.MessageMiddleware,
    pages_only.HtmxMiddleware,
    pages_only.WhiteNoiseMiddleware,
)


@pytest.mark.parametrize("middleware", PASSED)
def test_requests_of_the_api_go_past(middleware: Any, rf: RequestFactory):
    """A request without what the middleware needs, or leaves, comes through as it is."""
    answer, request = HttpResponse(), rf.get("/api/tunix/runs")
    before = dict(vars(request))

    assert middleware(lambda given: answer)(request) is answer

    assert vars(request) == before


@pytest.mark.parametrize("path", ["/", "/apis", "/runs/api/", "/api"])
def test_other_requests_do_not(path: str, rf: RequestFactory):
    request = rf.get(path)
    pages_only.HtmxMiddleware(lambda given: HttpResponse())(request)
    assert hasattr(request, "htmx")


def test_pages_have_htmx(local_client: Client):
    part = local_client.get("/", headers={"HX-Request": "true"})
    assert part.content.startswith(b'<div id="runs"')


def test_every_answer_of_the_api_is_counted_and_has_the_headers(api: APIClient, client: Client):
    name = 'django_http_responses_total_by_status_total{status="200"}'
    before = _sample(client, name)

    answer = api.get("/api/tunix/runs")

    assert _sample(client, name) >= before + 1
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "Content-Security-Policy" in answer.headers
    text = client.get("/metrics").content.decode()
    assert 'latency_seconds_by_view_method_count{method="GET",view="runs_api:list"}' in text


def _sample(client: Client, name: str) -> float:
    lines = client.get("/metrics").content.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
