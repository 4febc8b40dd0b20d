"""The web server's entry point: pages and API."""

import os
import signal
import socket
import threading

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django = get_wsgi_application()

# After get_wsgi_application(), which sets Django up.
from django.conf import settings  # noqa: E402

from runs.reading.stream import hub  # noqa: E402
from tunixrt.gate import DOWNLOADS, Gate  # noqa: E402

application = Gate(django, settings.WEB_THREADS, sending=settings.MAX_STREAMS + DOWNLOADS)


def end_streams_on_shutdown() -> None:
    """The server stops when every answer has been sent, and a live stream would never end. It puts its signal handlers in place
    after this module is loaded, so ours cannot be one of them: the wake-up descriptor is written to whatever handler there is."""
    if threading.current_thread() is not threading.main_thread():
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while number := receiver.recv(1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                hub.stop()

    threading.Thread(target=wait, name="shutdown", daemon=True).start()
    _open.extend((receiver, sender))


_open: list[socket.socket] = []
end_streams_on_shutdown()
