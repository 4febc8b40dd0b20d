"""Ask judges, in short steps that a kill costs nothing but the requests that were under way.

A task takes a judgement by moving its ``due_at`` into the future; what it writes, it writes only
while that is as it has left it. Each verdict is stored as soon as its batch is there, so that the
next step, or another task after a kill, asks for the rest alone.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import orjson
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from runs.models import Evaluation, Judgement, JudgementState, JudgeVerdict, Score, Standing
from runs.models.evaluation import pack_scores, unpack_hashes
from runs.runfolder import files, names
from runs.services.evaluations import ScorerValues, parse_item, pass_at_k, standing_of
from runs.services.judgements import (
    LEASE,
    due_judgements,
    hash_of,
    is_due,
    known_judges,
    scorer_of,
)
from runs.services.reservations import run_folder
from runs.spec import judging as spec
from runs.spec import statistics
from tunixrt.judges import Judge
from tunixrt.outbound import OutboundError, exchange

logger = logging.getLogger("tunixrt.judging")

STEP_SECONDS = 20.0  # after which a step begins no more requests
TIMEOUT_SECONDS = 25.0  # of one request; with the step less than the time limit of a task
PAUSE = timedelta(seconds=5)  # after a batch that has brought nothing
AT_ONCE = 8
ATTEMPTS_MAX = 3  # for one verdict
GIVE_UP_AFTER = 24  # requests without a single verdict
ANSWER_MAX_BYTES = 256 * 2**10
LINE_MAX_BYTES = 64 * 2**20
UNRANKED_SHARE = 0.02  # outputs without a verdict, beyond which a score has no place
PROBLEM_MAX = 200


class CannotJudge(Exception):
    """The judgement has to end; says why."""


class Lost(Exception):
    """The judgement was cancelled, deleted or taken by another task."""


@dataclass(frozen=True)
class Wanted:
    """A verdict that is still missing, after ``attempts``."""

    question: str
    place: int
    attempts: int = 0


@dataclass(frozen=True)
class Said:
    verdict: str = ""
    problem: str = ""


def judge_due() -> Judgement | None:
    """Work for a while on one judgement that is due, and return it; None where there is none. No
    two are worked on at the same time: other tasks wait for the same workers."""
    judgement = _take_due()
    if judgement is None:
        return None
    try:
        with ExitStack() as stack:
            work = _Work(judgement, stack)
            finished = work.ask_for_a_while()
            if finished:
                work.finish()
    except CannotJudge as problem:
        _end(judgement, JudgementState.FAILED, problem=str(problem))
    except Lost:
        pass
    return judgement


def _take_due() -> Judgement | None:
    now = timezone.now()
    if not is_due():
        return None
    for judgement in due_judgements().order_by("due_at")[:10]:
        guard = Judgement.objects.filter(
            pk=judgement.pk, due_at=judgement.due_at, state=JudgementState.JUDGING
        )
        if guard.update(due_at=now + LEASE):
            judgement.due_at = now + LEASE
            return judgement
    return None


def _held(judgement: Judgement) -> Any:
    """Return the query of the judgement's row, which is empty once this task has lost it."""
    return Judgement.objects.filter(
        pk=judgement.pk, due_at=judgement.due_at, state=JudgementState.JUDGING
    )


def _end(judgement: Judgement, state: str, *, problem: str = "", **fields: Any) -> None:
    _held(judgement).update(state=state, problem=problem, completed_at=timezone.now(), **fields)


