"""The yardstick of the list: the least that Django can answer a page of runs with. One plain view,
``.values()`` and orjson; no middleware, no permissions, no filters, no metrics. Served by
yardstick_wsgi.py.
"""

import orjson
from django.http import HttpRequest, HttpResponse
from django.urls import path

from runs.models import Run

FIELDS = (
    "run_id",
    "dataset_key",
    "model_id",
    "mode",
    "status",
    "started_at",
    "duration_seconds",
    "created_at",
)


def newest(request: HttpRequest) -> HttpResponse:
    rows = list(Run.objects.visible().newest_first().values(*FIELDS)[:21])
    body = orjson.dumps({"data": rows})
    return HttpResponse(
        body, content_type="application/json", headers={"Content-Length": str(len(body))}
    )


urlpatterns = [path("", newest)]
