"""The training command of the chaos runs: speaks the real file protocol, does what a plan says, and keeps a journal.

    python -I -S trainer.py <workshop> train --config manifest.yaml

The plan is found by the seed in the manifest: ``<workshop>/plans/<seed>.json``. The journal, ``<workshop>/journal/<run id>``,
lies outside the run folder, so nothing that happens to the folder can change it: ``start <pid> <time>`` at each real start,
``wrote <bytes of stdout so far>`` after each write, ``end <code> <time>`` right before the end. What a run writes to stdout
follows from its plan alone (``output``), so that the harness can compare it byte for byte. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time

CHUNK = 512  # bytes of stdout a step, about


def output(seed: int, step: int, kind: str) -> bytes:
    """What step ``step`` writes to stdout: text, or bytes that are no UTF-8 (halves of characters and NUL among them)."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    if kind == "binary":
        return digest * (CHUNK // 32)
    if kind == "one line":
        return digest.hex().encode() * (CHUNK // 64)
    return f"step {step} {digest.hex()} grüße\n".encode() * (CHUNK // 80)


def whole_output(plan: dict) -> bytes:
    """All that a run of this plan writes if nothing ends it."""
    return b"".join(output(plan["seed"], step, plan["output"]) for step in range(1, plan["steps"] + 1))


class Trainer:
    def __init__(self, workshop: str):
        with open("manifest.yaml", encoding="utf-8") as file:
            lines = file.read().splitlines()
        seed = next(line.split(":")[1].strip() for line in lines if line.strip().startswith("seed:"))
        with open(f"{workshop}/plans/{seed}.json", encoding="utf-8") as file:
            self.plan = json.load(file)
        path = f"{workshop}/journal/{os.environ['TUNIXRT_RUN_ID']}"
        self.journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.written = 0
        self.told_to_stop = False
        self.note(f"start {os.getpid()} {time.time()}")

    def note(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode())

    def end(self, code: int, last_word: str = "") -> None:
        if last_word:
            try:
                os.write(2, f"{last_word}\n".encode())
            except OSError:
                pass  # the disk is full; the code is left
        self.note(f"end {code} {time.time()}")
        os._exit(code)

    def say(self, data: bytes) -> None:
        try:
            while data:
                count = os.write(1, data)
                data = data[count:]
                self.written += count
                self.note(f"wrote {self.written}")
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")

    def measure(self, step: int) -> None:
        line = {"time": time.time(), "step": step, "epoch": step / self.plan["steps"], "values": {"loss": 1.0 / step}}
        try:
            with open("metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                if self.plan["kind"] == "broken":
                    file.write('{"step": 1, "values": {"lo\n{"step": "x"}\n[1]\n{"step":2,"values":{"a\\u0000b":1}}\n')
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")

    def child(self) -> None:
        """A descendant that outlives us, in a session of its own for odd seeds."""
        if os.fork() == 0:
            if self.plan["seed"] % 2:
                os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
            os._exit(0)

    def train(self) -> None:
        plan = self.plan
        kind = plan["kind"]
        if kind == "real":
            os.execv(plan["command"][0], [*plan["command"], "train", "--config", "manifest.yaml"])
        if kind == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "told_to_stop", True))
        if kind == "family":
            self.child()
        for step in range(1, plan["steps"] + 1):
            if kind != "stubborn" and (self.told_to_stop or os.path.exists("stop.json")):
                self.save()
                self.end(17, "tunix: interrupted: stopped by request after saving a checkpoint.")
            self.say(output(plan["seed"], step, plan["output"]))
            self.measure(step)
            time.sleep(plan["pause"])
        if kind == "signal":
            self.note(f"end -{plan['code']} {time.time()}")
            os.kill(os.getpid(), plan["code"])
        if plan["code"]:
            self.end(plan["code"], f"tunix: scripted: ends with {plan['code']}.")
        self.save()
        self.result()
        self.end(0)

    def save(self) -> None:
        try:
            os.makedirs("checkpoints/1", exist_ok=True)
            with open("checkpoints/1/weights", "w", encoding="utf-8") as file:
                file.write("learnt")
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")

    def result(self) -> None:
        text = json.dumps(
            {"loss_first": 1.0, "loss_last": 1.0 / max(1, self.plan["steps"]), "steps": self.plan["steps"], "samples": []}
        )
        if self.plan["kind"] == "broken":  # what an untrained model may well say
            text = '{"samples": [{"prompt": "a\\u0000b", "after": "\\ud800"}]}'
        try:
            with open("result.json.new", "w", encoding="utf-8") as file:
                file.write(text)
            os.rename("result.json.new", "result.json")
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")


if __name__ == "__main__":
    if sys.argv[-1] == "--version":
        print("chaos 1.0")
        sys.exit()
    Trainer(sys.argv[1]).train()
