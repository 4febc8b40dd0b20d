"""The live stream of a run: what its files and its status have to tell, from a position on.

A position is four numbers, written ``o123.e45.m678.s1``: bytes of stdout.log, stderr.log and
metrics.jsonl that were told, and the rank of the status. Every event carries the position behind it
as its id: a reader that comes back misses and repeats nothing.

One thread looks at the files of all watched runs every tenth of a second and wakes their viewers;
another asks the database for their status, in one query for all, and every few seconds whether what
the viewers came with still opens the door. A viewer reads from its own position in the files, so a
slow one holds nothing back and nothing piles up for it; while it waits it costs a sleeping thread
and no database connection. docs/live.md has the protocol, docs/adr/ the reasons.
"""

import logging
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from django.db import Error as DatabaseError
from django.db import close_old_connections, connections

from runs.models import TERMINAL, Run, RunStatus
from runs.queries.curves import as_json
from runs.queries.logs import OffsetPastEnd, read_part
from runs.runfolder import files, names
from runs.services.measurements import BATCH_BYTES, Record, read_line
from tunixrt.credentials import Credential, still_valid
from tunixrt.refusals import Busy, TooMany
from tunixrt.shares import AllTaken, OwnTaken, Shares

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 15.0
STATUS_SECONDS = 2.0  # between two looks at the row of a training
STATUS_SOON_SECONDS = (
    0.25  # when something has just happened to it, or nothing but the row will tell
)
CREDENTIAL_SECONDS = 5.0  # between two looks at the viewers' accounts, tokens and sessions
LOG_BYTES = 1 << 16
OPENING = b"retry: 2000\n\n"
HEARTBEAT = b":\n\n"
DELETED = "deleted"
_RANKS: dict[str, int] = {
    RunStatus.PENDING: 0,
    RunStatus.RUNNING: 1,
    RunStatus.CANCELLING: 2,
    **dict.fromkeys(TERMINAL, 3),
    DELETED: 4,
}
_ENDED = 3
_STATE_FIELDS = (
    "run_id", "status", "message", "exit_code", "queued_at", "started_at", "completed_at",
    "duration_seconds",
)  # fmt: skip
_CACHED_FRAMES = 16
_CACHED_BYTES = 1 << 15
_POSITION = re.compile(r"o(\d{1,18})\.e(\d{1,18})\.m(\d{1,18})(?:\.s(\d))?", re.ASCII)


