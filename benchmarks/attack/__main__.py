"""python -m benchmarks.attack [--seconds 120] [--database sqlite|postgresql] …      (make attack)

Ends with code 0 only if nothing is wrong; 1 if something is. docs/reliability.md tells what is
attacked and what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from benchmarks.attack.attackers import DATASET as EXPORTED
from benchmarks.attack.attackers import Attackers, Plan, Totals
from benchmarks.attack.honest import (
    DATASET,
    PATHS,
    Findings,
    HonestClient,
    Sample,
    ask,
    make_dataset,
    upload,
)
from benchmarks.attack.receivers import KINDS
from benchmarks.attack.system import LONG_SEED, UPLOAD_MAX_BYTES, State, System, attacked
from benchmarks.chaos.figures import quantile

STREAMS_PER_ACCOUNT = 40  # a fifth of TUNIXRT_MAX_STREAMS
# the only answers of 500 and more that attackers may get: all is taken (docs/api.md)
REFUSALS = {"503"}
SPOOLED_MAX = 8 * UPLOAD_MAX_BYTES + 20 * (5 << 20)  # the uploads at once, and some other bodies
# What Python's arenas, the database caches of the places and modules of the first use may take
# permanently, of all processes.
ALLOWED_GROWTH = 208 << 20
ALLOWED_DESCRIPTORS = 12  # database connections of further threads, with what belongs to them
SETTLE_SECONDS = 60.0
EXPORT_LINES, EXPORT_LINE_CHARACTERS = 3_000, 4_000


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack",
        description="Attack the system; measure an honest user.",
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of the attack; default: 120")
    parser.add_argument(
        "--quiet-seconds",
        type=float,
        default=None,
        help="before it; default: a quarter of it, 10 at least",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=1_000,
        help="idle ones and ones with half a head; default: 1,000",
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=1, help="web workers; default: 1")
    parser.add_argument(
        "--real",
        action="store_true",
        help="the honest training is one of the runtime, not a script",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ATTACK",
        help="these attacks, to find what a problem comes from",
    )
    parser.add_argument("--log", metavar="FILE", help="keep the log of the system here")
    arguments = parser.parse_args()
    quiet = (
        max(10.0, arguments.seconds / 4)
        if arguments.quiet_seconds is None
        else arguments.quiet_seconds
    )
    with attacked(arguments.database, real=arguments.real, workers=arguments.workers) as system:
        try:
            return _attack(system, arguments, quiet)
        finally:
            if arguments.log:
                with open(arguments.log, "w", encoding="utf-8") as file:
                    file.write(system.log)


def _attack(system: System, arguments: argparse.Namespace, quiet: float) -> int:
    loads = {"before": os.getloadavg()[0]}
    plan = _prepare(system, arguments)
    honest = HonestClient(system.port, system.tokens["honest"])
    began = time.monotonic()
    time.sleep(quiet)
    before, memory_before = system.state(), system.memory_by_process()
    loads["quiet"] = os.getloadavg()[0]
    attacked = time.monotonic()
    print(f"attack: {quiet:.0f} s quiet, now {arguments.seconds:g} s of attack", flush=True)
    attackers = Attackers(plan)
    honest.make_runs()
    states = []
    while time.monotonic() < attacked + arguments.seconds:
        time.sleep(2.0)
        states.append(system.state())
    during = states[-1]
    totals = attackers.finish()
    over = time.monotonic()
    loads["attack"] = os.getloadavg()[0]
    findings = honest.finish()
    ask(system.port, system.tokens["trudy"], "POST", f"/api/tunix/runs/{plan.long_run}/cancel")
    problems = [
        *_problems_of_honest(findings),
        *_problems_of_attackers(totals, arguments.only),
        *_problems_left(system, before),
    ]
    if (spooled := max(state.spooled for state in states)) > SPOOLED_MAX:
        problems.append(
            f"bodies took {spooled / 1e6:,.0f} MB of disk at once; {SPOOLED_MAX / 1e6:,.0f} MB are"
            " the limits together"
        )
    after = system.state()
    calm = [sample for sample in findings.samples if began <= sample.due < attacked]
    beside = [sample for sample in findings.samples if attacked <= sample.due < over]
    figures = {
        "database": arguments.database,
        "seconds": {"quiet": round(quiet), "attack": round(over - attacked)},
        "load average": {name: round(load, 1) for name, load in loads.items()},
        "runs": findings.runs,
        "answers": {
            name: dict(sorted(counted.items())) for name, counted in sorted(totals.answers.items())
        },
        "webhooks": dict(sorted(totals.webhooks.items())),
        "streams of one account": totals.most_streams,
        "connections": {
            "before": before.connections,
            "attack": during.connections,
            "after": after.connections,
        },
        "descriptors": {
            "before": before.descriptors,
            "attack": during.descriptors,
            "after": after.descriptors,
        },
        "bodies on disk, MB at most": round(spooled / 1e6),
        "PSS, MB": {
            name: round(state.pss / 1e6)
            for name, state in (("before", before), ("attack", during), ("after", after))
        },
        "PSS by process (of it no file), MB": {
            name: " → ".join(
                f"{size / 1e6:.0f} ({own / 1e6:.0f})"
                for size, own in (memory_before.get(name, (0, 0)), now)
            )
            for name, now in system.memory_by_process().items()
            if now[0] > 20e6
        },
    }
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    for problem in problems:
        print(f"[problem] {problem}")
    for path in PATHS:
        print(_row(arguments, path, calm, beside, figures["load average"]))
    print(f"attack: {'HELD' if not problems else f'{len(problems)} PROBLEMS'}", flush=True)
    return 1 if problems else 0


def _prepare(system: System, arguments: argparse.Namespace) -> Plan:
    """Prepare datasets to train on and to export, an ended run, and one that stays active."""
    port, tokens = system.port, system.tokens
    make_dataset(port, tokens["honest"], DATASET)
    line = json.dumps({"prompt": "p" * EXPORT_LINE_CHARACTERS, "completion": "c"})
    name, version = EXPORTED.rsplit("-", 1)
    lines = "\n".join(line.replace("p" * 8, f"{number:08d}", 1) for number in range(EXPORT_LINES))
    upload(port, tokens["honest"], name, version, lines.encode())
    body = {"dataset_key": DATASET, "model_id": "preset:tiny-llama", "num_epochs": 1}
    own = ask(port, tokens["mallory"], "POST", "/api/tunix/run", body)["run_id"]
    long = ask(
        port,
        tokens["trudy"],
        "POST",
        "/api/tunix/run?mode=async",
        body | {"dry_run": False, "seed": LONG_SEED},
    )["run_id"]
    return Plan(
        port,
        tokens,
        long_run=long,
        own_run=own,
        connections=arguments.connections,
        only=tuple(arguments.only),
    )


def _problems_of_honest(findings: Findings) -> list[str]:
    bad = [sample for sample in findings.samples if sample.problem]
    problems = [f"the honest client: {sample.path} {sample.problem}" for sample in bad[:10]]
    if len(bad) > 10:
        problems.append(f"… and {len(bad) - 10} more like it")
    if len(findings.runs) != 2:
        problems.append(f"of the two honest runs there are {findings.runs}")
    return problems + findings.problems


def _problems_of_attackers(totals: Totals, only: Sequence[str]) -> list[str]:
    problems = list(totals.problems)
    for name, counted in totals.answers.items():
        for status, count in counted.items():
            if status.isdigit() and int(status) >= 500 and status not in REFUSALS:
                problems.append(f"{name} was answered {status} {count} times")
        if counted["silent"]:
            problems.append(f"{name} had no answer {counted['silent']} times")
    if totals.trapped:
        problems.append(f"a webhook followed a redirect {totals.trapped} times")
    if totals.most_streams > STREAMS_PER_ACCOUNT:
        problems.append(
            f"one account had {totals.most_streams} live streams at once; {STREAMS_PER_ACCOUNT} are"
            " its share"
        )
    if missing := [
        kind for kind in KINDS if not totals.webhooks[kind] and (not only or "webhook" in only)
    ]:
        problems.append(
            f"no webhook was sent to a receiver of {', '.join(missing)}: that was no attack"
        )
    return problems


def _problems_left(system: System, before: State) -> list[str]:
    """Wait until what the attack took is given back, at most SETTLE_SECONDS."""
    give_up = time.monotonic() + SETTLE_SECONDS
    while problems := _left(before, system.state()):
        if time.monotonic() > give_up:
            break
        time.sleep(1.0)
    traceback = "Traceback (most recent call last)"
    if traceback in (log := system.log):
        problems.append(f"the log has a traceback:\n{log[log.index(traceback) :][:3000]}")
    return problems


def _left(before: State, now: State) -> list[str]:
    problems = []
    if (growth := now.pss - before.pss) > ALLOWED_GROWTH:
        problems.append(
            f"memory has grown by {growth / 1e6:.0f} MB; {ALLOWED_GROWTH / 1e6:.0f} MB are allowed"
        )
    if now.descriptors > before.descriptors + ALLOWED_DESCRIPTORS:
        problems.append(
            f"the web server has {now.descriptors} descriptors open; {before.descriptors} before"
        )
    if now.connections:
        problems.append(f"{now.connections} connections are left")
    if left := sorted(set(now.files) - set(before.files)):
        problems.append(f"files are left in the temporary folder: {', '.join(left[:5])}")
    return problems


def _row(
    arguments: argparse.Namespace,
    path: str,
    calm: Sequence[Sample],
    beside: Sequence[Sample],
    load: dict[str, float],
) -> str:
    """Return a row of the table in docs/reliability.md."""

    def spread(samples: Sequence[Sample]) -> str:
        took = [sample.milliseconds for sample in samples if sample.path == path]
        if not took:
            return "–"
        return f"{quantile(took, 0.5):,.0f} / {quantile(took, 0.99):,.0f} / {max(took):,.0f}"

    loads = f"{load['before']} / {load['quiet']} / {load['attack']}"
    workers = f", {arguments.workers} workers" if arguments.workers > 1 else ""
    return (
        f"| `{path}` | {arguments.database}{workers} | {arguments.seconds:g} s | {spread(calm)} |"
        f" {spread(beside)} | {loads} |"
    )


if __name__ == "__main__":
    sys.exit(main())
