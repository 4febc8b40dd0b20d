"""Django's own WSGI application, for `runserver` and servers that bound and time bodies themselves.
`manage.py web` serves tunixrt/rsgi.py."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
application = get_wsgi_application()
