"""The front: what receives requests and sends answers, so that Django's threads never wait for a
client.

An RSGI application (granian) around Django's WSGI handler. It runs on one event loop and has three
duties:

* **Bodies** are received before Django sees the request: bounded by route before anything is read,
  with a minimum rate and a total time, and spooled to disk beyond a few kilobytes. The large limit
  of uploads holds only after Django has let the uploader in.
* **Places**: an answer is made in one of a few threads, each with its own database connection
  (tunixrt/places.py says which request comes next).
* **Streams**: an answer sent piece by piece (live streams, downloads, exports) leaves its place
  before the first piece. A client that takes nothing for ``SEND_SECONDS`` is given up.

A client is an account where Django has found one behind a token or a session; until then, and
without either, an address. So no client gets more time by more connections, or by tokens made up.

Of several worker processes each has a front. Places and turns are those of one worker; streams,
downloads, uploads and large bodies are counted for all of them together (tunixrt/shares.py).

docs/adr/0007-front.md has the reasons and the figures.
"""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from django.db import connections
from django.http.response import HttpResponseBase

from tunixrt.memory import GiveBack
from tunixrt.peers import PEER_UID, is_loopback
from tunixrt.places import Gone, Places
from tunixrt.refusals import REFUSED, BadRequest, Busy, NoRoom, Refusal, TooLarge, TooMany, TooSlow
from tunixrt.shares import AllTaken, OwnTaken, Shares
from tunixrt.whose import ACCOUNT

logger = logging.getLogger("tunixrt.front")

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

# Files sent piece by piece up to this size are sent at once: static files, mostly.
WHOLE_MAX_BYTES = 1 << 18
SEND_SECONDS = 60.0
# Downloads whose next piece this process makes at once; the others wait for it, or for their
# clients.
COMPOSING = 2
KNOWN_MAX = 4096  # tokens and sessions whose account is remembered


class Scope(Protocol):
    """What RSGI tells about a request. ``client`` and ``server`` are ``host:port``; ``path`` is
    decoded."""

    proto: str
    http_version: str
    client: str
    server: str
    scheme: str
    method: str
    path: str
    query_string: str
    headers: Any


class Transport(Protocol):
    def send_bytes(self, data: bytes) -> Awaitable[None]: ...


