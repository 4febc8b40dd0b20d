"""The Hugging Face Hub over HTTP on loopback, as far as its client asks it for datasets."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits, each with its files, and branches. ``gated``: nobody may read the files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make these files the newest commit of a branch."""
        commit = _digest(repr(sorted(files.items())).encode())
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """``asked`` has every request; ``before`` is called with it before it is answered."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda request: None

    def fetched(self) -> list[str]:
        return [
            request.split("/resolve/")[1].split("/", 1)[1]
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
            path = urlsplit(self.path).path
            request = f"{self.command} {unquote(path)}"
            hub.asked.append(request)
            hub.before(request)
            is_api = path.startswith("/api/datasets/")
            rest = path.removeprefix("/api").removeprefix("/datasets/")
            owner, name, what, revision, *file = map(unquote, rest.split("/"))
            repository = hub.repositories.get(f"{owner}/{name}")
            if repository is None:
                self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
                return
            commit = repository.resolve(revision)
            if commit is None:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            files = repository.commits[commit]
            if is_api and what == "revision":
                siblings = [
                    {"rfilename": name, "size": len(content)} for name, content in files.items()
                ]
                answer = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            elif repository.gated:
                self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            elif what == "resolve" and (content := files.get("/".join(file))) is not None:
                headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit}
                self._send(200, content, headers)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
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
