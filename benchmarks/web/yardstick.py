"""The yardstick of the list: the least that Django can answer a page of runs with. One plain view, ``.values()`` and orjson; no
middleware, no permissions, no filters, no metrics. A WSGI application on the database that the environment names.
"""

import orjson
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.MIDDLEWARE, settings.ROOT_URLCONF = [], __name__
application = get_wsgi_application()

from runs.models import Run  # noqa: E402 - after get_wsgi_application(), which sets Django up

FIELDS = ("run_id", "dataset_key", "model_id", "mode", "status", "started_at", "duration_seconds", "created_at")


def newest(request: HttpRequest) -> HttpResponse:
    rows = list(Run.objects.visible().newest_first().values(*FIELDS)[:21])
    body = orjson.dumps({"data": rows})
    return HttpResponse(body, content_type="application/json", headers={"Content-Length": str(len(body))})


urlpatterns = [path("", newest)]
