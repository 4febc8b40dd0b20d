import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from tunixrt.checks import bind_host


class Command(BaseCommand):
    help = "Serve pages and API on TUNIXRT_BIND."

    def handle(self, *args: Any, **options: Any) -> None:
        port = settings.BIND.rpartition(":")[2]
        if settings.LOCAL_MODE:
            self.stderr.write(
                f"Local mode: listening on {settings.BIND} only; nobody needs a login, all act as the user `local`."
            )
        self.stderr.write(f"tunixrt is at http://{settings.BIND}/")
        arguments = [
            *(sys.executable, "-m", "granian"),
            *("--interface", "wsgi"),
            *("--host", bind_host(), "--port", port),
            *("--workers", "1", "--blocking-threads", str(settings.WEB_THREADS)),
            *("--backpressure", str(max(64, settings.WEB_THREADS * 16))),
            "--no-ws",
            *("--log-level", "warning"),
            "tunixrt.wsgi:application",
        ]
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, arguments)
