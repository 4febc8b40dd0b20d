"""Processor time that a request costs: ``python -m benchmarks.web.cpu`` (part of make bench-web).

List, detail, dry-run POST and history page, beside the yardstick of the list (yardstick.py), asked
in turns by WSGI, without a server or a network: what Django and the database do for one request.
With ``--before COMMIT`` that commit takes turns with this checkout, each on a database of its own
with the same rows. On PostgreSQL the time of its backend counts as well. Of all rounds the least
counts, since other programs can only add to the time of one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.databases import on_each_database, parser_for
from benchmarks.environment import without_our_settings
from benchmarks.idle import checkout
from benchmarks.served import ROOT
from tunixrt.tests.postgres import PostgresServer

SIDE = Path(__file__).with_name("cpu_side.py")
SECONDS = 0.25  # processor time of one turn, about
WORK = (
    "list",
    "list, by token",
    "list, by token in local mode",
    "list, three quarters down by offset",
    "detail",
    "history page",
    "dry-run POST",
)


def main() -> int:
    parser = parser_for("benchmarks.web.cpu", __doc__ or "")
    add_arguments(parser)
    parser.add_argument("--rows", type=int, default=200_000, help="runs in the table")
    options = parser.parse_args()
    return on_each_database(
        lambda database, options: measure(database, options.rows, options), options
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", metavar="COMMIT", help="measure this commit in turns with it")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side; default: 7")
    parser.add_argument(
        "--work", action="append", choices=WORK, help="only this; may be given several times"
    )


def measure(database: str, rows: int, options: argparse.Namespace) -> None:
    """Print a table for one database."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunixrt-cpu-")))
        server = None
        if database == "postgresql":
            server = _postgres(folder)
            stack.callback(server.remove)

        def side(checked_out: Path, name: str, what: str) -> Side:
            environment = _environment(checked_out, folder / name, server)
            return stack.enter_context(_side(checked_out, environment, what))

        sides = {"now": side(ROOT, "now", str(rows))}
        yardstick = side(ROOT, "now", "yardstick")
        if options.before:
            before = stack.enter_context(checkout(options.before))
            sides = {"before": side(before, "before", str(rows))} | sides
        work = options.work or WORK
        print(
            f"\n{database}, {rows:,} runs, load average {os.getloadavg()[0]:.1f}: CPU"
            " milliseconds a request (of them the database's), statements\n"
        )
        heads = [*sides, *(["before : now"] if options.before else []), "yardstick of the list"]
        print(f"| | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}")
        for name in work:
            asked = {side: (each, name) for side, each in sides.items()}
            if name == "list":
                asked["yardstick"] = (yardstick, "list")
            least = _in_turns(asked, options.rounds)
            cells = [str(least[side]) for side in sides]
            if options.before:
                cells.append(f"**{least['before'].whole / least['now'].whole:.2f}**")
            cells.append(str(least["yardstick"]) if name == "list" else "")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


class Least:
    """The round that took least."""

    def __init__(self) -> None:
        self.whole = self.database = float("inf")
        self.statements = 0

    def __str__(self) -> str:
        database = f" ({self.database:.2f})" if self.database else ""
        return f"{self.whole:.2f}{database}, {self.statements}"


class Side:
    """A program that does the work when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._line()  # it is ready

    def do(self, name: str, count: int) -> tuple[float, float, int]:
        """Return milliseconds a request: all, and those of the database; and its statements."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {count}\n")
        self.process.stdin.flush()
        seconds, database, statements = json.loads(self._line())
        return 1000 * (seconds + database) / count, 1000 * database / count, statements

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A side of the comparison has died; see above.")
        return line


def _in_turns(sides: dict[str, tuple[Side, str]], rounds: int) -> dict[str, Least]:
    counts = {}
    for name, (side, work) in sides.items():
        side.do(work, 3)  # warm
        counts[name] = max(3, int(1000 * SECONDS / side.do(work, 5)[0]))
    least = {name: Least() for name in sides}
    for _ in range(rounds):
        for name, (side, work) in sides.items():
            whole, database, statements = side.do(work, counts[name])
            if whole < least[name].whole:
                least[name].whole, least[name].database = whole, database
                least[name].statements = statements
    return least


def _postgres(folder: Path) -> PostgresServer:
    folder.chmod(0o755)
    data = folder / "postgresql"
    data.mkdir()
    server = PostgresServer(data, durable=True)
    server.create()
    server.start()
    return server


def _environment(checked_out: Path, data: Path, server: PostgresServer | None) -> dict[str, str]:
    """Return the environment of a side with its data, and on SQLite its database, in the folder
    ``data``."""
    environment = without_our_settings()
    environment |= {
        "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
        "PYTHONPATH": str(checked_out),
        "TUNIXRT_ENV_FILE": "/dev/null",
        "TUNIXRT_VAR_DIR": str(data),
        "TUNIXRT_LOG_LEVEL": "ERROR",
    }
    if server is not None:
        if not data.exists():
            with psycopg.connect(server.url(), autocommit=True) as database:
                database.execute(f"CREATE DATABASE {data.name}")
        environment["DATABASE_URL"] = server.url(data.name)
    (data / "output").mkdir(parents=True, exist_ok=True)
    return environment


@contextlib.contextmanager
def _side(checked_out: Path, environment: dict[str, str], what: str) -> Iterator[Side]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(SIDE), what],
        cwd=checked_out,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Side(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
