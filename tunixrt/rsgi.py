"""The web server's entry point: pages and API, behind the front."""

import asyncio
import os
import signal
import socket
import sys
import threading

from django.core.wsgi import get_wsgi_application

from tunixrt.memory import keep_what_is_loaded, leave_out_unused_libraries

leave_out_unused_libraries()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tunixrt.settings")
django = get_wsgi_application()

# After get_wsgi_application(), which sets Django up.
from django.conf import settings  # noqa: E402

from runs.live.stream import hub  # noqa: E402
from runs.services.telemetry import keep_flushing  # noqa: E402
from tunixrt.client_address import address_in, client_network  # noqa: E402
from tunixrt.front import BodyRule, Front, Limits  # noqa: E402
from tunixrt.peers import uid_of_peer  # noqa: E402

# How long a thread that computes keeps the interpreter from another that wants it; Python's own is
# ten times as much. A short request asks for it some twenty times (event loop, thread, each query),
# and beside three long ones it waited for all of them each time.
SWITCH_SECONDS = 0.0005
DOWNLOADS = 32  # and exports, at once
BODIES = 2_000  # being received at once, in all workers
UPLOADS = frozenset({"/api/datasets/ingest", "/datasets/new"})
# one in the request may take TUNIX_SYNC_TIMEOUT_SECONDS
TRAININGS = frozenset({"/api/tunix/run", "/runs/new"})


class Application(Front):
    """The front of this process. granian calls ``__rsgi_init__`` in the main thread before it
    serves."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        keep_what_is_loaded()
        end_streams_on_shutdown()
        if settings.TUNIXRT_WEB_WORKERS > 1:
            threading.Thread(target=keep_flushing, name="measurements", daemon=True).start()


application = Application(
    django,
    places=settings.TUNIXRT_WEB_THREADS,
    streams=settings.TUNIXRT_MAX_STREAMS
    + 32,  # the hub counts them first, and lets the next one in a moment before one has gone
    downloads=DOWNLOADS,
    downloads_each=DOWNLOADS if settings.TUNIXRT_LOCAL_MODE else DOWNLOADS // 4,
    limits=Limits(
        body=BodyRule(settings.TUNIXRT_API_MAX_BODY_BYTES),
        upload=BodyRule(settings.TUNIXRT_UPLOAD_MAX_BYTES, max_seconds=3600.0),
        upload_paths=UPLOADS,
        slow_paths=UPLOADS | TRAININGS,
        bodies=max(1, BODIES // settings.TUNIXRT_WEB_WORKERS),
    ),
    address_of=lambda environ: client_network(address_in(environ)),
    uid_of_peer=uid_of_peer if settings.TUNIXRT_LOCAL_MODE else None,
)


def end_streams_on_shutdown() -> None:
    """End the live streams when the server is told to stop: it waits for every answer, and they
    would never end.

    The event loop has the handlers of the signals and the wake-up descriptor that tells it of them.
    Ours is put in its place, and hands on what it reads.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    loops = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while number := receiver.recv(1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                hub.stop()
            if loops >= 0:
                os.write(loops, number)

    threading.Thread(target=wait, name="shutdown", daemon=True).start()
    _open.extend((receiver, sender))


_open: list[socket.socket] = []
