"""The front, served by granian: what it receives, whom it admits, what it sends. The application is
front_application.py."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import LazySettings
from django.http import HttpResponse

from tunixrt.front import KNOWN_MAX, BodyRule, Front, Limits
from tunixrt.places import HEAVY, Places
from tunixrt.shares import OwnTaken, Shares
from tunixrt.tests.plugin import ROOT
from tunixrt.whose import ACCOUNT

LIMITS = Limits(
    body=BodyRule(1), upload=BodyRule(1), upload_paths=frozenset(), slow_paths=frozenset()
)
HEAD = b"Host: here\r\nConnection: close\r\n"


@dataclass
class Server:
    port: int
    folder: Path

    def send(self, request: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        try:
            connection.settimeout(60)
            connection.sendall(request)
        except BaseException:
            connection.close()
            raise
        return connection

    def ask(self, request: bytes) -> tuple[int, bytes]:
        return read_answer(self.send(request))

    def get(self, path: str, *headers: str) -> tuple[int, bytes]:
        return self.ask(get(path, *headers))

    def retry_after(self, request: bytes) -> tuple[int, int]:
        """Status of the answer, and after how many seconds it asks to come back."""
        with self.send(request) as connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
        match = re.search(rb"\r\nretry-after: (\d+)\r\n", head.lower())
        assert match is not None, head
        return int(head.split(b" ", 2)[1]), int(match[1])

    def wait_for(self, name: str) -> None:
        """Until the application is in ``/hold/NAME`` or ``/stream/NAME``."""
        while not (self.folder / f"{name}.entered").exists():
            time.sleep(0.01)

    def release(self, name: str) -> None:
        (self.folder / name).touch()


def get(path: str, *headers: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\n".encode()
        + HEAD
        + "".join(f"{line}\r\n" for line in headers).encode()
        + b"\r\n"
    )


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n" + HEAD + b"\r\n" + body


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body, to the end of the connection."""
    data = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    if not data:
        raise ConnectionError("no answer")
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("front")
    listening = socket.socket()
    with listening, open(folder / "log", "wb") as log:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.close()
        arguments = [
            "--interface",
            "rsgi",
            "--http",
            "1",
            "--no-ws",
            "--port",
            str(port),
            "--workers-kill-timeout",
            "1",
        ]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "granian",
                *arguments,
                "tunixrt.tests.front_application:application",
            ],
            env=os.environ | {"FRONT_TEST_FOLDER": str(folder)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    found = Server(port, folder)
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                found.get("/")
                break
            time.sleep(0.05)
        yield found
    finally:
        process.terminate()
        process.wait()


def test_a_request_arrives_as_wsgi_describes_it(server: Server) -> None:
    status, body = server.ask(
        post(
            "/a%20b/%C3%A9?x=%20&y",
            b"hello",
            "X-A: 1",
            "X-A: 2",
            "Cookie: a=1",
            "Cookie: b=2",
            "X_Sneaky: 1",
        )
    )

    assert status == 200
    told = json.loads(body)
    expected = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/a b/é".encode().decode("latin-1"),
        "QUERY_STRING": "x=%20&y",
        "CONTENT_LENGTH": "5",
        "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "a=1;b=2",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "body": "hello",
    }
    assert {name: told[name] for name in expected} == expected
    assert told["REMOTE_PORT"].isdigit()
    assert not any("SNEAKY" in name for name in told)


def test_a_body_in_chunks_is_received(server: Server) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"\r\n"
    status, body = server.ask(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    told = json.loads(body)
    assert (status, told["body"], told["CONTENT_LENGTH"]) == (200, "abcde", "5")
    assert "HTTP_TRANSFER_ENCODING" not in told


@pytest.mark.parametrize("path", ["/", "/login", "/api/anything"])
def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server, path: str) -> None:
    assert server.ask(post(path, b"x", length=1001))[0] == 413


def test_a_body_in_chunks_is_refused_when_it_passes_the_limit(server: Server) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"\r\n"
    assert server.ask(head + b"800\r\n" + b"x" * 0x800 + b"\r\n")[0] == 413


def test_a_body_that_comes_too_slowly_is_refused(server: Server) -> None:
    status, body = server.ask(post("/", b"x", length=900))

    assert status == 408
    assert b"too slowly" in body


def test_a_header_that_is_not_ascii_is_named(server: Server) -> None:
    status, body = server.ask(
        b"GET / HTTP/1.1\r\nX-Client-Request-Id: \xc3\xa9\r\n" + HEAD + b"\r\n"
    )

    assert status == 400
    assert b"x-client-request-id" in body


def test_slow_bodies_hold_no_place(server: Server) -> None:
    """Ten bodies that never come, and an answer at once: places are taken after the body."""
    waiting = [server.send(post("/", b"x", length=900)) for _ in range(10)]

    assert server.get("/")[0] == 200

    assert [read_answer(connection)[0] for connection in waiting] == [408] * 10
    assert server.retry_after(post("/", b"x", length=900)) == (408, 5)


