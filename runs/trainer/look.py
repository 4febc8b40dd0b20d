"""Shows examples as the model will see them, for the server's pages.

Started as ``[python, "-I", ".../runs/trainer/look.py", CPU, WALL, MEMORY]`` (seconds, seconds,
bytes). Templates and tokenizers are other people's: a template can loop or take all memory. So this
program limits itself before it reads anything: the system ends it at the limits, whatever it is
doing.

stdin: a line of JSON with what to do (``main`` reads it), then lines in a training format. stdout:
lines of JSON, of which the last counts; ``{"error", "reason"}`` where nothing can be shown.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


def limit(*, cpu: int, wall: int, memory: int) -> None:
    """Make the system end this process at its limits, and keep it from writing files."""
    for what, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(wall)


def main() -> None:
    from runs.trainer.data import view  # noqa: PLC0415 - after the limits are set
    from runs.trainer.errors import TrainerError  # noqa: PLC0415

    task: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    folder = task["folder"]
    try:
        tokenizer = view.open_tokenizer(
            None if folder is None else Path(folder), prompt_style=task["prompt_style"]
        )
        if task["do"] == "lengths":
            for counted in view.count_lengths(
                tokenizer,
                sys.stdin.buffer,
                max_length=task["max_length"],
                seconds=task["seconds"],
            ):
                say(counted)
        else:
            cut = view.Cut(task["max_length"], task["too_long"])
            raw = sys.stdin.buffer.readline()
            asked = {name: task[name] for name in ("row", "start", "count")}
            say(view.view_example(tokenizer, raw, cut=cut, **asked))
    except TrainerError as error:
        say({"error": str(error), "reason": error.kind})
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise what they like for damaged files
        say({"error": f"{type(error).__name__}: {error}", "reason": "unexpected"})


def say(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    cpu, wall, memory = map(int, sys.argv[1:4])
    limit(cpu=cpu, wall=wall, memory=memory)
    try:
        main()
    except MemoryError:
        os.write(sys.stdout.fileno(), b'{"error": "", "reason": "memory"}\n')
    os._exit(0)  # libraries leave threads behind
