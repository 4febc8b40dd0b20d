"""How fast the web server answers with ten thousand and with a million runs: ``python -m
benchmarks.web`` (make bench-web).

One server process as ``make serve`` starts it, with its attendant, on a database of its own:
SQLite, and a PostgreSQL with fsync on. Clients run on the same machine. docs/performance.md says
what the figures mean and has those on record.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.house import House
from benchmarks.chaos.load import make_datasets
from benchmarks.databases import on_each_database, parser_for
from benchmarks.history import fill
from benchmarks.web import cpu
from benchmarks.web.live import measure_live

TICKER = Path(__file__).with_name("ticker.py")


def main() -> int:
    parser = parser_for("benchmarks.web", __doc__ or "")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[10_000, 1_000_000], help="table sizes, growing"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="for each load")
    parser.add_argument(
        "--cpu-rows", type=int, default=200_000, help="table size for the processor time"
    )
    cpu.add_arguments(parser)
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}, Python"
        f" {sys.version.split()[0]}\n",
        flush=True,
    )
    return on_each_database(measure, options)


class WebHouse(House):
    """The house of the chaos harness with the limits of a real one, and a trainer that prints the
    time."""

    def environment(self, host: str, role: str = "harness") -> dict[str, str]:
        environment = super().environment(host, role)
        environment["TUNIX_COMMAND"] = shlex.join([sys.executable, "-I", "-S", str(TICKER)])
        for name in (
            "TUNIXRT_WEB_THREADS",
            "TUNIX_SYNC_TIMEOUT_SECONDS",
            "TUNIX_HOST_SILENT_SECONDS",
            "TUNIX_HOST_LOST_SECONDS",
        ):
            del environment[name]
        return environment


def measure(database: str, options: argparse.Namespace) -> None:
    cpu.measure(database, options.cpu_rows, options)
    with web_house(database) as built:
        built.open()
        from benchmarks.web import large_run, lists  # noqa: PLC0415 - their models need the settings that open() has made

        make_datasets(built)
        rows = 0
        table: dict[str, list[str]] = {}
        for wanted in sorted(options.rows):
            fill(wanted - rows)
            rows = wanted
            for name, figures in lists.measure_lists(built, rows, options.seconds).items():
                table.setdefault(name, []).append(figures)
        heads = [f"{rows:,} runs" for rows in sorted(options.rows)]
        print(
            f"### {database}\n\n| milliseconds p50 / p95 / p99 | {' | '.join(heads)}"
            f" |\n|{' --- |' * (len(heads) + 1)}"
        )
        for name, cells in table.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print("\n| what | figure |\n| --- | --- |")
        for name, figure in (large_run.measure_large_run(built) | measure_live(built)).items():
            print(f"| {name} | {figure} |", flush=True)
        print(f"\nLoad average at the end {os.getloadavg()[0]:.1f}\n", flush=True)


@contextmanager
def web_house(database: str) -> Iterator[WebHouse]:
    built = WebHouse(database, 2, Path(tempfile.mkdtemp(prefix="tunixrt-web-")))
    built.hosts = ["alpha"]
    try:
        yield built
        built.close()
    finally:
        built.remove()


if __name__ == "__main__":
    sys.exit(main())