@dataclass(frozen=True)
class Position:
    """Where a reader is. ``status`` -1: it knows of none."""

    stdout: int = 0
    stderr: int = 0
    metrics: int = 0
    status: int = -1

    @classmethod
    def decode(cls, text: str) -> "Position":
        """Return the position in ``text``. Raise ValueError with a sentence."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError("must be a position like o123.e45.m678.s1.")
        stdout, stderr, metrics, status = match.groups()
        return cls(int(stdout), int(stderr), int(metrics), -1 if status is None else int(status))

    def encode(self) -> str:
        text = f"o{self.stdout}.e{self.stderr}.m{self.metrics}"
        return text if self.status < 0 else f"{text}.s{self.status}"

    def lies_inside(self, folder: Path) -> bool:
        """Return whether the files are that long."""
        sizes = [
            (_look_at(folder / name) or (0, 0))[0]
            for name in (names.STDOUT, names.STDERR, names.METRICS)
        ]
        return self.stdout <= sizes[0] and self.stderr <= sizes[1] and self.metrics <= sizes[2]


@dataclass(frozen=True)
class State:
    """What the row says."""

    rank: int
    data: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> "State":
        return cls.from_row({name: getattr(run, name) for name in _STATE_FIELDS})

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "State":
        return cls(_RANKS[row["status"]], row)

    @property
    def has_ended(self) -> bool:
        return self.rank >= _ENDED


@dataclass(frozen=True)
class Frame:
    """Events to send, and where the reader is behind them."""

    data: bytes
    position: Position
    is_last: bool = False


class Watch:
    """A run that a client watches."""

    def __init__(self, folder: Path, state: State):
        self.folder = folder
        self.state = state
        self.viewers = 0
        self.version = 0
        self.changed = threading.Condition()
        self.look_at_row = 0.0  # when; monotonic seconds
        self._files: tuple[Any, ...] = ()
        self._marks: tuple[Any, ...] = ()
        self._frames: dict[tuple[Position, bool], Frame] = {}
        self._frames_version = -1
        self._reading = threading.Lock()

    def wake(self) -> None:
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def wait(self, version: int, seconds: float) -> bool:
        """Sleep until there is something newer than ``version``: False if there was nothing in that
        time."""
        with self.changed:
            return self.changed.wait_for(lambda: self.version != version, seconds)

    def look(self) -> None:
        """Check the files once; wake the viewers if there is something new."""
        seen = tuple(
            _look_at(self.folder / name) for name in (names.STDOUT, names.STDERR, names.METRICS)
        )
        marks = tuple(
            _look_at(self.folder / name) for name in (names.KEEPER, names.STOP, names.EXIT)
        )
        if marks != self._marks:
            self._marks = marks
            self.look_at_row = 0.0
        if seen != self._files:
            self._files = seen
            self.wake()

    def take(self, state: State) -> None:
        """Note that the row was read."""
        soon = state.rank == _RANKS[RunStatus.PENDING] or bool(self._marks and self._marks[-1])
        self.look_at_row = time.monotonic() + (STATUS_SOON_SECONDS if soon else STATUS_SECONDS)
        if state.rank > self.state.rank:
            self.state = state
            self.wake()

    def frame(self, position: Position, version: int, *, texts: bool) -> Frame:
        """Return what there is to send from ``position`` on, without ``texts`` nothing of the logs.
        Viewers at the same position share it."""
        with self._reading:
            if self._frames_version != version:
                self._frames.clear()
                self._frames_version = version
            frame = self._frames.get((position, texts))
            if frame is None:
                frame = read_frame(self.folder, self.state, position, texts=texts)
                if len(self._frames) < _CACHED_FRAMES and len(frame.data) <= _CACHED_BYTES:
                    self._frames[position, texts] = frame
            return frame


def _look_at(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def read_frame(folder: Path, state: State, position: Position, *, texts: bool = True) -> Frame:
    """Return the events that a reader at ``position`` has not seen, up to a bounded size, without
    ``texts`` none of the logs, in the state that was read *before* the files: with an ended run
    nothing is added any more, so a frame without events is then the last one."""
    events: list[bytes] = []

    def tell(event: str, data: Any) -> None:
        events.append(
            b"event: %b\nid: %b\ndata: %b\n\n"
            % (event.encode(), position.encode().encode(), _json(data))
        )

    if state.rank > position.status and not state.has_ended:
        position = replace(position, status=state.rank)
        tell("status", state.data)
    logs = (("stdout", names.STDOUT), ("stderr", names.STDERR)) if texts else ()
    for stream, name in logs:
        offset = getattr(position, stream)
        try:
            part = read_part(
                folder / name, offset=offset, limit=LOG_BYTES, complete=state.has_ended
            )
        except OffsetPastEnd as error:  # a training that cuts its own log: resume from there
            position = replace(position, **{stream: error.size})
            continue
        except files.BrokenFile:
            continue
        if part.text:
            position = replace(position, **{stream: part.next_offset})
            tell(
                stream, {"offset": part.offset, "next_offset": part.next_offset, "text": part.text}
            )
    points, metrics = _read_metrics(
        folder / names.METRICS, position.metrics, to_the_end=state.has_ended
    )
    if metrics != position.metrics:
        position = replace(position, metrics=metrics)
        if points:
            tell("metrics", {"records": points})
    if events or not state.has_ended:
        return Frame(b"".join(events), position)
    # Everything has been told: only now may a reader learn that this is all.
    if state.rank > position.status:
        position = replace(position, status=state.rank)
        tell("status", state.data)
    tell("end", {"status": state.data["status"]})
    return Frame(b"".join(events), position, is_last=True)


def _read_metrics(path: Path, offset: int, *, to_the_end: bool) -> tuple[list[dict[str, Any]], int]:
    """Return whole new lines as records, and the offset after them; cut where
    ``services.measurements`` cuts the same file."""
    try:
        descriptor = files.open_regular(path)
    except (OSError, files.BrokenFile):
        return [], offset
    with open(descriptor, "rb") as file:
        file.seek(offset)
        data = file.read(BATCH_BYTES)
    end = data.rfind(b"\n") + 1
    if end == 0 and (to_the_end or len(data) == BATCH_BYTES):
        end = len(data)
    return [
        _as_event(record)
        for record in map(read_line, data[:end].split(b"\n"))
        if record is not None
    ], offset + end


def _as_event(record: Record) -> dict[str, Any]:
    if record.plan and not record.values:
        return {"time": record.time, "plan": record.plan}
    values = {name: as_json(value) for name, value in record.values.items()}
    return {"time": record.time, "step": record.step, "epoch": record.epoch, "values": values}


def _json(data: Any) -> bytes:
    return orjson.dumps(data, default=str, option=orjson.OPT_UTC_Z)


# --- viewers


class TooManyStreams(Busy):
    """Every place is taken."""

    def __init__(self) -> None:
        super().__init__(
            "As many live streams are open as this server allows; read logs and metrics piece by"
            " piece meanwhile."
        )


class TooManyOfOne(TooMany):
    """An account has its share."""

    retry_after = 5

    def __init__(self, limit: int):
        super().__init__(
            f"You have {limit} live streams open, as many as an account may. Close one, or read"
            " logs and metrics piece by piece."
        )


class Hub:
    """The watched runs of this process and the two threads that look after them while there are
    any."""

    def __init__(self) -> None:
        self.watches: dict[uuid.UUID, Watch] = {}
        self.viewers = 0
        self.stopping = False
        self.refused: set[Credential] = set()  # of viewers that are to leave
        self._shares = Shares("viewers")
        # of each credential: what gives the shares of its viewers back
        self._releases: defaultdict[Credential, list[Callable[[], None]]] = defaultdict(list)
        self._look_at_credentials = 0.0  # when; monotonic seconds
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._row_wanted = threading.Event()

    def join(
        self, run: Run, folder: Path, credential: Credential, *, limit: int, each: int
    ) -> Watch:
        """Add a viewer of ``run``: ``limit`` in all workers, ``each`` of one account. Raise
        TooManyStreams, TooManyOfOne."""
        with self._lock:
            if self.stopping:
                raise TooManyStreams
            account = f"account {credential.user_id}"
            try:
                release = self._shares.take(account, total=limit, each=each)
            except AllTaken as error:
                if isinstance(error, OwnTaken) and each < limit:
                    raise TooManyOfOne(each) from None
                raise TooManyStreams from None
            self.viewers += 1
            self._releases[credential].append(release)
            watch = self.watches.get(run.pk)
            if watch is None:
                watch = self.watches[run.pk] = Watch(folder, State.of(run))
            watch.viewers += 1
            for name, work in (
                ("live-files", self._watch_files),
                ("live-status", self._watch_rows),
            ):
                if name not in self._threads:
                    self._threads[name] = threading.Thread(target=work, name=name, daemon=True)
                    self._threads[name].start()
        watch.take(State.of(run))
        return watch

    def leave(self, run_id: uuid.UUID, credential: Credential) -> None:
        with self._lock:
            self.viewers -= 1
            self._releases[credential].pop()()
            if not self._releases[credential]:
                del self._releases[credential]
                self.refused.discard(credential)
            watch = self.watches[run_id]
            watch.viewers -= 1
            if not watch.viewers:
                del self.watches[run_id]

    def stop(self) -> None:
        """End every stream: the server shuts down, and readers come back to the next one."""
        self.stopping = True
        for watch in self._watched():
            watch.wake()

    def _watched(self, name: str | None = None) -> list[Watch]:
        """Return all watches. Without any, the thread ``name`` is to end."""
        with self._lock:
            if not self.watches and name is not None:
                del self._threads[name]
            return list(self.watches.values())

    def _watch_files(self) -> None:
        while watches := self._watched("live-files"):
            for watch in watches:
                watch.look()
                if watch.look_at_row == 0.0:
                    self._row_wanted.set()
            time.sleep(POLL_SECONDS)

    def _watch_rows(self) -> None:
        try:
            while watches := self._watched("live-status"):
                self._row_wanted.wait(STATUS_SOON_SECONDS)
                self._row_wanted.clear()
                now = time.monotonic()
                due = [
                    watch
                    for watch in watches
                    if watch.viewers and watch.look_at_row <= now and not watch.state.has_ended
                ]
                if due:
                    self._read_rows(due)
                if self._look_at_credentials <= now:
                    self._look_at_credentials = now + CREDENTIAL_SECONDS
                    self._check_credentials()
        finally:
            connections.close_all()

    def _check_credentials(self) -> None:
        """End the streams of viewers whose account, token or session is gone."""
        with self._lock:
            asked = set(self._releases)
        if not asked:
            return
        try:
            close_old_connections()
            gone = asked - still_valid(asked)
        except DatabaseError as error:
            logger.warning(
                "whether viewers may continue watching is not known right now: %s", error
            )
            return
        if gone:
            with self._lock:
                self.refused |= gone & self._releases.keys()
            for watch in self._watched():
                watch.wake()

    @staticmethod
    def _read_rows(watches: list[Watch]) -> None:
        wanted = [watch.state.data["run_id"] for watch in watches]
        try:
            close_old_connections()
            rows = {
                row["run_id"]: row
                for row in Run.objects.visible().filter(pk__in=wanted).values(*_STATE_FIELDS)
            }
        except DatabaseError as error:
            logger.warning("the status of watched runs is not known right now: %s", error)
            for watch in watches:
                watch.look_at_row = time.monotonic() + STATUS_SECONDS
            return
        for run_id, watch in zip(wanted, watches, strict=True):
            watch.take(State.from_row(rows.get(run_id) or {"run_id": run_id, "status": DELETED}))


hub = Hub()


class Viewer:
    """The stream of one reader, an iterator of bytes. ``close`` gives its place back, also if
    nothing was ever read."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        position: Position,
        credential: Credential,
        *,
        texts: bool = True,
        limit: int,
        each: int,
    ):
        """Start to watch. ``texts``: whether the reader is told what the run writes to its logs.
        Raise TooManyStreams, TooManyOfOne."""
        self._run_id = run.pk
        self._credential = credential
        self._watch: Watch | None = None
        self._watch = hub.join(run, folder, credential, limit=limit, each=each)
        self._position = position
        self._texts = texts
        self._waiting = [OPENING]

    def __iter__(self) -> "Viewer":
        return self

    def __next__(self) -> bytes:
        if self._waiting:
            # this thread authorised the reader; from here on it needs no database
            connections.close_all()
            return self._waiting.pop()
        watch = self._watch
        if watch is None:
            raise StopIteration
        while not hub.stopping and self._credential not in hub.refused:
            version = watch.version
            frame = watch.frame(self._position, version, texts=self._texts)
            self._position = frame.position
            if frame.is_last:
                self.close()
                return frame.data
            if frame.data:
                return frame.data
            if not watch.wait(version, HEARTBEAT_SECONDS):
                return HEARTBEAT
        raise StopIteration

    def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            hub.leave(self._run_id, self._credential)

    def __del__(self) -> None:
        self.close()
