"""What attackers do, all at the same time, on one event loop in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import resource
import socket
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any
from urllib.parse import quote, urlencode

from benchmarks.attack.accounts import PASSWORD
from benchmarks.attack.receivers import KINDS, Receivers

NICE = 10  # attackers have machines of their own; these share ours with the server
DATASET = "export-v1"
READ_SECONDS = 90.0  # an attacker waits that long for an answer


@dataclass(frozen=True)
class Plan:
    port: int
    tokens: dict[str, str]
    long_run: str  # the id of a run that stays active
    own_run: str  # of an ended run of mallory's
    connections: int
    only: tuple[str, ...] = ()  # attacks by name; none: all


@dataclass
class Totals:
    """How often which attack was answered what: a status, ``closed`` without an answer, ``silent``
    in READ_SECONDS."""

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    webhooks: Counter[str] = field(default_factory=Counter)
    trapped: int = 0
    most_streams: int = 0  # that one account had open at once
    problems: list[str] = field(default_factory=list)

    def add(self, attack: str, answer: str) -> None:
        self.answers.setdefault(attack, Counter())[answer] += 1


class Attackers:
    """Begin at once; ``finish`` ends them and returns what they saw."""

    def __init__(self, plan: Plan):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, plan), daemon=True)
        self._process.start()
        theirs.close()

    def finish(self) -> Totals:
        self._pipe.send("enough")
        totals: Totals = self._pipe.recv()
        self._process.join()
        return totals


def _work(pipe: Pipe, plan: Plan) -> None:
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    totals = asyncio.run(_Attack(plan).run(pipe))
    pipe.send(totals)


class _Attack:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.totals = Totals()
        self.receivers = Receivers()
        self.random = random.Random(1)
        self.session = ""

    async def run(self, pipe: Pipe) -> Totals:
        await self.receivers.start()
        self.session = await self._log_in("mallory", "mallory" + PASSWORD)
        crews: list[tuple[int, Callable[[int], Awaitable[None]]]] = [
            (100, self.slow_body),
            (10, self.endless_body),
            (60, self.slow_reader),
            (self.plan.connections // 2, self.idle_connection),
            (self.plan.connections - self.plan.connections // 2, self.half_a_head),
            (4, self.hostile_lines),
            (6, self.hostile_needle),
            (1, self.hostile_notes),
            (1, self.webhook),
            (300, self.hoard_streams),
            (4, self.guess_password),
            (40, self.crowd),
            (20, self.anonymous_crowd),
        ]
        if self.plan.only:
            crews = [
                (count, attack)
                for count, attack in crews
                if getattr(attack, "__name__", "") in self.plan.only
            ]
        tasks = [
            asyncio.create_task(self._again(attack, number))
            for count, attack in crews
            for number in range(count)
        ]
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.receivers.stop()
        self.totals.webhooks, self.totals.trapped = self.receivers.calls, self.receivers.trapped
        return self.totals

    async def _again(self, attack: Callable[[int], Awaitable[None]], number: int) -> None:
        name = getattr(attack, "__name__", "")
        while True:
            try:
                await attack(number)
            except (OSError, asyncio.IncompleteReadError):
                self.totals.add(name, "closed")
            except TimeoutError:
                self.totals.add(name, "silent")
            except Exception:  # noqa: BLE001 - an attacker that breaks proves nothing: it is reported
                self.totals.problems.append(f"{name} broke:\n{traceback.format_exc()}")
                return
            await asyncio.sleep(0.1 + self.random.random() * 0.4)

    # --- requests

    async def _open(
        self, receive_buffer: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.plan.port))
            limit = receive_buffer or 1 << 16
            return await asyncio.open_connection(sock=connection, limit=limit)
        except BaseException:
            connection.close()
            raise

    @contextlib.asynccontextmanager
    async def _connected(self, receive_buffer: int = 0) -> Any:
        reader, writer = await self._open(receive_buffer)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def _head(self, method: str, path: str, *headers: str, who: str = "") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
        if who:
            lines.append(f"Authorization: Token {self.plan.tokens[who]}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _ask(self, attack: str, head: bytes, body: bytes = b"") -> tuple[str, bytes]:
        """Send a request, read its answer to the end, and count the status."""
        async with self._connected() as (reader, writer):
            writer.write(head + body)
            async with asyncio.timeout(READ_SECONDS):
                data = await reader.read(1 << 22)
                while piece := await reader.read(1 << 16):
                    data += piece
        status = _status(data)
        self.totals.add(attack, status)
        return status, data

    async def _post(
        self, attack: str, path: str, body: bytes, *headers: str, who: str = ""
    ) -> tuple[str, bytes]:
        kind = (
            ()
            if any(line.startswith("Content-Type") for line in headers)
            else ("Content-Type: application/json",)
        )
        return await self._ask(
            attack,
            self._head("POST", path, f"Content-Length: {len(body)}", *kind, *headers, who=who),
            body,
        )

    async def _get(self, attack: str, path: str, *headers: str, who: str = "") -> tuple[str, bytes]:
        return await self._ask(attack, self._head("GET", path, *headers, who=who))

    async def _log_in(self, name: str, password: str, attack: str = "log_in") -> str:
        """Return the cookies of a session, as a header; empty where the login failed."""
        status, page = await self._get(attack, "/login")
        csrf = re.search(rb"csrftoken=(\w+)", page)
        field = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page)
        if status != "200" or csrf is None or field is None:
            return ""
        form = urlencode(
            {"csrfmiddlewaretoken": field[1].decode(), "username": name, "password": password}
        ).encode()
        cookie = f"csrftoken={csrf[1].decode()}"
        form_type = "Content-Type: application/x-www-form-urlencoded"
        _, answer = await self._post(attack, "/login", form, f"Cookie: {cookie}", form_type)
        session = re.search(rb"sessionid=(\w+)", answer)
        return f"Cookie: {cookie}; sessionid={session[1].decode()}" if session else ""

    # --- attacks: each is done again and again

    async def slow_body(self, number: int) -> None:
        """Announce a body and send a byte of it now and then."""
        path, who = [
            ("/login", ""),
            ("/api/tunix/run", "mallory"),
            ("/api/datasets/ingest?name=x&version=v1", "trudy"),
        ][number % 3]
        async with self._connected() as (reader, writer):
            writer.write(
                self._head(
                    "POST",
                    path,
                    "Content-Length: 100000",
                    "Content-Type: application/x-ndjson",
                    who=who,
                )
            )
            answer = asyncio.create_task(reader.read(1 << 12))
            async with asyncio.timeout(READ_SECONDS):
                while not answer.done():
                    writer.write(b"x")
                    await asyncio.wait({answer}, timeout=2.0)
            self.totals.add("slow_body", _status(answer.result()))

    async def endless_body(self, number: int) -> None:
        """Send a body that never ends, in chunks or with an enormous length."""
        who = ["", "mallory"][number % 2]
        path = [
            "/login",
            "/api/traces",
            "/api/datasets/ingest?name=x&version=v1",
            "/datasets/new",
            "/runs/new",
        ][number // 2 % 5]
        announced = (
            "Content-Length: 10000000000000"
            if self.random.random() < 0.3
            else "Transfer-Encoding: chunked"
        )
        async with self._connected() as (reader, writer):
            writer.write(
                self._head("POST", path, announced, "Content-Type: application/x-ndjson", who=who)
            )
            answer = asyncio.create_task(reader.read(1 << 12))
            piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            async with asyncio.timeout(READ_SECONDS):
                while not answer.done():
                    if writer.transport.get_write_buffer_size() < len(piece):
                        writer.write(piece)
                    await asyncio.wait({answer}, timeout=0.01)
            self.totals.add("endless_body", _status(await answer))

    async def slow_reader(self, number: int) -> None:
        """Ask for much and take a few bytes a second."""
        path = [
            f"/api/datasets/{DATASET}/export.jsonl",
            f"/api/tunix/runs/{self.plan.long_run}/events",
            "/api/traces?limit=100",
            "/",
        ][number % 4]
        headers = (self.session,) if path == "/" else ()
        async with self._connected(receive_buffer=2048) as (reader, writer):
            writer.write(self._head("GET", path, *headers, who="" if headers else "trudy"))
            self.totals.add("slow_reader", _status(await reader.read(64)))
            while await reader.read(64):
                await asyncio.sleep(1.0)

    async def idle_connection(self, number: int) -> None:
        async with self._connected() as (reader, _):
            await reader.read(1)
        self.totals.add("idle_connection", "closed by the server")

    async def half_a_head(self, number: int) -> None:
        async with self._connected() as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            answer = asyncio.create_task(reader.read(64))
            while not answer.done():
                writer.write(b"X-More: and more\r\n")
                await asyncio.wait({answer}, timeout=5.0)
            self.totals.add(
                "half_a_head", _status(await answer) if await answer else "closed by the server"
            )

    async def hostile_lines(self, number: int) -> None:
        """Upload what readers stumble over, and post traces with a million faults."""
        name = f"hostile-{os.getpid()}-{self.random.random()}"
        for line in HOSTILE_LINES:
            path = f"/api/datasets/ingest?name={name}&version=v1"
            await self._post(
                "hostile_lines",
                path,
                line + b"\n",
                "Content-Type: application/x-ndjson",
                who="trent",
            )
        for body in HOSTILE_BODIES:
            await self._post("hostile_lines", "/api/traces", body, who="trent")
            await self._post("hostile_lines", "/api/tunix/run", body, who="trent")

    async def hostile_needle(self, number: int) -> None:
        who = ["mallory", "trudy"][number % 2]
        needle = quote(self.random.choice(NEEDLES))
        for path in (
            f"/api/tunix/runs/{self.plan.long_run}/logs?search={needle}",
            f"/api/tunix/runs?q=note:{needle}",
            f"/api/tunix/runs?q={needle}",
            f"/api/traces?q={needle}",
            f"/api/tunix/runs?q={quote('loss<1 ' * 30)}",
            "/api/tunix/runs?offset=9000000000000000000",
        ):
            await self._get("hostile_needle", path, who=who)

    async def hostile_notes(self, number: int) -> None:
        run = f"/api/tunix/runs/{self.plan.own_run}"
        for notes in HOSTILE_NOTES:
            body = json.dumps({"notes": notes}).encode()
            head = self._head(
                "PATCH",
                run,
                f"Content-Length: {len(body)}",
                "Content-Type: application/json",
                who="mallory",
            )
            await self._ask("hostile_notes", head, body)
            await self._get("hostile_notes", f"/runs/{self.plan.own_run}", self.session)

    async def webhook(self, number: int) -> None:
        for kind in KINDS:
            body = {
                "dataset_key": "honest-v1",
                "model_id": "preset:tiny-llama",
                "webhook_url": self.receivers.address(kind),
            }
            await self._post(
                "webhook", "/api/tunix/run?mode=async", json.dumps(body).encode(), who="tess"
            )
        await asyncio.sleep(2.0)

    streams = 0

    async def hoard_streams(self, number: int) -> None:
        async with self._connected() as (reader, writer):
            writer.write(
                self._head("GET", f"/api/tunix/runs/{self.plan.long_run}/events", who="mallory")
            )
            status = _status(await reader.read(1 << 12))
            self.totals.add("hoard_streams", status)
            if status != "200":
                await asyncio.sleep(2.0)
                return
            self.streams += 1
            self.totals.most_streams = max(self.totals.most_streams, self.streams)
            try:
                while await reader.read(1 << 16):
                    pass
            finally:
                self.streams -= 1

    async def guess_password(self, number: int) -> None:
        await self._log_in("honest", f"guess {self.random.random()}", "guess_password")

    async def crowd(self, number: int) -> None:
        """Ask for pages as one account, as fast as they come, over many connections."""
        for path, headers, who in (
            ("/api/tunix/runs?limit=100", (), "mallory"),
            ("/", (self.session,), ""),
            (f"/runs/{self.plan.own_run}", (self.session,), ""),
        ):
            await self._get("crowd", path, *headers, who=who)

    async def anonymous_crowd(self, number: int) -> None:
        """Ask without an account, with made-up tokens and sessions."""
        made_up = f"{self.random.random()}"
        await self._get("anonymous_crowd", "/api/tunix/runs", f"Authorization: Token {made_up}")
        await self._get("anonymous_crowd", "/", f"Cookie: sessionid={made_up}")
        await self._get("anonymous_crowd", "/login", f"Cookie: sessionid={made_up}")


def _status(data: bytes) -> str:
    if not data:
        return "closed"
    parts = data[:20].split(b" ")
    return (
        parts[1].decode(errors="replace")
        if data.startswith(b"HTTP/") and len(parts) > 1
        else "no answer"
    )


_REPEATED = b"{" + b",".join(b'"k%d": 1' % (number % 20_000) for number in range(40_000)) + b"}"
HOSTILE_LINES = (
    _REPEATED,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"prompt": "' + b"x" * (5 << 20) + b'"}',
    b'{"prompt": "\\ud800", "completion": "x"}',
    b'{"prompt": "\\u0000", "completion": "x"}',
    b'{"prompt": "\xff\xfe", "completion": "x"}',
    b'{"prompt": 1e999, "completion": ' + b"9" * 100_000 + b"}",
    b"\x00" * 100_000,
    b"\n".join([b"{}"] * 200_000),
)
HOSTILE_BODIES = (
    json.dumps(
        {
            "prompt": "p",
            "final_answer": "a",
            "steps": [{f"f{field}": 1 for field in range(300)}] * 1_000,
        }
    ).encode(),
    json.dumps({f"field {number}": 1 for number in range(200_000)}).encode(),
    json.dumps([{"prompt": "", "steps": [{}] * 100}] * 5_000).encode(),
    b"[" * 1_000_000,
    b'{"prompt": "\\ud800"}',
)
NEEDLES = (
    "(a+)+$", "\\", "\\" * 200, "[" * 200, "%" * 200, "_" * 200, '"', '"' * 99, "a" * 250,
    "note:" * 50, "\u202e\u0301" * 50, "\x1b[31m" * 20, "*?" * 100, "é" * 200, " " * 200, "--",
    "'; DROP TABLE tunix_runs; --",
)  # fmt: skip
HOSTILE_NOTES = tuple(
    (text * 20_000)[:20_000]
    for text in (
        "[",
        "![[",
        "*a_ ",
        "<",
        "`",
        "> ",
        "- ",
        "&#",
        "a**b_",
        "[a](",
        "| a ",
        "<!--",
        "http://a.",
        "\\",
        "1. ",
    )
)