def test_the_large_limit_is_for_who_may_upload(server: Server) -> None:
    large = b"x" * 100_000

    # the view answers, with an empty body
    assert server.ask(post("/upload", b"x", length=len(large)))[0] == 200
    status, body = server.ask(post("/upload", large, "Authorization: may"))
    assert (status, len(json.loads(body)["body"])) == (200, len(large))
    assert server.ask(post("/upload", b"x", "Authorization: may", length=1_000_001))[0] == 413


def test_uploads_at_once_are_bounded(server: Server) -> None:
    first = server.send(
        post("/upload", b"x", "Authorization: may", "Expect: 100-continue", length=100)
    )
    assert first.recv(100).startswith(b"HTTP/1.1 100")  # it is being received

    assert server.retry_after(post("/upload", b"y", "Authorization: may")) == (429, 10)
    second = server.send(
        post("/upload", b"x", "Authorization: may, too", "Expect: 100-continue", length=100)
    )
    assert second.recv(100).startswith(b"HTTP/1.1 100")
    assert server.retry_after(post("/upload", b"y", "Authorization: may, as well")) == (503, 5)

    for upload in (first, second):
        upload.sendall(b"x" * 99)
        assert read_answer(upload)[0] == 200
    assert server.ask(post("/upload", b"y", "Authorization: may"))[0] == 200


def test_requests_that_take_long_let_others_in_and_never_take_the_last_place(
    server: Server,
) -> None:
    held = [
        server.send(post(f"/hold/slow-{number}", b"", f"Authorization: {number}"))
        for number in (1, 2, 3)
    ]
    server.wait_for("slow-1")
    server.wait_for("slow-2")

    assert server.get("/", "Authorization: another")[0] == 200
    assert not (server.folder / "slow-3.entered").exists()

    server.release("slow-1")
    server.wait_for("slow-3")
    server.release("slow-2")
    server.release("slow-3")
    assert [read_answer(connection)[0] for connection in held] == [200] * 3


def test_one_client_never_takes_the_last_place(server: Server) -> None:
    held = [server.send(get(f"/hold/mine-{number}", "Authorization: me")) for number in (1, 2)]
    server.wait_for("mine-1")
    server.wait_for("mine-2")
    third = server.send(get("/", "Authorization: me"))

    assert server.get("/", "Authorization: another")[0] == 200

    server.release("mine-1")
    assert read_answer(third)[0] == 200
    server.release("mine-2")
    assert [read_answer(connection)[0] for connection in held] == [200] * 2


def test_what_is_sent_piece_by_piece_holds_no_place_and_is_bounded(server: Server) -> None:
    streams = [
        server.send(get(f"/stream/piece-{number}", f"Authorization: {number}")) for number in (1, 2)
    ]
    server.wait_for("piece-1")
    server.wait_for("piece-2")

    assert server.retry_after(get("/stream/piece-3")) == (503, 5)
    assert [server.get("/")[0] for _ in range(3)] == [200] * 3

    server.release("piece-1")
    server.release("piece-2")
    assert [read_answer(stream)[1].count(b"first") for stream in streams] == [1, 1]


def test_one_client_has_a_share_of_the_downloads(server: Server) -> None:
    streams = [
        server.send(get(f"/stream/mine-too-{number}", "Authorization: me")) for number in (1, 2)
    ]
    server.wait_for("mine-too-1")
    server.wait_for("mine-too-2")

    assert server.retry_after(get("/stream/mine-too-3", "Authorization: me")) == (429, 10)

    server.release("mine-too-1")
    server.release("mine-too-2")
    assert [read_answer(stream)[0] for stream in streams] == [200] * 2


def test_who_has_used_least_is_admitted_first() -> None:
    """Whoever asks a hundred times at once keeps nobody else waiting."""
    order: list[str] = []

    async def visits() -> None:
        places = Places(3, patience=1e6)  # one at a time
        held = threading.Event()
        first = places.visit(held.wait, client="many", who="many")
        many = [
            places.visit(lambda: order.append("many"), client="many", who=f"token {number}")
            for number in range(100)
        ]
        one = places.visit(lambda: order.append("one"), client="one", who="one")
        held.set()
        await asyncio.gather(first.result, one.result, *(visit.result for visit in many))

    asyncio.run(visits())

    assert len(order) == 101
    assert order.index("one") <= 1


@pytest.mark.parametrize(
    ("method", "path", "length", "heavy"),
    [
        ("POST", "/upload", "10", True),  # what is packed may unpack to a thousand times as much
        ("GET", "/upload", "0", False),
        ("POST", "/other", "10", False),
        ("POST", "/other", str(LIMITS.large + 1), True),
    ],
)
def test_uploads_and_large_bodies_are_heavy(
    method: str, path: str, length: str, heavy: bool
) -> None:
    limits = replace(LIMITS, upload_paths=frozenset({"/upload"}))
    front = Front(HttpResponse, places=1, streams=1, downloads=1, downloads_each=1, limits=limits)
    scope = SimpleNamespace(method=method, path=path)
    assert front._is_heavy(scope, {"CONTENT_LENGTH": length}) is heavy


