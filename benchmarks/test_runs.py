"""Run parts of ``make test`` again and again in random order, beside busy loops if asked for:
``make test-long``.

    python -m benchmarks.test_runs --part core --runs 2 --jobs 4 --busy 2 --seed 7

Prints a row for the record in docs/testing.md after each run and keeps what pytest said in
build/test-long/. The first run has the seed that is given, or one that is drawn; each further one
has the next number. Ends with 1 if a run failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test-long"
PYTEST = ["-m", "pytest", "-q"]
TRAINER = ["-I", "-m", "pytest", "-c", "runs/trainer/tests/pytest.ini", "runs/trainer/tests"]
PARTS = {
    "core": [".venv-core/bin/python", *PYTEST, "-m", "not tunix"],
    "postgresql": [
        ".venv-core/bin/python",
        *PYTEST,
        "-m",
        "not tunix and not browser",
        "--database=postgresql",
    ],
    "runtime": [".venv/bin/python", *PYTEST, "-m", "tunix", "--database=postgresql"],
    "trainer": [".venv/bin/python", *TRAINER],
}
HEADER = (
    "| part | seed | processes | busy loops per core | result | seconds | commit"
    " |\n|---|---|---|---|---|---|---|"
)
# Ends with its parent, so that no loop outlives a killed session.
BUSY_LOOP = (
    "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6):"
    " pass"
)


@contextlib.contextmanager
def busy_loops(per_core: int) -> Iterator[None]:
    """Keep every core busy with so many loops meanwhile."""
    loops = [
        subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
        for _ in range(per_core * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def commit() -> str:
    """Return the short name of the commit, with a ``+`` if files differ from it."""
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return name.strip() + ("+" if changed else "")


def run_once(part: str, *, seed: int, jobs: int, busy: int, more: list[str]) -> bool:
    """Run ``part`` once and print its row; whether it passed."""
    log = LOGS / f"{part}-{seed}.txt"
    options = ["-n", str(jobs), "-p", "no:cacheprovider", f"--randomly-seed={seed}", *more]
    began, name = time.monotonic(), commit()
    with busy_loops(busy), log.open("wb") as output:
        code = subprocess.run(
            [*PARTS[part], *options], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = time.monotonic() - began
    counts = re.findall(
        r"\b\d+ (?:passed|failed|errors?|skipped)\b", log.read_text(errors="replace")[-500:]
    )
    result = ", ".join(counts) or f"exit code {code}"
    print(
        f"| {part} | {seed} | {max(jobs, 1)} | {busy} | {result} | {seconds:.0f} | {name} |",
        flush=True,
    )
    if code != 0:
        print(f"\nFailed with code {code}: {log.relative_to(ROOT)}\n", flush=True)
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        default="core",
        help=f"what to run, separated by commas: {', '.join(PARTS)} (default: core)",
    )
    parser.add_argument("--runs", type=int, default=1, help="how often (default: 1)")
    parser.add_argument(
        "--jobs", type=int, default=4, help="test processes; 0: in pytest's own (default: 4)"
    )
    parser.add_argument("--busy", type=int, default=0, help="busy loops per core (default: 0)")
    parser.add_argument("--seed", type=int, help="of the first run (default: drawn)")
    parser.add_argument("more", nargs="*", help="further options of pytest, behind --")
    options = parser.parse_args()
    parts = options.part.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part: {', '.join(unknown)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    first = random.randrange(2**31) if options.seed is None else options.seed
    print(HEADER, flush=True)
    passed = [
        run_once(part, seed=seed, jobs=options.jobs, busy=options.busy, more=options.more)
        for seed in range(first, first + options.runs)
        for part in parts
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
