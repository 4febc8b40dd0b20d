"""GET …/events from a real server: everything once, in time, to the last byte."""

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import LazySettings, settings
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from runs.execution.attending import cancel_run
from runs.execution.hosts import this_host
from runs.live import stream
from runs.models import Run, RunStatus
from runs.runfolder import files, names, records
from runs.runfolder.processes import descendants
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.services.reservations import run_folder
from runs.tests.launching import HOUR, PATIENCE, wait_for
from runs.tests.leftovers import make_run, measured
from runs.tests.ports import HeldPort
from runs.tests.programs import Program
from tunixrt.credentials import Credential
from tunixrt.models import AccountSession, ApiToken

HOSTILE = (
    "<script>alert(1)</script>\x1b[2J\x1b]0;title\x07 data: x\r\rid: 7\n\n\0\u2028 🙂".encode()
    + b"\xff\xfe\n"
)
LIMIT = 4

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Event:
    name: str
    id: str
    data: dict[str, Any]


@dataclass
class Reading:
    """An open stream, read by a thread of its own."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    raw: bytes = b""
    ended: bool = False

    def text(self, name: str = "stdout") -> str:
        return "".join(event.data["text"] for event in list(self.events) if event.name == name)

    def wait_for(self, name: str, count: int = 1) -> Event:
        return wait_for(
            lambda: next(iter(self.named(name)[count - 1 :]), None), f"event {name} no. {count}"
        )

    def named(self, name: str) -> list[Event]:
        return [event for event in list(self.events) if event.name == name]


class Site:
    """A web server of this project on a port of its own."""

    def __init__(self, root: Path, log: Path, **environment: str):
        self.port = HeldPort()
        self.url = self.port.url
        settings = {
            "TUNIX_OUTPUT_ROOT": str(root),
            "TUNIXRT_BIND": self.port.address,
            "TUNIX_SYNC_TIMEOUT_SECONDS": str(HOUR),
            **environment,
        }
        self._program = Program(["manage.py", "web"], log, **settings)
        self.process = self._program.process
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        try:
            wait_for(self._answers, "the server")
        except BaseException:
            self._program.kill()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._program.said()
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End the server in order. What is sent piece by piece must not keep it: it would wait for
        an hour."""
        self.client.close()
        self.process.terminate()
        try:
            self._program.wait()
        finally:
            self._program.kill()
            self.port.close()

    @contextmanager
    def reading(self, run: Run, query: str = "", **headers: str) -> Iterator[Reading]:
        reading = Reading()
        headers = {"Accept": "text/event-stream"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        with (
            client,
            client.stream(
                "GET", f"/api/tunix/runs/{run.run_id}/events{query}", headers=headers
            ) as answer,
        ):
            reading.status, reading.headers = answer.status_code, dict(answer.headers)
            thread = threading.Thread(target=self._read, args=(answer, reading))
            thread.start()
            yield reading
            with suppress(OSError):  # a reader that waits does not notice a close
                answer.extensions["network_stream"].get_extra_info("socket").shutdown(
                    socket.SHUT_RDWR
                )
            thread.join(PATIENCE)

    @staticmethod
    def _read(answer: httpx.Response, reading: Reading) -> None:
        try:
            rest = b""
            for piece in answer.iter_raw():
                reading.raw += piece
                *blocks, rest = (rest + piece).split(b"\n\n")
                for block in blocks:
                    reading.events += parse(block)
        except (httpx.TransportError, httpx.StreamError, OSError, ValueError):
            return  # the test closed it
        reading.ended = True


def parse(block: bytes) -> list[Event]:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        assert name in ("event", "id", "data", "retry", ":", ""), line
        assert name not in fields
        fields[name] = value
    return (
        [Event(fields["event"], fields["id"], json.loads(fields["data"]))]
        if "event" in fields
        else []
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live") / "output"


@pytest.fixture(autouse=True)
def output_root(root: Path, settings: LazySettings) -> Path:
    """One output root for all tests of this file: their server is started once."""
    settings.TUNIX_OUTPUT_ROOT = root
    return root


@pytest.fixture(scope="module")
def site(
    root: Path, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    log = tmp_path_factory.mktemp("site") / "web.log"
    site = Site(root, log, TUNIXRT_MAX_STREAMS=str(LIMIT))
    yield site
    site.stop()
    assert "Traceback" not in log.read_text()


def append(run: Run, name: str, content: bytes) -> None:
    with (run_folder(run) / name).open("ab") as file:
        file.write(content)


def end(run: Run, status: str = RunStatus.COMPLETED, exit_code: int | None = 0) -> None:
    """As keeper and attendant end a run: exit.json, then the row."""
    record = records.exit_record(run_id=str(run.run_id), reason="exit", message="")
    files.write_json(run_folder(run) / names.EXIT, record)
    finish_run(run=run, status=status, reason="All done.", by="test", exit_code=exit_code)


# --- what is told


def test_a_run_from_its_first_line_to_its_end(site: Site, user: User):
    run = make_run(user, files={"stdout.log": b"before\n"})

    with site.reading(run) as reading:
        assert reading.status == 200
        assert reading.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reading.headers["cache-control"] == "no-cache, no-transform"
        assert reading.wait_for("status").data["status"] == "running"
        assert reading.wait_for("stdout").data == {
            "offset": 0,
            "next_offset": 7,
            "text": "before\n",
        }
        append(run, "stdout.log", b"while it runs\n")
        assert reading.wait_for("stdout", 2).data["text"] == "while it runs\n"
        append(run, "stderr.log", b"oops\n")
        assert reading.wait_for("stderr").id == "o21.e5.m0.s1"
        append(
            run,
            "metrics.jsonl",
            b'{"time": 1.0, "plan": {"total_steps": 9}}\n' + measured(1, loss=2.5, grad_norm="NaN"),
        )
        assert reading.wait_for("metrics").data == {
            "records": [
                {"time": 1.0, "plan": {"total_steps": 9}},
                {"time": 1.0, "step": 1, "epoch": 0.1, "values": {"loss": 2.5, "grad_norm": "NaN"}},
            ]
        }
        append(run, "stdout.log", b"the last words, without a newline \xf0\x9f")
        end(run)
        assert reading.wait_for("end").data == {"status": "completed"}
        wait_for(lambda: reading.ended, "the end of the stream")

    assert reading.text() == "before\nwhile it runs\nthe last words, without a newline \ufffd"
    assert [event.name for event in reading.events[-2:]] == ["status", "end"]
    assert reading.events[-2].data["status"] == "completed"
    assert reading.events[-2].data["message"] == "All done."
    assert reading.events[-2].data["run_id"] == str(run.run_id)


def test_what_is_printed_arrives_at_once(site: Site, user: User):
    """Each line before the next one is written: nothing waits for more. How long it takes: make
    bench-web."""
    run = make_run(user, files={"stdout.log": b""})

    with site.reading(run) as reading:
        reading.wait_for("status")
        for number in range(20):
            append(run, "stdout.log", b"%d\n" % number)
            assert reading.wait_for("stdout", number + 1).data["text"] == f"{number}\n"

    assert stream.POLL_SECONDS <= 0.1


def test_a_step_of_the_status_is_told(site: Site, user: User):
    run = make_run(user, status=RunStatus.PENDING)
    run_folder(run).rmdir()

    with site.reading(run) as reading:
        reading.wait_for("status")
        claim_run(run=run, host=this_host(), by="test")
        reading.wait_for("status", 2)
        run_folder(run).mkdir()
        append(run, "stdout.log", b"hello\n")
        reading.wait_for("stdout")
        cancel_run(run=run, by=user)
        reading.wait_for("status", 3)
        end(run, RunStatus.CANCELLED, None)
        reading.wait_for("end")

    assert [event.data["status"] for event in reading.named("status")] == [
        "pending",
        "running",
        "cancelling",
        "cancelled",
    ]


def test_a_run_that_has_ended_is_told_and_over(site: Site, user: User):
    run = make_run(
        user,
        status=RunStatus.FAILED,
        files={"stdout.log": HOSTILE, "metrics.jsonl": measured(3, loss=1)[:-1]},
    )

    with site.reading(run) as reading:
        wait_for(lambda: reading.ended, "the end of the stream")

    assert [event.name for event in reading.events] == ["stdout", "metrics", "status", "end"]
    assert reading.text() == HOSTILE.decode("utf-8", "replace")
    assert reading.events[1].data["records"][0]["step"] == 3
    assert b"\0" not in reading.raw and b"\r" not in reading.raw


def test_a_run_that_is_deleted_meanwhile(site: Site, user: User):
    run = make_run(user, status=RunStatus.PENDING)

    with site.reading(run) as reading:
        reading.wait_for("status")
        Run.objects.filter(pk=run.pk).update(trashed_at=timezone.now())
        assert reading.wait_for("end").data == {"status": "deleted"}


# --- coming back


def test_who_comes_back_misses_and_repeats_nothing(site: Site, user: User):
    run = make_run(
        user,
        status=RunStatus.COMPLETED,
        files={
            "stdout.log": HOSTILE * 3000,
            "stderr.log": b"e" * 100,
            "metrics.jsonl": measured(1, loss=1),
        },
    )
    with site.reading(run) as whole:
        wait_for(lambda: whole.ended, "the end of the stream")
    assert len(whole.events) > 6

    for number in (0, 1, len(whole.events) // 2, len(whole.events) - 3):
        seen = Reading(events=whole.events[: number + 1])
        with site.reading(run, "?from=o0.e0.m0", Last_Event_ID=whole.events[number].id) as rest:
            wait_for(lambda: rest.ended, "the end of the stream")
        for name in ("stdout", "stderr"):
            assert seen.text(name) + rest.text(name) == whole.text(name)
        for name in ("metrics", "status", "end"):
            assert len(seen.named(name)) + len(rest.named(name)) == 1
        assert rest.events[-1].id == whole.events[-1].id


@pytest.mark.parametrize("size", [1, 3, 70_000, 200_000])
def test_frames_put_together_are_the_files(tmp_path: Path, size: int):
    log = (HOSTILE * (size // len(HOSTILE) + 1))[:size]
    (tmp_path / "stdout.log").write_bytes(log)
    (tmp_path / "stderr.log").write_bytes(log[::-1])
    state = stream.State(3, {"status": "failed"})

    position, told = stream.Position(), {"stdout": "", "stderr": ""}
    while not (frame := stream.read_frame(tmp_path, state, position)).is_last:
        for block in frame.data.split(b"\n\n"):
            for event in parse(block):
                told[event.name] += event.data["text"]
                position = stream.Position.decode(event.id)
        assert position == frame.position

    assert told == {
        "stdout": log.decode("utf-8", "replace"),
        "stderr": log[::-1].decode("utf-8", "replace"),
    }


def test_lines_of_metrics_come_whole(tmp_path: Path):
    state = stream.State(1, {"status": "running"})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(measured(1, loss=1) + b"{broken\n" + measured(2, loss=2)[:10])

    frame = stream.read_frame(tmp_path, state, stream.Position(status=1))
    (event,) = parse(frame.data.removesuffix(b"\n\n"))
    assert [record["step"] for record in event.data["records"]] == [1]
    assert stream.read_frame(tmp_path, state, frame.position).data == b""

    path.write_bytes(measured(1, loss=1) + b"{broken\n" + measured(2, loss=2))
    (event,) = parse(stream.read_frame(tmp_path, state, frame.position).data.removesuffix(b"\n\n"))
    assert [record["step"] for record in event.data["records"]] == [2]


def test_a_log_that_was_cut_or_replaced_does_no_harm(tmp_path: Path):
    (tmp_path / "stdout.log").write_bytes(b"short")
    (tmp_path / "stderr.log").symlink_to("/etc/passwd")
    (tmp_path / "metrics.jsonl").mkdir()

    frame = stream.read_frame(
        tmp_path, stream.State(1, {"status": "running"}), stream.Position(stdout=100, status=1)
    )

    assert frame == stream.Frame(b"", stream.Position(stdout=5, status=1))


# --- refusals


@pytest.mark.parametrize(
    "position",
    [
        "o1",
        "o-1.e0.m0",
        "o1.e1.m1.s1.x",
        "o1e1m1",
        "o99999999999999999999.e0.m0",
        "o6.e0.m0",
        "o0.e0.m1",
    ],
)
def test_a_position_that_is_none_is_refused(site: Site, user: User, position: str):
    run = make_run(user, files={"stdout.log": b"12345"})
    address = f"/api/tunix/runs/{run.run_id}/events"

    assert site.client.get(f"{address}?from={position}").status_code == 422
    assert site.client.get(address, headers={"Last-Event-ID": position}).status_code == 422


def test_codes(site: Site, user: User):
    run = make_run(user)
    address = f"/api/tunix/runs/{run.run_id}/events"

    assert site.client.get(f"/api/tunix/runs/{uuid.uuid4()}/events").status_code == 404
    assert site.client.get("/api/tunix/runs/17/events").status_code == 422
    assert site.client.get(f"{address}?since=3").status_code == 422
    assert site.client.post(address).status_code == 405
    stranger = site.client.get(
        address, headers={"X-Forwarded-For": "192.0.2.1", "Accept": "text/event-stream"}
    )
    assert (stranger.status_code, stranger.headers["content-type"]) == (401, "application/json")


# --- many viewers


def test_places_are_bounded_and_given_back(site: Site, user: User):
    run = make_run(user, files={"stdout.log": b""})
    address = f"/api/tunix/runs/{run.run_id}/events"

    def refused() -> bool:
        with site.client.stream("GET", address) as answer:
            if answer.status_code == 503:
                answer.read()
                assert answer.headers["retry-after"] == "5"
                assert "piece by piece" in answer.json()["detail"]
            return answer.status_code == 503

    with (
        site.reading(run) as one,
        site.reading(run) as two,
        site.reading(run) as three,
        site.reading(run) as four,
    ):
        held = [one, two, three, four]
        wait_for(lambda: all(reading.events for reading in held), "first events")
        assert refused()
        append(run, "stdout.log", b"for all\n")
        wait_for(lambda: all(reading.text().endswith("for all\n") for reading in held), "the line")
        assert site.client.get("/api/tunix/runs").status_code == 200

    def free_again() -> bool:
        append(run, "stdout.log", b".")
        return not refused()

    wait_for(free_again, "a free place")


def test_viewers_hold_no_database_connection(site: Site, user: User):
    """Beside the one that asks for the status of all, there are those of the places where answers
    are made."""
    run = make_run(user, files={"stdout.log": b""})
    with site.reading(run) as one, site.reading(run) as two, site.reading(run) as three:
        wait_for(
            lambda: all(reading.named("status") for reading in (one, two, three)), "first events"
        )
        with ThreadPoolExecutor(12) as crowd:
            answers = list(
                crowd.map(lambda _: site.client.get("/api/tunix/runs").status_code, range(48))
            )
        assert answers == [200] * 48
        assert 1 <= open_connections(site) <= 1 + settings.TUNIXRT_WEB_THREADS


def open_connections(site: Site) -> int:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid"
                " <> pg_backend_pid()"
            )
            return int(cursor.fetchone()[0])
    database = os.path.realpath(str(connection.settings_dict["NAME"]))
    folders = [Path(f"/proc/{process.pid}/fd") for process in descendants(site.process.pid)]
    return sum(
        os.path.realpath(descriptor) == database
        for folder in folders
        for descriptor in folder.iterdir()
    )


def test_a_shutdown_ends_streams_at_once(root: Path, user: User, tmp_path: Path):
    run = make_run(user, files={"stdout.log": b"hello\n"})
    site = Site(root, tmp_path / "web.log")
    with site.reading(run) as reading:
        reading.wait_for("stdout")
        site.stop()
        wait_for(lambda: reading.ended, "the end of the stream")

    assert reading.named("end") == []


def test_a_stream_ends_when_its_token_is_revoked(
    site: Site, user: User, make_token: Callable[[User], str]
):
    run = make_run(user, files={"stdout.log": b"hello\n"})
    gone, kept = make_token(user), make_token(user)
    with (
        site.reading(run, Authorization=f"Token {gone}") as reading,
        site.reading(run, Authorization=f"Token {kept}") as other,
    ):
        reading.wait_for("stdout")
        other.wait_for("stdout")
        ApiToken.objects.filter(token_key=gone[:15]).delete()
        wait_for(lambda: reading.ended, "the end of the stream")
        assert not other.ended

    assert reading.named("end") == []


# --- the threads behind it, in this process


@pytest.fixture
def viewer(root: Path) -> Iterator[Callable[..., stream.Viewer]]:
    opened: list[stream.Viewer] = []

    def make(run: Run, **options: Any) -> stream.Viewer:
        given = {
            "limit": 10,
            "each": 10,
            "credential": Credential(run.owner_id, run.owner.password),
            **options,
        }
        opened.append(stream.Viewer(run, run_folder(run), stream.Position(), **given))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
    wait_for(lambda: not stream.hub._threads, "the end of the watching threads")


def test_silence_is_broken_by_a_comment(
    viewer: Callable[..., stream.Viewer], user: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    one = viewer(make_run(user))

    assert next(one) == b"retry: 2000\n\n"
    while (event := next(one)) == b":\n\n":
        pass  # on a slow machine there is silence even before the first event
    assert event.startswith(b"event: status\n")
    assert next(one) == b":\n\n"


def test_a_viewer_who_never_reads_gives_the_place_back(
    viewer: Callable[..., stream.Viewer], user: User
):
    run = make_run(user)
    one = viewer(run, limit=1)
    with pytest.raises(stream.TooManyStreams):
        viewer(run, limit=1)
    one.close()
    one.close()

    assert next(viewer(run, limit=1)) == stream.OPENING
    assert stream.hub.viewers == 1


def test_one_account_has_a_share_of_the_streams(
    viewer: Callable[..., stream.Viewer], user: User, staff: User
):
    run = make_run(user)
    tokens = [Credential(user.pk, user.password, token=name) for name in ("one", "two", "three")]
    first, _ = (viewer(run, credential=token, each=2) for token in tokens[:2])

    with pytest.raises(stream.TooManyOfOne, match="You have 2 live streams open") as caught:
        viewer(run, credential=tokens[2], each=2)
    assert (caught.value.status, caught.value.retry_after) == (429, 5)
    viewer(run, credential=Credential(staff.pk, staff.password), each=2)
    first.close()
    viewer(run, credential=tokens[2], each=2)


LOSSES: dict[str, Callable[[User], object]] = {
    "revoked": lambda user: ApiToken.objects.all().delete(),
    "expired": lambda user: ApiToken.objects.update(expiry=timezone.now()),
    "logged out": lambda user: AccountSession.objects.all().delete(),
    "session expired": lambda user: AccountSession.objects.update(expire_date=timezone.now()),
    "deactivated": lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
    "another password": lambda user: User.objects.filter(pk=user.pk).update(password="another"),
}


@pytest.mark.parametrize(
    ("loss", "lost"),
    [
        ("revoked", "t"), ("expired", "t"), ("logged out", "s"), ("session expired", "s"),
        ("deactivated", "tsl"), ("another password", "tsl"),
    ],
)  # fmt: skip
def test_what_opens_the_door_no_longer_ends_the_stream(
    viewer: Callable[..., stream.Viewer],
    user: User,
    loss: str,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(stream, "CREDENTIAL_SECONDS", 1e9)  # only when the test looks
    token, _ = ApiToken.objects.create(user=user, expiry=timedelta(hours=1))
    session = AccountSession.objects.create(
        pk="s" * 32, session_data="", expire_date=token.expiry, account=user
    )
    run = make_run(user)
    kinds = {
        "t": viewer(run, credential=Credential(user.pk, user.password, token=token.pk)),
        "s": viewer(run, credential=Credential(user.pk, user.password, session=session.pk)),
        "l": viewer(run, credential=Credential(user.pk, user.password)),
    }
    for one in kinds.values():
        assert next(one) == stream.OPENING
        assert next(one).startswith(b"event: status\n")
    LOSSES[loss](user)

    stream.hub._check_credentials()

    assert {kind for kind, one in kinds.items() if one._credential in stream.hub.refused} == set(
        lost
    )
    for kind in lost:
        with pytest.raises(StopIteration):
            next(kinds[kind])


def test_the_database_may_be_away(
    viewer: Callable[..., stream.Viewer],
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Logs go on while the status cannot be asked for; it is told when it can."""
    run = make_run(user, files={"stdout.log": b""})
    monkeypatch.setattr(stream, "STATUS_SECONDS", 0.05)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tunix_runs RENAME TO tunix_runs_away")
    try:
        one = viewer(run)
        next(one), next(one)
        append(run, "stdout.log", b"still here\n")
        assert b"still here" in next(one)
        wait_for(lambda: "is not known right now" in caplog.text, "a failed look at the row")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE tunix_runs_away RENAME TO tunix_runs")
    end(run)

    rest = b"".join(one)

    assert b'"status":"completed"' in rest and rest.rstrip().endswith(
        b'data: {"status":"completed"}'
    )
