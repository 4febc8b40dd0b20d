"""The training command of the chaos runs: speaks the real file protocol, does what a plan says, and
keeps a journal.

    python -I -S trainer.py <workshop> train --config manifest.yaml

The plan is found by the seed in the manifest: ``<workshop>/plans/<seed>.json``. The journal,
``<workshop>/journal/<run id>``, lies outside the run folder, so nothing that happens to the folder
can change it:

* ``start <pid> <time>`` at each real start;
* ``begin <step> <folder or -> <time>`` once it knows the step and the checkpoints it resumes from
  (0 and ``-``: from scratch);
* ``wrote <bytes of stdout so far>`` after each write;
* ``saving <step>`` before a checkpoint gets its name, ``saved <step>`` afterwards;
* ``end <code> <time>`` right before the end.

What a run writes to stdout follows from its plan and the step it begins at (``output``), so that
the harness can compare it byte for byte. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

STARTED = time.time()  # before what takes longer to import
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runs.runfolder.checkpoints import (  # noqa: E402
    complete_steps,
    first_difference,
    make_identity,
    read_identity,
)
from runs.tests import checkpoint_layout as layout  # noqa: E402

FOLDER = Path()  # the run's: where this program is started
CHECKPOINTS = FOLDER / "checkpoints"
KEPT = 2  # checkpoints of a run
CHUNK = 512  # bytes of stdout a step, about


def output(seed: int, step: int, kind: str) -> bytes:
    """Return what step ``step`` writes to stdout: text, or bytes that are not UTF-8 (halves of
    characters and NUL among them)."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    if kind == "binary":
        return digest * (CHUNK // 32)
    if kind == "one line":
        return digest.hex().encode() * (CHUNK // 64)
    return f"step {step} {digest.hex()} grüße\n".encode() * (CHUNK // 80)


def whole_output(plan: dict, begun: int = 0, last: int | None = None) -> bytes:
    """Return all that a run of this plan writes after step ``begun`` if nothing ends it before step
    ``last``."""
    end = plan["steps"] if last is None else last
    return b"".join(
        output(plan["seed"], step, plan["output"]) for step in range(begun + 1, end + 1)
    )


def last_step(plan: dict, run_id: str, begun: int) -> int:
    """Return the step at which a run ends by itself. One of a relay fails after its leg, before it
    saves again, and leaves the rest to its retries; half of them fail at their first step, before
    they have saved anything."""
    if plan["kind"] != "relay":
        return max(begun, plan["steps"])
    leg = 1 if int(run_id[:4], 16) % 2 == 0 else plan["leg"]
    return min(plan["steps"], begun + leg)


def extended(plan: dict, extend_from_step: int | None, max_steps: int | None) -> dict:
    """Return the plan of a run, which for an extension adds ``max_steps`` to the step that it
    extends."""
    return (
        plan if extend_from_step is None else plan | {"steps": extend_from_step + (max_steps or 0)}
    )


class Trainer:
    def __init__(self, workshop: str):
        manifest = layout.read_sections(FOLDER / "manifest.yaml")
        self.training = {"model_id": manifest["model"]["id"], "training": manifest["training"]}
        self.source = manifest[""]["resume_from"]
        seed = manifest["training"]["seed"]
        self.run_id = os.environ["TUNIXRT_RUN_ID"]
        with open(f"{workshop}/plans/{seed}.json", encoding="utf-8") as file:
            self.extend_from_step = manifest[""].get("extend_from_step")
            self.plan = extended(
                json.load(file), self.extend_from_step, manifest["training"]["max_steps"]
            )
        path = f"{workshop}/journal/{self.run_id}"
        self.journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.written = 0
        self.told_to_stop = False
        self.note(f"start {os.getpid()} {STARTED}")

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
        line = {
            "time": time.time(),
            "step": step,
            "epoch": step / self.plan["steps"],
            "values": {"loss": 1.0 / step},
        }
        text = json.dumps(line) + "\n"
        if self.plan["kind"] == "broken":
            text += (
                '{"step": 1, "values": {"lo\n{"step":'
                ' "x"}\n[1]\n{"step":2,"values":{"a\\u0000b":1}}\n'
            )
        self.add_line(text)

    def child(self) -> None:
        """Run as a descendant that outlives the trainer, in a session of its own for odd seeds."""
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
        begun = self.restore()
        last = last_step(plan, self.run_id, begun)
        self.plan_line(begun)
        for step in range(begun + 1, last + 1):
            if kind != "stubborn" and (self.told_to_stop or os.path.exists("stop.json")):
                if step > 1:
                    self.save(step - 1)
                self.end(17, "tunix: interrupted: stopped by request after saving a checkpoint.")
            self.say(output(plan["seed"], step, plan["output"]))
            self.measure(step)
            if step == last < plan["steps"]:
                self.end(
                    plan["code"],
                    f"tunix: scripted: leaves the rest to its retry after step {step}.",
                )
            if plan.get("save_every") and step % plan["save_every"] == 0:
                self.save(step)
            time.sleep(plan["pause"])
        if kind == "signal":
            self.note(f"end -{plan['code']} {time.time()}")
            os.kill(os.getpid(), plan["code"])
        if plan["code"] and kind != "relay":
            self.end(plan["code"], f"tunix: scripted: ends with {plan['code']}.")
        if last:
            self.save(last)
        self.result()
        self.end(0)

    def restore(self) -> int:
        """Return the step to resume from: of this folder's own newest checkpoint, else of that of
        ``resume_from``, else 0."""
        try:
            layout.begin_checkpoints(FOLDER, **self.training)
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")
        folder, found = CHECKPOINTS, complete_steps(CHECKPOINTS)
        if not found and self.source is not None:
            folder = Path(self.source)
            found = complete_steps(folder)
            if not found:
                self.end(
                    15, f"tunix: storage: resume_from: there is no complete checkpoint in {folder}."
                )
        if self.extend_from_step is not None and (not found or found[-1] < self.extend_from_step):
            self.end(
                15,
                "tunix: storage: extend_from_step: there is no checkpoint of step"
                f" {self.extend_from_step} to extend.",
            )
        if not found:
            self.note(f"begin 0 - {time.time()}")
            return 0
        if name := first_difference(read_identity(folder) or {}, make_identity(**self.training)):
            self.end(
                15,
                f"tunix: storage: the checkpoints in {folder} are of another training: {name} is"
                " not the same.",
            )
        self.note(f"begin {found[-1]} {folder.absolute().parent} {time.time()}")
        return found[-1]

    def save(self, step: int) -> None:
        """Write a checkpoint under a temporary name and rename it; the journal tells on which side
        of that a kill came."""
        if step in complete_steps(CHECKPOINTS):
            return
        try:
            layout.stage_checkpoint(FOLDER, step)
            self.note(f"saving {step}")
            layout.name_checkpoint(FOLDER, step)
            self.note(f"saved {step}")
            for old in complete_steps(CHECKPOINTS)[:-KEPT]:
                layout.remove_checkpoint(FOLDER, old)
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")

    def plan_line(self, begun: int) -> None:
        plan = {"total_steps": self.plan["steps"], "resumed_from_step": begun or None}
        self.add_line(json.dumps({"time": time.time(), "plan": plan}) + "\n")

    def add_line(self, text: str) -> None:
        try:
            with open("metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self.end(15, f"tunix: storage: {error.strerror}")

    def result(self) -> None:
        text = json.dumps(
            {
                "loss_first": 1.0,
                "loss_last": 1.0 / max(1, self.plan["steps"]),
                "steps": self.plan["steps"],
                "samples": [],
            }
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