class Exchange(Protocol):
    """One request as RSGI hands it over; iterating it receives the body."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def client_disconnect(self) -> Awaitable[None]: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...
    def response_stream(self, status: int, headers: Headers) -> Transport: ...


@dataclass(frozen=True)
class BodyRule:
    """How a body may come. ``max_bytes`` in all, within ``max_seconds``, and after
    ``grace_seconds`` at no less than ``min_rate`` bytes a second on average."""

    max_bytes: int
    max_seconds: float = 60.0
    grace_seconds: float = 10.0
    min_rate: float = 1024.0

    def seconds_allowed(self, received: int) -> float:
        """Return the seconds from the start within which the next bytes must come."""
        return min(self.max_seconds, self.grace_seconds + received / self.min_rate)


@dataclass(frozen=True)
class Limits:
    """Of all requests together; those of uploads in all workers."""

    body: BodyRule
    upload: BodyRule
    upload_paths: frozenset[str]
    slow_paths: frozenset[str]  # a POST to one of these may take long
    bodies: int = 2_000  # being received at once, in this process
    uploads: int = 8
    uploads_each: int = 3  # of one client
    in_memory: int = 16 << 10  # bytes of one body; the rest is on disk
    # bytes of a body that takes long to read, and many times its length of memory
    large: int = 256 << 10
    spare_disk: int = 256 << 20  # bytes that uploads leave free


class Front:
    """The RSGI application. ``places`` answers are made at once; ``streams`` and ``downloads`` are
    sent piece by piece at once, one client's share of the downloads is ``downloads_each``.
    ``address_of`` tells clients without an account from each other. ``uid_of_peer`` is asked for
    connections from loopback."""

    def __init__(
        self,
        django: Callable[..., HttpResponseBase],
        *,
        places: int,
        streams: int,
        downloads: int,
        downloads_each: int,
        limits: Limits,
        address_of: Callable[[Environ], str] = lambda environ: str(environ["REMOTE_ADDR"]),
        uid_of_peer: Callable[[str, str], int | None] | None = None,
    ):
        self._django = django
        self._uid_of_peer = uid_of_peer
        self._address_of = address_of
        self._limits = limits
        self._places = Places(places)
        self._streams = Limit("live streams", streams, streams)
        self._downloads = Limit("downloads", downloads, downloads_each)
        self._uploads = Limit("uploads", limits.uploads, limits.uploads_each)
        self._composing = threading.Semaphore(COMPOSING)
        self._give_back = GiveBack()
        self._bodies = 0
        # by the hash of a token or session, used last at the end
        self._accounts: dict[bytes, str] = {}

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        environ = make_environ(scope)
        if self._uid_of_peer is not None and is_loopback(environ["REMOTE_ADDR"]):
            # at each request: ports are used again
            environ[PEER_UID] = self._uid_of_peer(scope.client, scope.server)
        slow = scope.method == "POST" and scope.path in self._limits.slow_paths
        with contextlib.ExitStack() as body:
            try:
                if scope.method in ("GET", "HEAD", "OPTIONS") and not _announces_body(environ):
                    environ["wsgi.input"] = _EMPTY
                else:
                    await self._receive(scope, exchange, environ, body)
                heavy = self._is_heavy(scope, environ)
                answer = await self._ask_django(environ, slow=slow, heavy=heavy, exchange=exchange)
            except Gone:
                return
        if answer.pieces is None:
            exchange.response_bytes(answer.status, answer.headers, answer.body)
            return
        loop = asyncio.get_running_loop()
        transport = exchange.response_stream(answer.status, answer.headers)
        ended = loop.create_future()
        threading.Thread(
            target=self._send, args=(answer, transport, loop, ended), name="sending", daemon=True
        ).start()
        gone = asyncio.ensure_future(_disconnected(exchange))
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        # a live stream with nothing to send would notice at its second heartbeat
        if not ended.done():
            await loop.run_in_executor(None, _abandon, answer)
        gone.cancel()
        await ended
        self._give_back.soon()

    # --- clients

    def _client_address(self, environ: Environ) -> str:
        """Return whose request this is, as far as is known."""
        if (account := environ.get(ACCOUNT)) is not None:
            return f"account {account}"
        if (key := _credential(environ)) is not None and (
            known := self._accounts.pop(key, None)
        ) is not None:
            self._accounts[key] = known
            return known
        return f"address {self._address_of(environ)}"

    def _remember(self, environ: Environ) -> None:
        """Remember the account that Django has found behind a token or a session."""
        if ACCOUNT in environ and (key := _credential(environ)) is not None:
            self._accounts[key] = self._client_address(environ)
            if len(self._accounts) > KNOWN_MAX:
                del self._accounts[next(iter(self._accounts))]

    async def _ask_django(
        self, environ: Environ, *, slow: bool, exchange: Exchange, heavy: bool = False
    ) -> "Reply":
        """Ask Django for the answer. Raise Gone if the client disconnects before its turn."""
        client = self._client_address(environ)
        who = client if client.startswith("account") else (_credential(environ) or client)
        visit = self._places.visit(
            lambda: self._answer(environ), client=client, who=who, slow=slow, heavy=heavy
        )
        if not visit.admitted:
            gone = asyncio.ensure_future(_disconnected(exchange))
            gone.add_done_callback(lambda _: self._places.give_up(visit))
            try:
                answer: Reply = await visit.result
            finally:
                gone.cancel()
        else:
            answer = await visit.result
        self._remember(environ)
        return answer

    # --- bodies

    async def _receive(
        self, scope: Scope, exchange: Exchange, environ: Environ, resources: contextlib.ExitStack
    ) -> None:
        """Receive the body into ``wsgi.input``, or refuse it: then Django answers with the refusal
        and reads nothing."""
        upload = scope.method == "POST" and scope.path in self._limits.upload_paths
        rule = self._limits.upload if upload else self._limits.body
        try:
            self._check_length(environ, rule)
            if upload and not await self._may_upload(environ, exchange):
                environ.update({"CONTENT_LENGTH": "0", "wsgi.input": _EMPTY})  # the view says why
                return
            resources.enter_context(self._count_body())
            if upload:
                resources.callback(self._uploads.take(self._client_address(environ)))
            spool = tempfile.SpooledTemporaryFile(self._limits.in_memory, prefix="tunixrt-body-")  # noqa: SIM115 - entered below
            file = resources.enter_context(spool)
            received = await self._spool(exchange, file, rule, environ.get("CONTENT_LENGTH"))
        except Refusal as refused:
            # Without the frames that it came through: they hold the body, and with it the
            # connection, until a garbage collection.
            refused.__traceback__ = refused.__context__ = None
            environ.update({"CONTENT_LENGTH": "0", "wsgi.input": _EMPTY, REFUSED: refused})
            return
        file.seek(0)
        if received > self._limits.in_memory:
            self._give_back.soon()
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ.update({"CONTENT_LENGTH": str(received), "wsgi.input": file})

    def _is_heavy(self, scope: Scope, environ: Environ) -> bool:
        """Return whether a request computes for long: it has a large body, or is an upload, which
        may unpack to a thousand times its length."""
        is_upload = scope.method == "POST" and scope.path in self._limits.upload_paths
        return is_upload or int(environ.get("CONTENT_LENGTH") or 0) > self._limits.large

    def _check_length(self, environ: Environ, rule: BodyRule) -> None:
        announced = environ.get("CONTENT_LENGTH") or "0"
        if not (announced.isascii() and announced.isdigit()):
            raise BadRequest("The Content-Length is not a number.")
        if int(announced) > rule.max_bytes:
            raise TooLarge(rule.max_bytes)

    async def _may_upload(self, environ: Environ, exchange: Exchange) -> bool:
        """Ask Django, before the body is received, whether this client may upload anything at
        all."""
        asked = environ | {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/api/uploads/permission",
            "QUERY_STRING": "",
        }
        asked |= {"CONTENT_LENGTH": "0", "wsgi.input": _EMPTY, "HTTP_ACCEPT": "application/json"}
        answer = await self._ask_django(asked, slow=False, exchange=exchange)
        return answer.status == 204

    @contextlib.contextmanager
    def _count_body(self) -> Any:
        if self._bodies >= self._limits.bodies:
            raise Busy("The server is receiving as many requests as it can; try again in a moment.")
        self._bodies += 1
        try:
            yield
        finally:
            self._bodies -= 1

    async def _spool(
        self, exchange: Exchange, file: IO[bytes], rule: BodyRule, announced: str | None
    ) -> int:
        """Write the body to ``file`` and return its length. Raise Refusal."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        received = looked_at = 0
        pieces = exchange.__aiter__()
        while True:
            try:
                async with asyncio.timeout_at(start + rule.seconds_allowed(received)):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise TooSlow from None
            received += len(piece)
            if received > rule.max_bytes:
                raise TooLarge(rule.max_bytes)
            if received - looked_at > self._limits.in_memory:
                looked_at = received
                if shutil.disk_usage(tempfile.gettempdir()).free < self._limits.spare_disk:
                    raise NoRoom("The server has no room for the upload. Nothing was stored.")
            file.write(piece)
        if announced and received < int(announced):
            raise BadRequest(
                f"The upload ended after {received:,} of {int(announced):,} bytes. Nothing was"
                " stored."
            )
        return received

    # --- answers

    def _answer(self, environ: Environ) -> "Reply":
        """Let Django answer, in a place's thread."""
        told: list[Any] = []
        response = self._django(
            environ, lambda status, headers, exc_info=None: told.extend((status, headers))
        )
        status, headers = int(told[0][:3]), told[1]
        if not getattr(response, "streaming", False):
            body = b"".join(response)
            response.close()
            return Reply(status, headers, body)
        if 0 <= _content_length(headers) <= WHOLE_MAX_BYTES:
            body = b"".join(response)
            response.close()
            return Reply(status, headers, body)
        live = any(
            name.lower() == "content-type" and value.startswith("text/event-stream")
            for name, value in headers
        )
        try:
            limit = self._streams if live else self._downloads
            release = limit.take(self._client_address(environ))
            # a live one waits for its run
            pieces: Iterable[bytes] = response if live else _Composed(response, self._composing)
        except Refusal as refused:
            response.close()
            return self._answer(environ | {REFUSED: refused})
        return Reply(status, headers, b"", pieces, response.close, release)

    def _send(
        self,
        answer: "Reply",
        transport: Transport,
        loop: asyncio.AbstractEventLoop,
        ended: asyncio.Future[None],
    ) -> None:
        """Send an answer piece by piece, in a thread of its own. A database connection that its
        pieces needed ends with it."""
        assert answer.pieces is not None
        try:
            for piece in answer.pieces:
                asyncio.run_coroutine_threadsafe(_sent(transport, piece), loop).result(SEND_SECONDS)
        except TimeoutError:
            logger.info("gave up a client that took nothing for %.0f s", SEND_SECONDS)
        except Exception as error:  # noqa: BLE001 - the client has gone, or a piece failed: the headers are out, so it ends here
            logger.debug("an answer ended early: %s", error)
        finally:
            with contextlib.suppress(Exception):
                answer.close()
            connections.close_all()
            answer.release()
            loop.call_soon_threadsafe(ended.set_result, None)


