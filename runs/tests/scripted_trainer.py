"""A training program that does what its script says and speaks the real file protocol
(docs/run-folder.md).

    python scripted_trainer.py '[["say", "hello"], ["steps", 3, 0.01], ["exit", 0]]'

Each item names a function below and its arguments. Standard library only, so that a test costs
milliseconds and not a model. Its working folder is the run folder. Without a ``leave`` it ends with
code 0. A folder in place of the script holds one script for each seed, ``<seed>.json``: so runs of
one server differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

received: list[int] = []


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def complain(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def write(stream: int, data: str) -> None:
    """Raw bytes, given in hex."""
    os.write(stream, bytes.fromhex(data))


def flood(megabytes: int) -> None:
    """Lines of 64 bytes, as fast as the disk takes them; a full disk ends the program with code
    15."""
    block = b"".join(b"%062d\n\n" % number for number in range(16384))
    try:
        for _ in range(megabytes):
            left = block
            while left:
                left = left[os.write(1, left) :]
    except OSError as error:
        leave(15, f"tunix: storage: {error.strerror}")


def touch(name: str) -> None:
    """A file that holds this process's pid, there at once and whole."""
    with open(f"{name}.{os.getpid()}", "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, name)


def put(name: str, text: str) -> None:
    """A file with this content, its folder made."""
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)


