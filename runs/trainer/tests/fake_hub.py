"""Hugging Face's hub over HTTP on loopback, as far as its client asks it: revisions, trees and
files of model repositories."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits, the newest last, each with its files. ``sizes``: what is claimed of a file.
    ``gated``: nobody may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    gated: bool = False

    def push(self, folder: Path) -> str:
        """Make these files the newest commit, `main`."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        commit = _digest(b"".join(name.encode() + content for name, content in files.items()))
        self.commits.pop(commit, None)
        self.commits[commit] = files
        return commit

    def resolve(self, revision: str) -> str | None:
        newest = next(reversed(self.commits), None)
        return newest if revision == "main" else revision if revision in self.commits else None

    def size(self, name: str, content: bytes) -> int:
        return self.sizes.get(name, len(content))


@dataclass
class Hub:
    """``asked`` has every request: ``GET /owner/name/resolve/…/config.json``. ``down``: it answers
    503."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def contents(self) -> list[str]:
        """Names of the files that were fetched, in order."""
        return [
            request.rsplit("/", 1)[1]
            for request in self.asked
            if request.startswith("GET ") and "/resolve/" in request
        ]


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond()

        def do_GET(self) -> None:
            self._respond()

        def _respond(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.down:
                self._send(503, b"")
                return
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            owner, name, what, *rest = parts[2:] if api else parts
            repository = hub.repositories.get(f"{owner}/{name}")
            if repository is None:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return
            if repository.gated and not (api and what == "revision"):
                self._send(403, b"", {"X-Error-Code": "GatedRepo"})
                return
            commit = repository.resolve(rest[0])
            if commit is None:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            files = repository.commits[commit]
            if what == "revision":
                self._send_json(
                    {
                        "id": f"{owner}/{name}",
                        "sha": commit,
                        "siblings": [{"rfilename": file} for file in files],
                    }
                )
            elif what == "tree":
                self._send_json(
                    [
                        {
                            "type": "file",
                            "path": file,
                            "size": repository.size(file, content),
                            "oid": _digest(content),
                        }
                        for file, content in files.items()
                    ]
                )
            elif rest[1] in files:
                content = files[rest[1]]
                size = {"X-Linked-Size": str(repository.size(rest[1], content))}
                self._send(
                    200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit} | size
                )
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

        def _send_json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _digest(content: bytes) -> str:
    # as long as the commit of git that it stands for
    return hashlib.sha256(content).hexdigest()[:40]
