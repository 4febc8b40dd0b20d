"""The WSGI application of the yardstick, on the database that the environment names."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application

settings.MIDDLEWARE, settings.ROOT_URLCONF = [], "benchmarks.web.yardstick"
application = get_wsgi_application()