def report(name: str) -> None:
    """What this process was given: session, group, parent, environment, open files, signals, and
    what keeper.json said then."""
    with open("/proc/self/status", encoding="ascii") as file:
        signals = dict(line.split() for line in file if line.startswith(("SigBlk", "SigIgn")))
    with open("keeper.json", encoding="utf-8") as file:
        keeper = json.load(file)
    links = {int(entry): link(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd")}
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "cwd": os.getcwd(),
        "run_id": os.environ.get("TUNIXRT_RUN_ID"),
        "environment": dict(os.environ),
        "files": {number: target for number, target in links.items() if target is not None},
        "signals": signals,
        "keeper": keeper,
    }
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.rename(name + ".new", name)


def link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None  # the one that listed them


def checkpoint(*steps: int) -> None:
    """Leave what the real training program has saved after these steps; without steps, what it
    leaves before it first saves."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from runs.tests.checkpoint_layout import (  # noqa: PLC0415 - the path is not there before
        leave_checkpoints,
        read_sections,
    )

    folder = pathlib.Path.cwd()
    manifest = read_sections(folder / "manifest.yaml")
    leave_checkpoints(
        folder, *steps, model_id=manifest["model"]["id"], training=manifest["training"]
    )


def answer(scores: dict, options: dict | None = None) -> None:
    """Answer the questions of an evaluation (runs/tests/item_layout.py)."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from runs.tests.item_layout import leave_items  # noqa: PLC0415 - the path is not there before

    leave_items(pathlib.Path.cwd(), scores, **(options or {}))


def steps(count: int, seconds: float) -> None:
    """Train: a metrics line a step; stop.json and SIGTERM are obeyed between steps, with code 17,
    as the real trainer does."""
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    for step in range(1, count + 1):
        if os.path.exists("stop.json") or received:
            touch("saved")
            leave(17, "tunix: interrupted: stopped by request after saving a checkpoint.")
        line = {
            "time": time.time(),
            "step": step,
            "epoch": step / count,
            "values": {"loss": 1.0 / step},
        }
        # on a full disk this trainer goes on, to be stopped
        with contextlib.suppress(OSError), open("metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(seconds)


def plan(total_steps: int) -> None:
    """The first line of the metrics: what the training will be."""
    with open("metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "plan": {"total_steps": total_steps}}) + "\n")


def measure(step: int, values: dict[str, float], at: float | None = None) -> None:
    """One line of the metrics, measured now or ``at``."""
    with open("metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(
            json.dumps(
                {
                    "time": time.time() if at is None else at,
                    "step": step,
                    "epoch": step / 10,
                    "values": values,
                }
            )
            + "\n"
        )


def wait(name: str, obeys: bool = True) -> None:
    """Until a file of this name is in the run folder; a stop meanwhile is obeyed with code 17, as
    the real trainer does, or not seen at all."""
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    while not os.path.exists(name):
        if obeys and (os.path.exists("stop.json") or received):
            leave(17, "tunix: interrupted: stopped by request after saving a checkpoint.")
        time.sleep(0.01)


def save_on_term(seconds: float) -> None:
    """Ignore stop.json; on the first SIGTERM save for so long; a second SIGTERM meanwhile spoils
    it."""
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    touch("ready")
    while not received:
        time.sleep(0.01)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    touch("saved" if len(received) == 1 else "spoiled")
    leave(17, "tunix: interrupted: SIGTERM; checkpoint saved.")


def ignore(name: str) -> None:
    signal.signal(getattr(signal, name), signal.SIG_IGN)


def child(name: str, seconds: float, *options: str) -> None:
    """Leave a child that sleeps; it is ready once the file ``name`` holds its pid. Options:
    ``session`` (its own), ``stubborn`` (ignores SIGTERM), ``nameless`` (no environment), ``talks``
    (when SIGTERM ends it), ``brief`` (ends with its parent)."""
    if os.fork():
        while not os.path.exists(name):
            time.sleep(0.005)
        return
    if "session" in options:
        os.setsid()
    if "stubborn" in options:
        ignore("SIGTERM")
    if "talks" in options:
        signal.signal(signal.SIGTERM, lambda number, frame: leave(0, "the child got SIGTERM"))
    if "nameless" in options:
        os.execve(
            sys.executable,
            [
                sys.executable,
                "-I",
                "-S",
                __file__,
                json.dumps([["touch", name], ["sleep", seconds]]),
            ],
            {},
        )
    parent = os.getppid()
    touch(name)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not ("brief" in options and os.getppid() != parent):
        time.sleep(0.01)
    os._exit(0)


def fork_away(seconds: float) -> None:
    """The program itself ends with code 0, its work goes on in a child with a session of its
    own."""
    if os.fork():
        while not os.path.exists("forked"):
            time.sleep(0.005)
        os._exit(0)
    os.setsid()
    touch("forked")
    time.sleep(seconds)


def stop_self() -> None:
    touch("stopping")
    os.kill(os.getpid(), signal.SIGSTOP)


def close_output() -> None:
    os.close(1)
    os.close(2)


def spoil_metrics() -> None:
    """Everything that is no measurement: half a line of JSON, other types, other shapes, NUL, a
    line that never ends."""
    with open("metrics.jsonl", "ab") as file:
        file.write(
            b'{"step": 1, "values": {"lo\n[1, 2]\nnull\n{"step": "one"}\n{"step": -1, "values":'
            b' {"loss": 1}}\n'
        )
        file.write(
            b'{"step": 1, "values": {"a\\u0000": 1, "loss": "much"}}\n\xff\xfe\x00\n'
            + b"9" * 200_000
            + b"\n"
        )


def spoil(name: str) -> None:
    """Put a folder where a file was."""
    os.unlink(name)
    os.mkdir(name)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int, last_word: str = "") -> None:
    if last_word:
        with contextlib.suppress(OSError):  # the disk is full; the exit code is left
            complain(last_word)
    os._exit(code)


def read_script(given: str) -> list[list]:
    """The script itself, or the one that its folder holds for the seed of the manifest; without one
    nothing is to be done."""
    if given.startswith("["):
        return json.loads(given)
    with open("manifest.yaml", encoding="utf-8") as file:
        seed = next(line.split(":")[1].strip() for line in file if line.startswith("  seed:"))
    try:
        with open(os.path.join(given, f"{seed}.json"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return []


def main(script: list[list]) -> None:
    actions = {function.__name__: function for function in ACTIONS}
    for name, *arguments in script:
        actions[name](*arguments)


ACTIONS = (
    say, complain, write, flood, touch, put, checkpoint, answer, report, steps, plan, measure, wait,
    save_on_term, ignore, child, fork_away, stop_self, close_output, sleep, kill_self, leave, spoil,
    spoil_metrics,
)  # fmt: skip

if __name__ == "__main__":
    if sys.argv[-1] == "--version":
        print("scripted 1.0")
        sys.exit()
    main(read_script(sys.argv[1]))
