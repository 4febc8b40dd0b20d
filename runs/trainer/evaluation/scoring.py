"""Score outputs in a process with limits: an output that makes a scorer hang or fall costs its own
score, never the evaluation.

The scores are made by runs/trainer/evaluation/scorer_program.py, one at a time; where it has to be
ended, it is started again for the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runs.spec.scorers import Chosen, function_file, labels
from runs.trainer.errors import RewardProblem
from runs.trainer.evaluation.scorer_program import STARTING_SECONDS
from runs.trainer.evaluation.scorers.item import Item

PROGRAM = Path(__file__).with_name("scorer_program.py")
SECONDS = 5.0  # for one score
MEMORY_BYTES = 4 * 2**30
GRACE_SECONDS = 5.0  # beyond which the process is not trusted to end itself
ANSWER_BYTES = 64 * 2**10
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Scored:
    """One score from 0 to 1, or why there is none."""

    score: float | None
    problem: str = ""


class _Ended(Exception):
    """The process has ended, or had to be."""


class Scoring:
    """Makes scores by ``chosen`` scorers. A context manager, which ends the process.

    Args:
        files: paths of the files of python scorers, by their names.
        seconds: the limit for one score.
    """

    def __init__(
        self,
        chosen: Sequence[Chosen],
        *,
        files: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ):
        self._chosen = tuple(chosen)
        self._files = files or {}
        self._labels = labels(self._chosen)
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Make the scorers now, and not with the first score.

        Raises:
            RewardProblem: a scorer cannot be made.
        """
        if self._process is None:
            self._start()

    def score(self, item: Item) -> dict[str, Scored]:
        """Return the scores of an output, by the labels of their scorers.

        Raises:
            RewardProblem: a scorer cannot be made.
        """
        return {label: self._score(number, item) for number, label in enumerate(self._labels)}

    def _score(self, number: int, item: Item) -> Scored:
        self.start()
        try:
            answer = self._ask([number, asdict(item)], within=self._seconds + GRACE_SECONDS)
        except _Ended as ended:
            return Scored(None, str(ended))
        if "error" in answer:
            return Scored(None, answer["error"])
        return Scored(answer["score"])

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(PROGRAM), str(self._seconds), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        self._rest = b""
        wanted = [[one.name, self._parameters(one)] for one in self._chosen]
        try:
            problems = self._ask(wanted, within=STARTING_SECONDS + GRACE_SECONDS)
        except _Ended as ended:
            raise RewardProblem(
                f"the scorers {', '.join(self._labels)} do not start: {ended}"
            ) from None
        for number, problem in problems.items():
            raise RewardProblem(f"{self._labels[int(number)]}: {problem}")

    def _parameters(self, one: Chosen) -> dict[str, Any]:
        if one.name != "python":
            return one.parameters
        return one.parameters | {"path": self._files.get(function_file(one.parameters["function"]))}

    def _ask(self, question: Any, *, within: float) -> dict[str, Any]:
        """Return the answer of the process. Raise _Ended."""
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = self._read_line(time.monotonic() + within)
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise _Ended(self._why_ended(within))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_line(self, until: float) -> bytes:
        """Return a line, or what there is of it when the process ends or takes too long."""
        process = self._process
        assert process is not None and process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest and len(self._rest) < ANSWER_BYTES:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return b""
                if not (piece := os.read(process.stdout.fileno(), ANSWER_BYTES)):
                    return b""
                self._rest += piece
        line, end, self._rest = self._rest.partition(b"\n")
        return line + end

    def _why_ended(self, within: float) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0 if within <= 0 else GRACE_SECONDS)
        code = process.poll()
        self._end()
        if code is None or code == -signal.SIGALRM:
            return f"took longer than {within - GRACE_SECONDS:g} s"
        return f"ended the scoring process ({_ending(code)})"

    def _end(self) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a question that was not read
                    pipe.close()
        process.wait()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
