import errno
import math
import os
import resource
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tunixrt import metrics, parent
from tunixrt.checks import bind_host
from tunixrt.listeners import who_listens

# At once in all workers, idle ones of browsers and slow ones included; a few kilobytes each.
CONNECTIONS = 4096
MAX_KILL_TIMEOUT = 1800  # seconds; granian refuses more


class Command(BaseCommand):
    help = "Serve pages and API on TUNIXRT_BIND."

    def add_arguments(self, parser: CommandParser) -> None:
        parent.add_end_with(parser)

    def handle(self, *args: Any, end_with: int | None = None, **options: Any) -> None:
        if end_with is not None:
            parent.end_with(end_with)
        port = settings.TUNIXRT_BIND.rpartition(":")[2]
        if problem := listening_problem(bind_host(), port):
            raise CommandError(problem)
        if settings.TUNIXRT_LOCAL_MODE:
            self.stderr.write(
                f"Local mode: listening on {settings.TUNIXRT_BIND} only; the account that started"
                " this server needs no login and acts as the user `local`."
            )
        self.stderr.write(f"tunixrt is at http://{settings.TUNIXRT_BIND}/")
        arguments = [
            *(sys.executable, "-m", "granian"),
            *("--interface", "rsgi", "--http", "1"),
            *("--host", bind_host(), "--port", port),
            *("--workers", str(settings.TUNIXRT_WEB_WORKERS)),
            *("--backpressure", str(max(1, CONNECTIONS // settings.TUNIXRT_WEB_WORKERS))),
            "--no-ws",
            # A reader who takes nothing must not hold a shutdown up; a run in the request may
            # finish.
            *(
                "--workers-kill-timeout",
                str(min(MAX_KILL_TIMEOUT, math.ceil(settings.TUNIX_SYNC_TIMEOUT_SECONDS) + 5)),
            ),
            *("--log-level", "error"),
            "tunixrt.rsgi:application",
        ]
        if settings.TUNIXRT_WEB_SHARED is not None:
            os.environ[metrics.FOLDER] = str(make_shared_folder(settings.TUNIXRT_WEB_SHARED))
        allow_open_files(2 * CONNECTIONS)
        # glibc gives threads heaps of their own, which stay mostly empty
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        # and would otherwise take large bodies from the heap after the first one, where small
        # objects keep their pages from being given back (mallopt(3), M_MMAP_THRESHOLD)
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(128 * 1024))
        # granian's own allocator gives back at once what it frees. After a delay it would do so
        # only while it allocates, since its background threads do not outlive the fork into a
        # worker: an idle server would keep what an attack took.
        os.environ.setdefault("_RJEM_MALLOC_CONF", "narenas:2,dirty_decay_ms:0,muzzy_decay_ms:0")
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, arguments)


def listening_problem(host: str, port: str) -> str | None:
    """Return why the address cannot be listened on. The server itself would end with a page of its
    inner workings, or, where another server of its kind listens, share the port with it in
    silence."""
    used = ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        try:
            with socket.socket(family, kind, protocol) as probe:
                # what a server before us has left is no obstacle
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE and (
                holder := who_listens(str(address[0]), int(address[1]))
            ):
                used = f" It is used by {holder}."
            raise
    except OSError as error:
        way_out = "Stop what listens there, or set TUNIXRT_BIND to another address."
        return f"Cannot listen on {settings.TUNIXRT_BIND}: {error.strerror}.{used} {way_out}"
    return None


def make_shared_folder(folder: Path) -> Path:
    """Make the folder that the workers share, without what an earlier server has left in it, and
    return the one in it for metrics. The port is ours, so no other server uses the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "metrics").mkdir(mode=0o700, parents=True)
    return folder / "metrics"


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files to ``count``, as far as the system allows: the usual
    1,024 are fewer than ``CONNECTIONS``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