class _Outputs:
    """The items of an evaluation, by the hashes of their questions: those that it was scored by,
    or none."""

    def __init__(self, evaluation: Evaluation):
        self._evaluation = evaluation
        if evaluation.run.trashed_at is not None:
            raise CannotJudge(f"Evaluation {evaluation.pk} was deleted.")
        try:
            descriptor = files.open_regular(run_folder(evaluation.run) / names.ITEMS)
        except (OSError, files.BrokenFile) as error:
            raise CannotJudge(f"The outputs of evaluation {evaluation.pk} are gone.") from error
        self._file = open(descriptor, "rb")  # noqa: SIM115 - closed by the context
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self.check()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise CannotJudge unless the file is the one that was scored."""
        digest, offset = hashlib.sha256(), 0
        self._file.seek(0)
        while line := self._file.readline(LINE_MAX_BYTES):
            digest.update(line)
            if (item := parse_item(line)) is not None:
                self._offsets[item["hash"]] = offset
            offset += len(line)
        if digest.hexdigest() != self._evaluation.outputs:
            raise self._changed()

    def item(self, question: str) -> dict[str, Any]:
        offset = self._offsets.get(question)
        if offset is not None:
            self._file.seek(offset)
            item = parse_item(self._file.readline(LINE_MAX_BYTES))
            if item is not None and item["hash"] == question:
                return item
        raise self._changed()

    def _changed(self) -> CannotJudge:
        return CannotJudge(
            f"The outputs of evaluation {self._evaluation.pk} were changed since it ended."
        )


def _text(output: dict[str, Any]) -> str:
    text = output.get("text")
    return text if isinstance(text, str) else ""


class _Work:
    """What is left to do of a judgement."""

    def __init__(self, judgement: Judgement, stack: ExitStack):
        self.judgement = judgement
        pairs = judgement.against is not None
        judge = known_judges().get(judgement.judge)
        if judge is None or judgement.scorer_hash != hash_of(
            judge, judgement.prompt_version, pairs=pairs
        ):
            raise CannotJudge(f"The judge {judgement.judge} was changed or removed. Judge again.")
        self.judge: Judge = judge
        self.outputs = stack.enter_context(_Outputs(judgement.evaluation))
        self.others = (
            stack.enter_context(_Outputs(judgement.against)) if judgement.against else None
        )
        self.order = unpack_hashes(judgement.evaluation.questions.hashes)
        self.equal = 0
        self.pool = stack.enter_context(ThreadPoolExecutor(max_workers=AT_ONCE))

    def ask_for_a_while(self) -> bool:
        """Ask until everything was asked (True), or the time of a step has passed."""
        until = time.monotonic() + STEP_SECONDS
        missing = deque(self._missing())
        while missing:
            if time.monotonic() >= until:
                self._release(timedelta(0))
                return False
            batch = [missing.popleft() for _ in range(min(AT_ONCE, len(missing)))]
            allowed = self._reserve(len(batch))
            if allowed == 0:
                self.judgement.capped = True
                return True
            missing.extendleft(reversed(batch[allowed:]))
            said = self._ask_all(batch[:allowed])
            missing.extend(
                Wanted(one.question, one.place, one.attempts + 1)
                for one, answer in zip(batch[:allowed], said, strict=True)
                if not answer.verdict and one.attempts + 1 < ATTEMPTS_MAX
            )
            if not any(answer.verdict for answer in said):
                self._give_up_if_hopeless()
                if missing:
                    self._release(PAUSE)
                    return False
        return True

    def _missing(self) -> Iterator[Wanted]:
        known = {
            (question, place): (verdict, attempts)
            for question, place, verdict, attempts in self.judgement.verdicts.values_list(
                "question", "place", "verdict", "attempts"
            )
        }
        for question in self.order:
            for place in self._places(question):
                verdict, attempts = known.get((question, place), ("", 0))
                if not verdict and attempts < ATTEMPTS_MAX:
                    yield Wanted(question, place, attempts)

    def _places(self, question: str) -> range:
        """Return which verdicts a question needs: of each sample, or of both orders."""
        outputs = self.outputs.item(question)["outputs"]
        if self.others is None:
            # there is nothing to judge where the prompt was too long
            return range(
                0 if outputs[0].get("finish_reason") == "prompt_too_long" else len(outputs)
            )
        if _text(outputs[0]) == _text(self.others.item(question)["outputs"][0]):
            self.equal += 1
            return range(0)
        return range(2)

    def _reserve(self, count: int) -> int:
        """Count requests before they are made; return how many may be."""
        allowed = min(count, self.judgement.requests_max - self.judgement.requests)
        if allowed > 0:
            if not _held(self.judgement).update(requests=F("requests") + allowed):
                raise Lost
            self.judgement.requests += allowed
        return max(allowed, 0)

    def _ask_all(self, batch: list[Wanted]) -> list[Said]:
        said = list(
            self.pool.map(
                lambda body: ask(self.judge, body, pairs=self._pairs),
                [self._messages(one) for one in batch],
            )
        )
        rows = [
            JudgeVerdict(
                judgement=self.judgement,
                question=one.question,
                place=one.place,
                verdict=answer.verdict,
                problem=answer.problem[:PROBLEM_MAX],
                attempts=one.attempts + 1,
            )
            for one, answer in zip(batch, said, strict=True)
        ]
        try:
            with transaction.atomic():
                if not _held(self.judgement).select_for_update().exists():
                    raise Lost
                JudgeVerdict.objects.bulk_create(
                    rows,
                    update_conflicts=True,
                    unique_fields=["judgement", "question", "place"],
                    update_fields=["verdict", "problem", "attempts"],
                )
        except IntegrityError as error:  # the evaluation was purged
            raise Lost from error
        return said

    @property
    def _pairs(self) -> bool:
        return self.others is not None

    def _messages(self, wanted: Wanted) -> list[dict[str, str]]:
        item = self.outputs.item(wanted.question)
        if self.others is None:
            answers = [_text(item["outputs"][wanted.place])]
        else:
            answers = [_text(item["outputs"][0])]
            answers.append(_text(self.others.item(wanted.question)["outputs"][0]))
            if wanted.place == 1:
                answers.reverse()
        prompt, reference = item.get("prompt"), item.get("reference")
        messages = prompt if isinstance(prompt, list) else []
        question = [one for one in messages if isinstance(one, dict)]
        return spec.messages(
            self.judgement.prompt_version,
            question=question,
            reference=reference if isinstance(reference, str) else None,
            answers=answers,
        )

    def _give_up_if_hopeless(self) -> None:
        """Raise CannotJudge where so many requests have brought no verdict that no more should be
        spent."""
        if self.judgement.requests < GIVE_UP_AFTER:
            return
        if not self.judgement.verdicts.exclude(verdict="").exists():
            raise CannotJudge(
                f"No verdict came of {self.judgement.requests} requests: {self._why()}"
            )

    def _why(self) -> str:
        first = self.judgement.verdicts.exclude(problem="").order_by("pk").first()
        return f"{first.problem}." if first else "there was nothing to judge."

    def _release(self, pause: timedelta) -> None:
        """Leave the judgement to the next task, with the numbers so far."""
        counted = self._counted()
        _held(self.judgement).update(
            due_at=timezone.now() + pause,
            scored=counted.scored,
            failed=self.judgement.verdicts.filter(verdict="", attempts__gte=ATTEMPTS_MAX).count(),
        )

    def _counted(self) -> "_Counted":
        found: dict[str, dict[int, str]] = {}
        for question, place, verdict in self.judgement.verdicts.exclude(verdict="").values_list(
            "question", "place", "verdict"
        ):
            found.setdefault(question, {})[place] = verdict
        return _of_pairs(found) if self._pairs else _of_outputs(found)

    def finish(self) -> None:
        """Store what came of it, and the score."""
        judgement = self.judgement
        self.outputs.check()
        if self.others is not None:
            self.others.check()
        counted = self._counted()
        total = judgement.total - (self.equal if self._pairs else 0)
        if not counted.means:
            raise CannotJudge(
                "The outputs of all questions are equal."
                if self._pairs and total == 0
                else f"There is no verdict at all: {self._why()}"
            )
        means = list(counted.means.values())
        low, high = statistics.share_interval(means)
        failed = total - counted.scored
        with transaction.atomic():
            if not _held(judgement).select_for_update().exists():
                raise Lost
            _end(
                judgement,
                JudgementState.DONE,
                problem=self._why() if failed and not judgement.capped else "",
                total=total,
                scored=counted.scored,
                failed=failed,
                capped=judgement.capped,
                equal=self.equal,
                mean=fmean(means),
                low=low,
                high=high,
                wins=counted.wins,
                losses=counted.losses,
                ties=counted.ties,
                disagreements=counted.disagreements,
            )
            if not self._pairs:
                self._score(counted, total, failed, statistics.Interval(low, high))

    def _score(
        self, counted: "_Counted", total: int, failed: int, interval: statistics.Interval
    ) -> None:
        evaluation, judgement = self.judgement.evaluation, self.judgement
        taken = Score.objects.filter(evaluation=evaluation, label=judgement.label).exists()
        score = Score(
            evaluation=evaluation,
            questions=evaluation.questions,
            label=f"{judgement.label}-{judgement.scorer_hash[:6]}" if taken else judgement.label,
            scorer=scorer_of(judgement),
            scorer_hash=judgement.scorer_hash,
            mean=fmean(counted.means.values()),
            low=interval.low,
            high=interval.high,
            bound=interval.low,
            n=len(counted.means),
            scored=counted.scored,
            failed=failed,
            truncated=evaluation.truncated,
            total=total,
            pass_at_k=pass_at_k(ScorerValues(right=counted.right)),
            values=pack_scores(counted.means.get(question) for question in self.order),
            standing=Standing.PARTIAL,
        )
        # an output that makes the judge fail must not raise the mean of those that are left
        if not judgement.capped and failed <= UNRANKED_SHARE * total:
            score.standing = standing_of(score, score.n, evaluation)
        score.save(force_insert=True)


class _Counted:
    """What verdicts say. ``means``: by question, from 0 to 1; of pairs 1 where the judged
    evaluation is better, a half for a tie."""

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        self.right: list[tuple[int, int]] = []
        self.scored = self.wins = self.losses = self.ties = self.disagreements = 0


def _of_outputs(found: dict[str, dict[int, str]]) -> _Counted:
    counted = _Counted()
    for question, said in found.items():
        right = sum(verdict == spec.CORRECT for verdict in said.values())
        counted.scored += len(said)
        counted.means[question] = right / len(said)
        counted.right.append((len(said), right))
    return counted


def _of_pairs(found: dict[str, dict[int, str]]) -> _Counted:
    counted = _Counted()
    for question, said in found.items():
        if len(said) < 2:
            continue
        verdict, contradicts = spec.in_both_orders(said[0], said[1])
        counted.scored += 1
        counted.disagreements += contradicts
        counted.wins += verdict == spec.FIRST
        counted.losses += verdict == spec.SECOND
        counted.ties += verdict == spec.TIE
        counted.means[question] = {spec.FIRST: 1.0, spec.SECOND: 0.0, spec.TIE: 0.5}[verdict]
    return counted


def ask(judge: Judge, messages: list[dict[str, str]], *, pairs: bool) -> Said:
    """Make one request. Never raises: what is no verdict is a problem."""
    body = orjson.dumps({"model": judge.model, "messages": messages, **judge.options})
    headers = {"Content-Type": "application/json", "User-Agent": "tunixrt-judge"}
    if judge.key:
        headers["Authorization"] = f"Bearer {judge.key}"
    try:
        reply = exchange(
            judge.url,
            body,
            headers,
            timeout=TIMEOUT_SECONDS,
            allow_private=True,  # operators have named the address
            most_bytes=ANSWER_MAX_BYTES,
        )
    except OutboundError as error:
        logger.warning("judge %s: %s", judge.name, error)  # the address is the operators' business
        return Said(problem="no answer came from the judge")
    if reply.cut:
        return Said(problem=f"the judge's answer is longer than {ANSWER_MAX_BYTES:,} bytes")
    if reply.status != 200:
        return Said(problem=f"the judge answered {reply.status}")
    try:
        return Said(spec.read_verdict(spec.read_answer(reply.body), pairs=pairs))
    except spec.NoVerdict as error:
        return Said(problem=str(error))
