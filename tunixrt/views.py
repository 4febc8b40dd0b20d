from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while this process answers and its database does too; for load balancers and compose."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Everything Prometheus scrapes: ours from the database, Django's of this process."""
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)
