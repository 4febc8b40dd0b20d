"""python -m benchmarks.chaos [--database sqlite|postgresql] [--minutes 2] [--seed 1] …

Ends with code 0 only if everything is proved; 1 if something is wrong, 2 if the harness could not
do its work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

from benchmarks.chaos.figures import chaos_figures
from benchmarks.chaos.house import House, Trouble, ask, house
from benchmarks.chaos.load import Load, make_datasets
from benchmarks.chaos.monkey import Monkey
from benchmarks.chaos.proof import Proof, unsettled
from benchmarks.chaos.sweeper import Sweeper

SETTLE_SECONDS = 120.0
REAL_SECONDS = 240.0  # more where true trainings may be retried at the end


def main() -> int:
    arguments = _arguments()
    try:
        with house(arguments.database, arguments.slots, arguments.disk) as built:
            try:
                return _torment(built, arguments)
            finally:
                if arguments.log:
                    _keep_logs(built, arguments.log)
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Kill everything there is; prove that nothing is lost.",
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--minutes",
        type=float,
        default=2.0,
        help="coming up included; settling and proof take 10 to 30 s more",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument(
        "--runs", type=int, default=None, help="submissions at most (default: 225 a minute)"
    )
    parser.add_argument("--slots", type=int, default=5, help="trainings at once on a host")
    parser.add_argument("--pace", type=float, default=4.0, help="deeds a second, on average")
    parser.add_argument(
        "--real", type=int, default=0, help="so many of the runs are true trainings"
    )
    parser.add_argument(
        "--disk",
        type=int,
        default=None,
        metavar="MB",
        help="an output root on a disk this small, to be filled (needs root)",
    )
    parser.add_argument("--log", metavar="FOLDER", help="keep the logs of the programs here")
    return parser.parse_args()


def _torment(built: House, arguments: argparse.Namespace) -> int:
    called = time.monotonic()
    said = f"seed {arguments.seed}, {arguments.database}, {arguments.minutes:g} minutes"
    print(
        f"chaos: {said}; {len(built.hosts)} host(s) with {built.slots} slots each; {built.folder}",
        flush=True,
    )
    if arguments.disk and not built.small_disk:
        print("chaos: no disk can be mounted here, so none is filled")
    built.open()
    print(
        f"chaos: clock of {built.hosts[-1]} is off by {built.skew} s"
        if built.skew
        else "chaos: no clock is off",
        flush=True,
    )
    make_datasets(built)
    load = Load(
        built,
        arguments.seed,
        arguments.runs or int(arguments.minutes * 225) or 1,
        real=arguments.real,
    )
    monkey = Monkey(built, arguments.seed, arguments.pace)
    sweeper = Sweeper(built, load, monkey, arguments.seed)
    # a client of ours that breaks proves nothing any more
    broken: list[threading.ExceptHookArgs] = []
    threading.excepthook = broken.append
    began = time.monotonic()
    load.start()
    sweeper.start()
    # so that a session takes as long as was said; but where the programs need most of it to come
    # up, it is a session all the same
    monkey.run(max(arguments.minutes * 30, arguments.minutes * 60 - (began - called)))
    tormented = time.monotonic() - began
    print(f"chaos: over after {tormented:.0f} s, settling", flush=True)
    built.restore()
    load.stop()
    sweeper.stop()
    built.wait_until_up()
    if broken:
        raise Trouble(
            "".join(
                "".join(traceback.format_exception(one.exc_value))
                for one in broken
                if one.exc_value
            )
        )
    load.finish(60)
    settled = _settle(built, SETTLE_SECONDS + (REAL_SECONDS if arguments.real else 0))
    proof = ask(lambda: Proof(built, load, monkey, sweeper))
    violations = proof.check()
    stories = [proof.story(violation) for violation in violations]
    if open_ones := unsettled(load):
        stories.append(f"[answers] {len(open_ones)} clients never got an answer")
    stories += [f"[stop] {problem}" for problem in built.close()]
    figures: dict[str, Any] = {
        "seed": arguments.seed,
        "database": arguments.database,
        "seconds": round(time.monotonic() - called),
        "seconds of chaos": round(tormented),
        "load average": round(os.getloadavg()[0], 1),
        "runs": len(proof.runs),
        "by status": _count(run.status for run in proof.runs.values()),
        "by kind": _count(submission.kind for submission in load.submissions if submission.answers),
        "answers": load.codes,
        "deeds": monkey.by_kind(),
        "kills": sum(deed.kills for deed in monkey.deeds),
        "settled after, s": round(settled, 1),
        "not started at the first try": built.care_trouble,
        **chaos_figures(proof),
        "violations": len(stories),
    }
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    for story in stories:
        print(story)
    print(f"chaos: {'PROVED' if not stories else f'{len(stories)} VIOLATIONS'}; {said}", flush=True)
    return 1 if stories else 0


def _settle(built: House, seconds: float) -> float:
    """Wait until nothing is active; returns how long that took. What is still active then, the
    proof will name."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if ask(built.tables.count_active) == 0:
            break
        time.sleep(0.2)
    took = time.monotonic() - began
    time.sleep(1.0)  # keepers whose end is home let their locks go
    return took


def _count(words: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        found[str(word)] = found.get(str(word), 0) + 1
    return dict(sorted(found.items()))


def _keep_logs(built: House, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    for service in built.services.values():
        if not service.log.exists():
            continue
        with open(os.path.join(folder, service.log.name), "wb") as file:
            file.write(service.log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