async def _disconnected(exchange: Exchange) -> None:
    await exchange.client_disconnect()


def _abandon(answer: "Reply") -> None:
    """Close what is being sent to a client that has gone: it gives its place back, and its thread
    ends at the next piece."""
    with contextlib.suppress(Exception):  # a generator that is at work cannot be closed from here
        answer.close()
    connections.close_all()


async def _sent(transport: Transport, piece: bytes) -> None:
    await transport.send_bytes(piece)  # what it returns is awaitable, but no coroutine


@dataclass(frozen=True)
class Reply:
    """What Django answered; ``pieces`` where it is to be sent piece by piece."""

    status: int
    headers: Headers
    body: bytes
    pieces: Iterable[bytes] | None = None
    close: Callable[[], None] = lambda: None
    release: Callable[[], None] = lambda: None  # what is counted of it


class _Composed:
    """Pieces that are made while ``composing`` is held, and sent while it is not: making them takes
    a processor."""

    def __init__(self, pieces: Iterable[bytes], composing: threading.Semaphore):
        self._pieces = iter(pieces)
        self._composing = composing

    def __iter__(self) -> "_Composed":
        return self

    def __next__(self) -> bytes:
        with self._composing:
            return next(self._pieces)


class Limit:
    """What may be under way: ``total`` at once, ``each`` of one client."""

    def __init__(self, what: str, total: int, each: int):
        self._what = what
        self._total = total
        self._each = each
        self._shares = Shares(what.replace(" ", "-"))

    def take(self, client: str) -> Callable[[], None]:
        """Count one more of a client, and return what takes it back. Raise Busy, or TooMany where
        it is that client's doing.

        The seconds after which to ask again are a guess: a client that has a share keeps it as long
        as it needs.
        """
        try:
            return self._shares.take(client, total=self._total, each=self._each)
        except OwnTaken:
            raise TooMany(
                f"You have {self._each} {self._what} under way, as many as one may; wait for one to"
                " end.",
                retry_after=10,
            ) from None
        except AllTaken:
            raise Busy(
                f"As many {self._what} as the server can take are under way; try again in a moment."
            ) from None


