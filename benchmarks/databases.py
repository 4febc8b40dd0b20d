"""Measure on one database after the other."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

DATABASES = ("sqlite", "postgresql")


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with ``--database``, which may be given several times; left out, it means both."""
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
