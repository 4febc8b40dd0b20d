"""A judge as others run it: a real HTTP server on loopback that speaks as OpenAI's API does."""

import contextlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from django.contrib.auth.models import User

from runs.models import Evaluation, Judgement

Reply = tuple[int, bytes]
Decide = Callable[[dict[str, Any]], "str | Reply"]


def completion(content: Any, finish_reason: str = "stop") -> bytes:
    """Return a chat completion that says ``content``."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


def verdict(said: str) -> str:
    return json.dumps({"verdict": said, "reason": "because"})


class FakeJudge(ThreadingHTTPServer):
    """Answers each request with what ``decide`` makes of the data that it is to judge: the content
    of a completion, or status and body. ``decide`` may be changed between requests.

    ``slow``: an answer begins, and does not end until ``released``.
    """

    daemon_threads = True

    def __init__(self, decide: Decide) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.decide = decide
        self.slow = False
        self.released = Event()
        self.lock = Lock()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/chat/completions"


class _Handler(BaseHTTPRequestHandler):
    server: FakeJudge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = json.loads(body["messages"][-1]["content"])
        with self.server.lock:
            self.server.asked.append(body)
            self.server.headers.append(dict(self.headers))
            answer = self.server.decide(data)
        status, content = (200, completion(answer)) if isinstance(answer, str) else answer
        with contextlib.suppress(OSError):  # the client has given up
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            while self.server.slow and not self.server.released.wait(0.05):
                self.wfile.write(b" ")
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(decide: Decide) -> Iterator[FakeJudge]:
    server = FakeJudge(decide)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def make_judgement(evaluation: Evaluation, *, by: User) -> Judgement:
    """Return a judgement under way, for tests of routes alone."""
    return Judgement.objects.create(
        evaluation=evaluation,
        judge="big",
        model="m",
        prompt_version=1,
        prompt_hash="p",
        scorer_hash="s",
        requests_max=1,
        created_by=by,
    )
