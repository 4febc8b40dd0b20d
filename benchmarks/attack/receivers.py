"""Hostile receivers of webhooks, and a trap that no request may ever reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

KINDS = (
    "slow-bytes",
    "endless-headers",
    "redirect-metadata",
    "redirect-trap",
    "never",
    "reset",
    "endless-body",
)


class Receivers:
    """``address(kind)`` is where a webhook of that kind goes. ``trapped``: requests that followed a
    redirect."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.trapped = 0
        self._servers: list[asyncio.Server] = []
        self._port = self._trap_port = 0

    async def start(self) -> None:
        for serve in (self._receive, self._trap):
            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        self._port, self._trap_port = (
            server.sockets[0].getsockname()[1] for server in self._servers
        )

    def address(self, kind: str) -> str:
        return f"http://127.0.0.1:{self._port}/{kind}"

    def stop(self) -> None:
        for server in self._servers:
            server.close()

    async def _trap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.trapped += 1
        writer.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            kind = (await reader.readline()).decode(errors="replace").split(" ")[1].strip("/")
            self.calls[kind] += 1
            match kind:
                case "slow-bytes":
                    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
                        await self._say(writer, bytes([byte]), pause=2.0)
                case "endless-headers":
                    await self._say(writer, b"HTTP/1.1 200 OK\r\n")
                    while True:
                        await self._say(writer, b"X-Header: " + b"x" * 4000 + b"\r\n", pause=0.01)
                case "endless-body":
                    await self._say(writer, b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        await self._say(writer, b"x" * 65536, pause=0.01)
                case "redirect-metadata":
                    await self._say(
                        writer,
                        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\n\r\n",
                    )
                case "redirect-trap":
                    await self._say(
                        writer,
                        f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{self._trap_port}/\r\n\r\n".encode(),
                    )
                case "never":
                    await reader.read()
                case "reset":
                    writer.transport.abort()
        writer.close()

    @staticmethod
    async def _say(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.0) -> None:
        writer.write(data)
        await writer.drain()
        if writer.is_closing():
            raise ConnectionResetError
        await asyncio.sleep(pause)
