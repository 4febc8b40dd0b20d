"""Judges: real requests to a server on loopback, and what is stored of its answers."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.utils import timezone

from datasets.models import Dataset
from datasets.services.sealing import seal_datasets
from runs import tasks
from runs.execution.environment import trainer_environment
from runs.models import Judgement, JudgeVerdict, Run, RunEvent, Score, Standing
from runs.models.evaluation import unpack_scores
from runs.queries.votes import judges_beside_people
from runs.runfolder import names
from runs.services import judging
from runs.services.access import SealedItems
from runs.services.deletion import trash_run
from runs.services.judgements import (
    LEASE,
    cancel_judgement,
    is_due,
    start_judgement,
    verdicts_by_question,
)
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest
from runs.services.votes import start_round
from runs.tests.conftest import Evaluate
from runs.tests.judge import FakeJudge, completion, serving, verdict
from tunixrt.judges import read_judges

pytestmark = pytest.mark.django_db
KEY = "sk-very-secret"


def is_even(data: dict[str, Any]) -> bool:
    return int(data["reference"]) % 2 == 0


def by_reference(data: dict[str, Any]) -> str:
    return verdict("correct" if is_even(data) else "incorrect")


@pytest.fixture
def judge(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJudge]:
    """A judge named ``big`` that finds every second answer correct."""
    monkeypatch.setattr(judging, "PAUSE", timedelta(0))
    with serving(by_reference) as server:
        configure(settings, server)
        yield server


def configure(settings: LazySettings, server: FakeJudge, **more: Any) -> None:
    given = {"url": server.url, "model": "judge-1", "key_env": "BIG_KEY"} | more
    settings.TUNIX_JUDGES = read_judges({"big": given}, {"BIG_KEY": KEY})


@pytest.fixture
def evaluated(evaluate: Evaluate) -> Run:
    return evaluate()


def work(judgement: Judgement) -> Judgement:
    """Work on a judgement until it has ended."""
    while True:
        judgement.refresh_from_db()
        if not judgement.is_active:
            return judgement
        assert judging.judge_due() == judgement


def judged(run: Run, by: User, **asked: Any) -> Judgement:
    judgement, _ = start_judgement(run=run, judge="big", by=by, **asked)
    return work(judgement)


class TestScoring:
    def test_a_judge_gives_a_score_beside_the_others(
        self, judge: FakeJudge, evaluated: Run, user: User, api: Any
    ):
        judgement = judged(evaluated, user)

        assert (judgement.state, judgement.problem) == ("done", "")
        assert (judgement.scored, judgement.failed, judgement.total) == (40, 0, 40)
        assert judgement.requests == 40 == len(judge.asked)
        score = Score.objects.get(evaluation=evaluated.pk, label="judge:big")
        assert (score.mean, score.n, score.scored, score.failed, score.total) == (
            0.5,
            40,
            40,
            0,
            40,
        )
        assert (score.low, score.high) == (judgement.low, judgement.high)
        assert score.standing == Standing.RANKED and score.bound == score.low
        assert Counter(unpack_scores(score.values)) == {1: 20, 0: 20}
        assert score.scorer["parameters"]["model"] == "judge-1"
        answer = api.get(f"/api/tunix/evaluations/{evaluated.pk}").json()
        assert [one["label"] for one in answer["scores"]] == ["exact_match", "judge:big"]
        board = api.get(
            f"/api/tunix/leaderboards/{evaluated.evaluation.questions.key}?scorer=judge:big"
        ).json()
        assert len(board["data"]) == 1

    def test_what_it_is_asked(self, judge: FakeJudge, evaluated: Run, user: User):
        judged(evaluated, user)

        request, headers = judge.asked[0], judge.headers[0]
        assert request["model"] == "judge-1" and request["temperature"] == 0
        data = json.loads(request["messages"][1]["content"])
        assert data["answer"].endswith(f" is {data['reference']}")
        assert data["question"][-1]["content"].startswith("quiz ")
        assert headers["Authorization"] == f"Bearer {KEY}"

    def test_its_key_is_in_nothing_that_a_training_or_a_person_sees(
        self, judge: FakeJudge, evaluated: Run, user: User, api: Any, settings: LazySettings
    ):
        judgement = judged(evaluated, user)

        texts = [
            *trainer_environment(evaluated).values(),
            *(
                p.read_text(errors="replace")
                for p in run_folder(evaluated).rglob("*")
                if p.is_file()
            ),
            api.get("/api/tunix/judges").content.decode(),
            api.get(f"/api/tunix/judgements/{judgement.pk}").content.decode(),
            str(Judgement.objects.values()),
            repr(settings.TUNIX_JUDGES),
        ]
        assert not [text for text in texts if KEY in text]
        assert judge.url not in texts[-4] + texts[-3]

    def test_samples_are_averaged_by_question(
        self, judge: FakeJudge, evaluate: Evaluate, user: User
    ):
        run = evaluate({"exact_match": [[1, 0]]}, samples=2, temperature=1.0)
        judged(run, user)

        score = Score.objects.get(evaluation=run.pk, label="judge:big")
        assert (score.n, score.total) == (40, 80)
        assert score.pass_at_k == {"1": 0.5, "2": 0.5}

    def test_verdicts_are_read_by_question(self, judge: FakeJudge, evaluated: Run, user: User):
        found = verdicts_by_question(judged(evaluated, user))
        assert Counter(found.values()) == {"correct": 20, "incorrect": 20}

    def test_asked_again_it_is_the_same(self, judge: FakeJudge, evaluated: Run, user: User):
        first, created = start_judgement(run=evaluated, judge="big", by=user)
        assert created and start_judgement(run=evaluated, judge="big", by=user) == (first, False)
        work(first)

        assert start_judgement(run=evaluated, judge="big", by=user) == (first, False)
        assert len(judge.asked) == 40
        events = RunEvent.objects.filter(run=evaluated, reason__startswith="to be judged")
        assert events.count() == 1

    def test_another_model_is_another_scorer(
        self, judge: FakeJudge, evaluated: Run, user: User, settings: LazySettings
    ):
        judged(evaluated, user)
        configure(settings, judge, model="judge-2")
        judged(evaluated, user)

        scores = Score.objects.filter(evaluation=evaluated.pk, label__startswith="judge:big")
        assert len({score.scorer_hash for score in scores}) == 2 == len(scores)


class TestFailures:
    def test_what_is_no_verdict_is_counted_apart_and_never_averaged(
        self, judge: FakeJudge, evaluated: Run, user: User
    ):
        bad: dict[str, Any] = {
            "the judge answered 500": (500, b"oops"),
            "the judge answered 302": (302, b""),
            "the judge's answer is no chat completion": (200, b"<html>"),
            "the judge's answer is longer than 262,144 bytes": (200, b"[" * 10**7),
            "the judge's answer is no JSON object": "INCORRECT",
            "the judge's verdict is not correct or incorrect": verdict("maybe"),
            "the judge's answer was cut off": (200, completion(verdict("correct"), "length")),
        }
        answers = dict(zip(run_references(evaluated), bad.values(), strict=False))
        judge.decide = lambda data: answers.get(data["reference"], verdict("correct"))
        judgement = judged(evaluated, user)

        assert judgement.state == "done"
        assert (judgement.scored, judgement.failed, judgement.total) == (33, 7, 40)
        assert judgement.problem.removesuffix(".") in bad
        failed = judgement.verdicts.filter(verdict="")
        assert set(failed.values_list("problem", flat=True)) == bad.keys()
        assert judgement.requests == 33 + 7 * judging.ATTEMPTS_MAX
        score = Score.objects.get(evaluation=evaluated.pk, label="judge:big")
        assert (score.mean, score.n, score.failed) == (1, 33, 7)
        # an output that makes the judge fail must not improve a place
        assert score.standing == Standing.PARTIAL

    def test_a_judge_that_recovers_is_asked_again(
        self, judge: FakeJudge, evaluate: Evaluate, user: User
    ):
        run = evaluate(limit=8)
        refused: set[str] = set()

        def once(data: dict[str, Any]) -> Any:
            if data["reference"] in refused:
                return by_reference(data)
            refused.add(data["reference"])
            return (503, b"")

        judge.decide = once
        judgement = judged(run, user)

        assert (judgement.scored, judgement.failed, judgement.requests) == (8, 0, 16)

    def test_a_slow_judge_is_not_waited_for(
        self,
        judge: FakeJudge,
        evaluate: Evaluate,
        user: User,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(judging, "TIMEOUT_SECONDS", 0.3)
        run = evaluate(limit=2)
        judge.slow = True
        judgement = judged(run, user)

        assert judgement.state == "failed"
        assert judgement.problem == ("There is no verdict at all: no answer came from the judge.")
        assert not Score.objects.filter(evaluation=run.pk, label="judge:big").exists()

    def test_a_dead_judge_is_given_up_soon(self, judge: FakeJudge, evaluated: Run, user: User):
        judge.decide = lambda data: (500, b"")
        judgement = judged(evaluated, user)

        assert judgement.state == "failed"
        assert judgement.problem == ("No verdict came of 24 requests: the judge answered 500.")
        assert len(judge.asked) == 24

    def test_no_more_requests_are_made_than_allowed(
        self, judge: FakeJudge, evaluated: Run, user: User, settings: LazySettings
    ):
        configure(settings, judge, requests_max=10)
        judgement = judged(evaluated, user)

        assert (judgement.state, judgement.capped, len(judge.asked)) == ("done", True, 10)
        assert (judgement.scored, judgement.failed, judgement.total) == (10, 30, 40)
        score = Score.objects.get(evaluation=evaluated.pk, label="judge:big")
        assert (score.n, score.standing) == (10, Standing.PARTIAL)

    def test_edited_outputs_are_not_judged(self, judge: FakeJudge, evaluated: Run, user: User):
        path = run_folder(evaluated) / names.ITEMS
        path.write_text(path.read_text().replace("The answer", "The right answer"))
        judgement = judged(evaluated, user)

        assert judgement.state == "failed" and "were changed since it ended" in judgement.problem
        assert judge.asked == []

    def test_outputs_that_are_edited_meanwhile_give_no_score(
        self, judge: FakeJudge, evaluated: Run, user: User
    ):
        path = run_folder(evaluated) / names.ITEMS

        def edit(data: dict[str, Any]) -> str:
            with open(path, "a") as file:
                file.write("{}\n")
            return verdict("correct")

        judge.decide = edit
        judgement = judged(evaluated, user)

        assert judgement.state == "failed" and "were changed since it ended" in judgement.problem
        assert not Score.objects.filter(evaluation=evaluated.pk, label="judge:big").exists()

    def test_what_is_gone_is_said(
        self, judge: FakeJudge, evaluated: Run, user: User, settings: LazySettings
    ):
        judgement, _ = start_judgement(run=evaluated, judge="big", by=user)
        configure(settings, judge, model="judge-2")
        assert "was changed or removed" in work(judgement).problem

        settings.TUNIX_JUDGES |= read_judges({"small": {"url": judge.url, "model": "m"}}, {})
        judgement, _ = start_judgement(run=evaluated, judge="small", by=user)
        trash_run(run=evaluated, by=user)
        assert work(judgement).problem == f"Evaluation {evaluated.pk} was deleted."
        assert judge.asked == []

    def test_what_has_no_outputs_is_refused(self, judge: FakeJudge, evaluate: Evaluate, user: User):
        partial = evaluate(options={"upto": 10}, script=[["leave", 17, "tunix: interrupted: stop"]])
        with pytest.raises(StateConflict, match="is not complete"):
            start_judgement(run=partial, judge="big", by=user)
        with pytest.raises(InvalidRequest, match="must be one of big"):
            start_judgement(run=partial, judge="small", by=user)
        with pytest.raises(InvalidRequest, match="must be one of 1"):
            start_judgement(run=partial, judge="big", by=user, prompt_version=7)


def run_references(run: Run) -> list[str]:
    lines = (run_folder(run) / names.ITEMS).read_text().splitlines()
    return [json.loads(line)["reference"] for line in lines]


class TestSteps:
    def test_a_task_that_was_killed_costs_no_verdict(
        self, judge: FakeJudge, evaluated: Run, user: User
    ):
        """The kill comes while a batch is asked; what was stored before is not asked again."""

        class Killed(BaseException):
            pass

        judgement, _ = start_judgement(run=evaluated, judge="big", by=user)
        work_of = judging._Work._ask_all
        batches = []

        def killed(self: Any, batch: Any) -> Any:
            batches.append(batch)
            if len(batches) == 3:
                raise Killed
            return work_of(self, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(judging._Work, "_ask_all", killed)
            with pytest.raises(Killed):
                judging.judge_due()
        assert JudgeVerdict.objects.filter(judgement=judgement).count() == 16
        assert not is_due()  # until the lease has run out
        assert judging.judge_due() is None
        Judgement.objects.update(due_at=timezone.now() - LEASE)

        judgement = work(judgement)
        assert (judgement.state, judgement.scored) == ("done", 40)
        assert judgement.requests == 48  # the batch that was killed may have been sent
        assert len(judge.asked) == 40

    def test_a_step_ends_and_the_next_one_continues(
        self, judge: FakeJudge, evaluated: Run, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(judging, "STEP_SECONDS", 0.0)
        judgement, _ = start_judgement(run=evaluated, judge="big", by=user)
        judging.judge_due()
        judgement.refresh_from_db()
        assert (judgement.is_active, judgement.scored) == (True, 0)

        monkeypatch.setattr(judging, "STEP_SECONDS", 3600.0)
        assert tasks.judge() == f"judgement {judgement.pk}"
        judgement.refresh_from_db()
        assert (judgement.state, judgement.scored) == ("done", 40)
        assert tasks.judge() == "nothing"

    def test_a_cancelled_judgement_asks_no_more_and_gives_no_score(
        self, judge: FakeJudge, evaluated: Run, user: User
    ):
        judgement, _ = start_judgement(run=evaluated, judge="big", by=user)
        cancel_judgement(judgement=judgement, by=user)
        assert judging.judge_due() is None
        assert cancel_judgement(judgement=judgement, by=user).state == "cancelled"
        assert judge.asked == []
        # it may be asked for again
        again, created = start_judgement(run=evaluated, judge="big", by=user)
        assert created and work(again).state == "done"
        with pytest.raises(StateConflict, match="is done already"):
            cancel_judgement(judgement=again, by=user)

    def test_a_judgement_that_was_cancelled_meanwhile_stores_nothing_more(
        self, judge: FakeJudge, evaluated: Run, user: User, monkeypatch: pytest.MonkeyPatch
    ):
        judgement, _ = start_judgement(run=evaluated, judge="big", by=user)
        reserve = judging._Work._reserve

        def cancel_behind(self: Any, count: int) -> int:
            allowed = reserve(self, count)
            cancel_judgement(judgement=Judgement.objects.get(pk=judgement.pk), by=user)
            return allowed

        monkeypatch.setattr(judging._Work, "_reserve", cancel_behind)
        judging.judge_due()
        judgement.refresh_from_db()
        assert (judgement.state, JudgeVerdict.objects.count()) == ("cancelled", 0)


class TestPairs:
    @pytest.fixture
    def two(self, evaluate: Evaluate) -> tuple[Run, Run]:
        return evaluate(), evaluate(options={"text": "No idea.", "weights": "c" * 64})

    def test_both_orders_are_asked_and_have_to_agree(
        self, judge: FakeJudge, two: tuple[Run, Run], user: User
    ):
        """The judge knows the better answer of even numbers; else it takes what stands first."""

        def prefer(data: dict[str, Any]) -> str:
            if not is_even(data):
                return verdict("first")
            return verdict("first" if data["second"] == "No idea." else "second")

        judge.decide = prefer
        first, second = two
        judgement = judged(first, user, against=second)

        assert judgement.requests == 80
        assert (judgement.scored, judgement.failed, judgement.total) == (40, 0, 40)
        assert (judgement.wins, judgement.losses, judgement.ties) == (20, 0, 20)
        assert judgement.disagreements == 20
        assert judgement.mean == 0.75 and judgement.low < 0.75 < judgement.high
        assert not Score.objects.filter(label__startswith="judge").exists()
        seen = verdicts_by_question(judgement)
        assert Counter(seen.values()) == {"first": 20, "tie": 20}
        turned = verdicts_by_question(judgement, first=second.pk)
        assert Counter(turned.values()) == {"second": 20, "tie": 20}

    def test_it_stands_beside_the_people_who_voted(
        self, judge: FakeJudge, two: tuple[Run, Run], user: User
    ):
        judge.decide = lambda data: verdict("first" if data["second"] == "No idea." else "second")
        first, second = two
        judged(first, user, against=second)
        round = start_round(evaluations=[second.pk, first.pk], by=user)

        [rater] = judges_beside_people(round)
        assert (rater.name, rater.win.n, rater.win.rate) == ("judge:big", 40, 0)

    def test_a_sealed_set_is_judged_for_operators_only(
        self, judge: FakeJudge, evaluate: Evaluate, user: User, staff: User
    ):
        """A judge is another system, and gets the examples."""
        run = evaluate()
        seal_datasets(datasets=[Dataset.objects.get(dataset_key="quiz-v1")], by=staff)

        with pytest.raises(SealedItems, match="Dataset quiz-v1 is sealed"):
            start_judgement(run=run, judge="big", by=user)
        assert judge.asked == []
        start_judgement(run=run, judge="big", by=staff)

    def test_a_question_with_one_order_is_failed(
        self, judge: FakeJudge, two: tuple[Run, Run], user: User
    ):
        judge.decide = lambda data: (
            "nonsense" if data["first"] == "No idea." and is_even(data) else verdict("tie")
        )
        judgement = judged(two[0], user, against=two[1])

        assert (judgement.scored, judgement.failed, judgement.ties) == (20, 20, 20)

    def test_equal_outputs_are_not_asked_about(
        self, judge: FakeJudge, evaluate: Evaluate, user: User
    ):
        judgement = judged(evaluate(), user, against=evaluate())

        assert judgement.state == "failed" and judge.asked == []
        assert judgement.problem == "The outputs of all questions are equal."

    def test_other_questions_and_itself_are_refused(
        self, judge: FakeJudge, evaluate: Evaluate, user: User
    ):
        run = evaluate()
        with pytest.raises(InvalidRequest, match="of other questions"):
            start_judgement(run=run, judge="big", by=user, against=evaluate(limit=30))
        with pytest.raises(InvalidRequest, match="another evaluation"):
            start_judgement(run=run, judge="big", by=user, against=run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "must be an object"),
        ({"Big": {}}, "small letters"),
        ({"big": 3}, "must be an object"),
        ({"big": {"url": "ftp://x/", "model": "m"}}, "url must be an address"),
        ({"big": {"url": "http://x:0/", "model": "m"}}, "url must be an address"),
        ({"big": {"url": "http://x/", "model": ""}}, "1 to 128 characters"),
        ({"big": {"url": "http://x/", "model": "m", "kye": "k"}}, "unknown kye"),
        ({"big": {"url": "http://x/", "model": "m", "key": "sk\r\nX: 1"}}, "printable ASCII"),
        ({"big": {"url": "http://x/", "model": "m", "key": 3}}, "key must be text"),
        ({"big": {"url": "http://x/", "model": "m", "key": "k", "key_env": "K"}}, "not both"),
        ({"big": {"url": "http://x/", "model": "m", "key_env": "K"}}, "K of key_env is not set"),
        ({"big": {"url": "http://x/", "model": "m", "requests_max": 0}}, "from 1 to 1,000,000"),
        ({"big": {"url": "http://x/", "model": "m", "options": {"n": 2}}}, "options must be"),
    ],
)
def test_what_is_wrong_with_a_judge_is_said_without_its_key(given: Any, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        read_judges(given, {})
    assert "sk" not in str(refused.value)