def test_one_heavy_request_of_a_client_at_a_time() -> None:
    begun: list[str] = []

    async def visits() -> None:
        places = Places(6, patience=0)
        held = threading.Event()

        def work(name: str) -> None:
            begun.append(name)
            held.wait()

        names = ("one", "one", "two", "three")
        heavy = [
            places.visit(partial(work, name), client=name, who=name, heavy=True) for name in names
        ]
        quick = places.visit(lambda: begun.append("quick"), client="one", who="one")
        await quick.result
        assert [visit.admitted for visit in heavy] == [True, False, True, False]
        held.set()
        await asyncio.gather(*(visit.result for visit in heavy))

    asyncio.run(visits())

    assert sorted(begun) == ["one", "one", "quick", "three", "two"]


def test_a_heavy_request_waits_for_one_of_another_process(
    settings: LazySettings, tmp_path: Path
) -> None:
    """Nothing happens in this process when that one ends."""
    settings.TUNIXRT_WEB_SHARED = tmp_path

    async def visits() -> None:
        elsewhere = Shares("heavy")
        release = elsewhere.take("one", total=HEAVY, each=1)
        places = Places(3)
        heavy = [
            places.visit(lambda: None, client=name, who=name, heavy=True) for name in ("one", "two")
        ]
        await heavy[1].result
        assert not heavy[0].admitted
        with pytest.raises(OwnTaken):
            elsewhere.take("one", total=HEAVY, each=1)
        release()
        await heavy[0].result
        elsewhere.take("one", total=HEAVY, each=1)()

    asyncio.run(visits())


def test_a_crowd_of_heavy_requests_costs_the_others_a_few_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each try opens a file, and whoever is admitted next waits for them."""
    monkeypatch.setattr("tunixrt.places.HEAVY_AGAIN", 1e6)
    tries: list[str | bytes] = []
    take = Shares.take

    def noted(shares: Shares, client: str | bytes, **limits: int) -> Callable[[], None]:
        tries.append(client)
        return take(shares, client, **limits)

    async def visits() -> None:
        places = Places(6, patience=0)
        held = threading.Event()
        names = [*["one"] * 500, *["two"] * 500, *(f"other {number}" for number in range(500))]
        heavy = [places.visit(held.wait, client=name, who=name, heavy=True) for name in names]
        monkeypatch.setattr(Shares, "take", noted)
        await places.visit(lambda: None, client="quick", who="quick").result
        monkeypatch.setattr(Shares, "take", take)
        held.set()
        await asyncio.gather(*(visit.result for visit in heavy))

    asyncio.run(visits())

    # One and two have their share, and no third may have one: three tries, each time that somebody
    # may be admitted.
    assert len(set(tries)) <= 3
    assert 1 <= len(tries) < 100


def test_nothing_is_done_for_a_client_that_has_gone_before_its_turn(server: Server) -> None:
    """Two hold the places that their client may have; what it asks further is never begun once it
    has gone."""
    held = [server.send(get(f"/hold/here-{number}", "Authorization: leaving")) for number in (1, 2)]
    server.wait_for("here-1")
    server.wait_for("here-2")
    for number in range(50):
        server.send(get(f"/hold/gone-{number}", "Authorization: leaving")).close()
        server.send(post("/upload", b"x", "Authorization: leaving")).close()
    last = server.send(get("/", "Authorization: leaving"))

    while server.get("/waiting", "Authorization: another") != (200, b"1"):
        time.sleep(0.01)
    server.release("here-1")
    server.release("here-2")
    assert [read_answer(connection)[0] for connection in (*held, last)] == [200] * 3
    assert not list(server.folder.glob("gone-*.entered"))
    assert "Traceback" not in (server.folder / "log").read_text()


def test_a_client_is_an_account_once_django_has_found_one() -> None:
    front = Front(
        lambda environ, start: HttpResponse(),
        places=1,
        streams=1,
        downloads=1,
        downloads_each=1,
        limits=LIMITS,
    )
    mine = {"REMOTE_ADDR": "192.0.2.1", "HTTP_COOKIE": "theme=dark; sessionid=abc"}
    assert front._client_address(mine) == "address 192.0.2.1"

    front._remember(mine | {ACCOUNT: 7})

    assert (
        front._client_address(mine | {"HTTP_COOKIE": "sessionid=abc; theme=light"}) == "account 7"
    )
    assert front._client_address(mine | {"HTTP_COOKIE": "sessionid=made-up"}) == "address 192.0.2.1"
    for number in range(2 * KNOWN_MAX):
        front._remember(
            {"REMOTE_ADDR": "192.0.2.1", "HTTP_AUTHORIZATION": f"Token {number}", ACCOUNT: 8}
        )
    assert len(front._accounts) == KNOWN_MAX


def test_a_client_that_goes_away_gives_its_stream_back(server: Server) -> None:
    server.release("gone")
    for _ in range(6):  # three times as many as may be under way at once
        stream = server.send(get("/endless"))
        received = 0
        while received < 1_000_000:
            received += len(stream.recv(65536))
        stream.close()
        while server.get("/stream/gone")[0] in (429, 503):
            time.sleep(0.01)
