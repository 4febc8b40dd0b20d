"""Measure on one database after the other."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.environment import without_our_settings
from tunixrt.tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[1]

DATABASES = ("sqlite", "postgresql")


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--database``, which may be given several times and means both if left
    out."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description.splitlines()[0]
    )
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: both")
    return parser


def on_each_database(
    measure: Callable[[str, argparse.Namespace], None], options: argparse.Namespace
) -> int:
    """Call ``measure`` with each database that was asked for; the exit code of the program. Django
    reads its settings once, so each has a process of its own."""
    for database in options.database or DATABASES:
        process = multiprocessing.get_context("fork").Process(
            target=measure, args=(database, options)
        )
        process.start()
        process.join()
        if process.exitcode:
            return 1
    return 0


@contextmanager
def new_system(
    database: str, name: str, *, durable: bool = True
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder and a migrated database; yield the folder and the environment of programs.

    Args:
        durable: whether PostgreSQL writes to the disk at every commit, as in production.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"tunixrt-{name}-")))
        environment = without_our_settings() | {
            "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
            "TUNIXRT_ENV_FILE": os.devnull,
            "TUNIXRT_VAR_DIR": str(folder / "var"),
        }
        if database == "postgresql":
            folder.chmod(0o755)  # of PostgreSQL's own user too
            data = folder / "postgresql"
            data.mkdir()
            server = PostgresServer(data, durable=durable)
            server.create()
            stack.callback(server.remove)
            server.start()
            environment["DATABASE_URL"] = server.url()
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=ROOT,
            env=environment,
            check=True,
        )
        yield folder, environment