# --- requests as WSGI knows them ------------------------------------------------------------------


class _Empty:
    def read(self, size: int = -1) -> bytes:
        return b""

    def readline(self, size: int = -1) -> bytes:
        return b""


_EMPTY = _Empty()


def make_environ(scope: Scope) -> Environ:
    """Return the WSGI environment (PEP 3333) of a request, without its input. Header names with an
    underscore are dropped: they could pass for those with a hyphen."""
    server, _, port = scope.server.rpartition(":")
    client, _, client_port = scope.client.rpartition(":")
    environ: Environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": client.strip("[]"),
        "REMOTE_PORT": client_port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    headers = scope.headers.items()
    readable = {name for name, _ in headers}
    if unreadable := [name for name in scope.headers.keys() if name not in readable]:  # noqa: SIM118 - no dict
        environ[REFUSED] = BadRequest(
            f"The header {unreadable[0]} holds characters that are not ASCII."
        )
    for name, value in headers:
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = (
            f"{environ[key]}{';' if key == 'HTTP_COOKIE' else ','}{value}"
            if key in environ
            else value
        )
    return environ


def _announces_body(environ: Environ) -> bool:
    return environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ


def _credential(environ: Environ) -> bytes | None:
    """Return a hash of what a request comes with to say whose it is, without looking it up. Of
    cookies only the session counts: one session is one credential whatever else is sent with it."""
    given = environ.get("HTTP_AUTHORIZATION")
    if not given:
        cookies = (part.strip() for part in environ.get("HTTP_COOKIE", "").split(";"))
        given = next((part for part in cookies if part.startswith("sessionid=")), None)
    return hashlib.sha256(given.encode(errors="replace")).digest() if given else None


def _content_length(headers: Iterable[tuple[str, str]]) -> int:
    return next((int(value) for name, value in headers if name.lower() == "content-length"), -1)
