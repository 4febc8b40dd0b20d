"""Scores outputs in a process with limits, for runs/trainer/evaluation/scoring.py.

Started as ``[python, "-I", ".../scorer_program.py", SECONDS, MEMORY]``: seconds for one score, and
bytes. The system ends this process when an item takes longer, whatever it is doing.

stdin: a line of JSON with the scorers, then a line for each score to make (``[scorer, item]``).
stdout: a line of JSON for each, ``{"score"}`` or ``{"error"}``; the first says which scorers cannot
be made. What scorers print goes to stderr.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
STARTING_SECONDS = 120  # libraries are imported
FILE_BYTES = 2**20  # libraries look for a folder for temporary files by writing one


def main(seconds: float, memory: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, STARTING_SECONDS)

    from runs.trainer.evaluation.scorers import make_scorer  # noqa: PLC0415 - within the limits
    from runs.trainer.evaluation.scorers.item import CannotScore, Item  # noqa: PLC0415

    def say(answer: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    scorers, problems = [], {}
    for number, (name, parameters) in enumerate(json.loads(sys.stdin.buffer.readline())):
        try:
            scorers.append(make_scorer(name, parameters))
        except CannotScore as error:
            problems[number] = str(error)
    say(problems)
    if problems:
        return
    for line in sys.stdin.buffer:
        number, item = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            score = float(scorers[number](Item(**item)))
        except CannotScore as error:
            say({"error": str(error)})
        except MemoryError:
            say({"error": f"needs more than {memory // 2**20:,} MiB of memory"})
        except Exception as error:  # noqa: BLE001 - libraries raise what they like
            say({"error": f"{type(error).__name__}: {error}"[:500]})
        else:
            valid = math.isfinite(score) and 0 <= score <= 1
            say({"score": score} if valid else {"error": f"gave {score}, not a number from 0 to 1"})


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # libraries leave threads behind
