"""Several sessions in a row, as rows of the table in docs/reliability.md: ``python -m
benchmarks.chaos.record``.

The logs of each session's programs are kept in build/chaos/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from typing import Any

COLUMNS = (
    "seed", "database", "minutes", "load", "runs", "deeds", "kills", "violations",
    "retries: asked for + automatic, extensions", "from the run before + further back + scratch",
    "purged, refused", "killed → failed, all", "killed → failed, attendant and database up",
    "cancel → cancelled, all", "stored → training started", "stdout kept", "settled after",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.record", description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="of each session")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[101, 102, 103, 104],
        help="PostgreSQL and SQLite by turns",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=None,
        help="continue with the next seeds until so many are killed",
    )
    arguments, options = parser.parse_known_args()
    rows: list[str] = []
    kinds: dict[str, list[int]] = {}
    failed = 0
    more = itertools.count(max(arguments.seeds) + 1) if arguments.kills else iter(())
    for number, seed in enumerate(itertools.chain(arguments.seeds, more)):
        if arguments.kills and sum(kills for _, kills in kinds.values()) >= arguments.kills:
            break
        database = ("postgresql", "sqlite")[number % 2]
        command = [
            sys.executable,
            "-m",
            "benchmarks.chaos",
            "--database",
            database,
            "--seed",
            str(seed),
        ]
        command += ["--minutes", str(arguments.minutes), "--log", f"build/chaos/{seed}", *options]
        print("$ " + " ".join(["python", *command[1:]]), file=sys.stderr, flush=True)
        session = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        failed += session.returncode != 0
        start, end = session.stdout.find("{\n"), session.stdout.rfind("\n}")
        if start < 0 or session.returncode:
            print(session.stdout, file=sys.stderr)
        if start < 0:
            continue
        figures = json.loads(session.stdout[start : end + 2])
        rows.append(_row(figures, arguments.minutes))
        for kind, done in figures["deeds"].items():
            entry = kinds.setdefault(kind, [0, 0])
            entry[0] += done["times"]
            entry[1] += done["kills"]
        print(rows[-1], file=sys.stderr, flush=True)
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    print("\n".join(rows))
    print(
        f"\n{sum(kills for _, kills in kinds.values()):,} processes killed with SIGKILL. Deeds (and"
        " kills) by kind: ",
        end="",
    )
    print(
        ", ".join(
            f"{kind} {times} ({kills})"
            for kind, (times, kills) in sorted(kinds.items(), key=lambda item: -item[1][1])
        )
    )
    return 1 if failed else 0


def _row(figures: dict[str, Any], minutes: float) -> str:
    retries: dict[str, int] = figures["retries"]
    killed, cancelled = (
        figures["keeper or trainer killed → failed in the table, s"],
        figures["cancel → cancelled, s"],
    )
    cells = [
        figures["seed"],
        figures["database"],
        f"{minutes:g}",
        figures["load average"],
        figures["runs"],
        sum(done["times"] for done in figures["deeds"].values()),
        figures["kills"],
        figures["violations"],
        _counts(retries, " + ", "asked for", "automatic") + f", {retries.get('extensions', 0)}",
        _counts(retries, " + ", "from the run before", "from a run further back", "from scratch"),
        _counts(retries, ", ", "runs purged", "removals refused"),
        _spread(killed["all"]),
        _spread(killed["attendant and database up"]),
        _spread(cancelled["all"]),
        _spread(figures["stored → training process started, waiting for a slot included, s"]),
        figures["stdout kept"],
        f"{figures['settled after, s']} s",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _counts(found: dict[str, int], between: str, *names: str) -> str:
    return between.join(str(found.get(name, 0)) for name in names)


def _spread(value: dict[str, Any] | None) -> str:
    return "–" if value is None else f"{value['p50']:.2f} / {value['p95']:.2f} s ({value['count']})"


if __name__ == "__main__":
    sys.exit(main())
