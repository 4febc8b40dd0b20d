"""Gates: the verdict, and how checks wait for their evaluations."""

import io
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from runs.execution.attending import cancel_run
from runs.execution.launching import launch_pending, wait_for
from runs.management.commands.gate import ERROR
from runs.models import Baseline, GateCheck, GateState, Run, WebhookDelivery
from runs.services.deletion import trash_run
from runs.services.gates import decide_waiting, judge, make_baseline, start_check
from runs.services.refusals import StateConflict
from runs.services.run_requests import InvalidRequest
from runs.spec.statistics import compare
from runs.tests.conftest import Evaluate, Script
from tunixrt.roles import Role, set_role

pytestmark = pytest.mark.django_db
URL = "/api/regression"
# (scores of the candidate, of the baseline, margin, verdict)
RIGHT, HALF = [(1.0, 1.0)] * 50 + [(0.0, 0.0)] * 50, [(1.0, 0.0), (0.0, 1.0)] * 50


class TestVerdict:
    @pytest.mark.parametrize(
        ("pairs", "margin", "verdict"),
        [
            (RIGHT, 0.05, "pass"),  # no difference at all, on 100 questions
            ([(1.0, 0.0)] * 20 + RIGHT, 0.0, "pass"),  # better
            ([(0.0, 1.0)] * 30 + RIGHT, 0.05, "fail"),  # worse by 23 points
            ([(0.0, 1.0)] * 2 + RIGHT[:10], 0.05, "undecided"),
            (HALF, 0.05, "undecided"),  # no difference, and much noise
        ],
    )
    def test_it_is_that_of_a_test_of_non_inferiority(
        self, pairs: list[tuple[float, float]], margin: float, verdict: str
    ):
        found, result = judge(pairs, margin=margin, lower_is_better=False)

        compared = compare([one for one, _ in pairs], [other for _, other in pairs])
        assert found == verdict
        assert (result["low"], result["high"]) == compared.interval
        assert (result["needed"] is not None) <= (verdict == "undecided")

    def test_undecided_says_how_many_questions_would_decide(self):
        _, result = judge(HALF, margin=0.05, lower_is_better=False)
        # variance 1.01 of differences of ±1: (1.96 + 0.84)² · 1.01 / 0.05²
        assert result["needed"] == pytest.approx(3_171, abs=5)

    def test_where_lower_is_better_the_sides_change(self):
        pairs = [(1.0 + 0.001 * n, 2.0) for n in range(40)]
        assert judge(pairs, margin=0.0, lower_is_better=True)[0] == "pass"
        assert judge(pairs, margin=0.0, lower_is_better=False)[0] == "fail"

    def test_delta_in_percent_of_the_baseline(self):
        _, result = judge(RIGHT + [(1.0, 0.0)] * 25, margin=0, lower_is_better=False)
        assert (result["baseline_value"], result["current_value"]) == (0.4, 0.6)
        assert result["delta_percent"] == pytest.approx(50)


@pytest.fixture
def baseline(evaluate: Evaluate, user: User) -> Baseline:
    run = evaluate({"exact_match": [1, 1, 0, 1]})
    return make_baseline(name="quiz", run=run, label=None, lower_is_better=None, by=user)


@pytest.fixture
def trained(scripted: Script, submit, dataset) -> Run:
    """A training that exported a model."""
    scripted(["put", "model/config.json", "{}"])
    run = submit(model_id="preset:tiny-llama")
    launch_pending()
    run.refresh_from_db()
    return wait_for(run)


class TestBaseline:
    def test_it_takes_the_only_score(self, baseline: Baseline):
        assert (baseline.label, baseline.lower_is_better) == ("exact_match", False)

    def test_a_name_is_given_once(self, baseline: Baseline, user: User):
        with pytest.raises(StateConflict, match="a baseline named quiz already"):
            make_baseline(
                name="quiz",
                run=baseline.evaluation.run,
                label=None,
                lower_is_better=None,
                by=user,
            )

    @pytest.mark.parametrize(
        ("fields", "name"), [({"label": "gone"}, "metric"), ({"lower_is_better": True}, "lower")]
    )
    def test_what_does_not_fit_the_score(
        self, baseline: Baseline, user: User, fields: dict[str, Any], name: str
    ):
        asked = {"label": None, "lower_is_better": None} | fields
        with pytest.raises(InvalidRequest, match=name):
            make_baseline(name="b", run=baseline.evaluation.run, by=user, **asked)

    def test_an_incomplete_evaluation_is_none(self, evaluate: Evaluate, user: User):
        run = evaluate(options={"upto": 3}, script=[["leave", 17, "tunix: interrupted: stop"]])
        with pytest.raises(StateConflict, match="no complete evaluation"):
            make_baseline(name="b", run=run, label=None, lower_is_better=None, by=user)

    def test_its_evaluation_is_not_deleted(self, baseline: Baseline, user: User):
        with pytest.raises(StateConflict, match="is the baseline quiz"):
            trash_run(run=baseline.evaluation.run, by=user)


class TestCheck:
    def test_two_evaluations_are_decided_at_once(
        self, baseline: Baseline, evaluate: Evaluate, user: User
    ):
        run = evaluate({"exact_match": [1, 1, 1, 1]}, options={"weights": "c" * 64})
        check = start_check(candidate=run, baselines=[baseline], margin=0.0, by=user)

        assert (check.state, check.verdict) == (GateState.DECIDED, "pass")
        [part] = check.parts.all()
        assert part.result["delta"] == 0.25 and part.result["n"] == 40

    def test_other_questions_are_refused(self, baseline: Baseline, evaluate: Evaluate, user: User):
        run = evaluate(limit=35)
        with pytest.raises(StateConflict, match=r"of quiz-v1 .*35 questions"):
            start_check(candidate=run, baselines=[baseline], margin=0.0, by=user)

    def test_a_run_is_evaluated_as_the_baseline_was(
        self, baseline: Baseline, trained: Run, scripted: Script, user: User
    ):
        check = start_check(candidate=trained, baselines=[baseline], margin=0.1, by=user)
        assert check.state == GateState.WAITING
        run = Run.objects.get(kind="evaluate", model_id=f"run:{trained.pk}")
        assert run.evaluation.settings_hash == baseline.evaluation.settings_hash

        scripted(["answer", {"exact_match": [0]}, {"weights": "c" * 64}])
        launch_pending()
        run.refresh_from_db()
        wait_for(run)
        decide_waiting()
        check.refresh_from_db()
        assert (check.state, check.verdict) == (GateState.DECIDED, "fail")

        again = start_check(candidate=trained, baselines=[baseline], margin=0.1, by=user)
        assert again.state == GateState.DECIDED  # the evaluation is there already

    def test_a_cancelled_evaluation_leaves_no_verdict(
        self, baseline: Baseline, trained: Run, user: User
    ):
        check = start_check(candidate=trained, baselines=[baseline], margin=0.1, by=user)
        cancel_run(run=Run.objects.get(status="pending"), by=user)
        decide_waiting()

        check.refresh_from_db()
        assert (check.state, check.verdict) == (GateState.FAILED, "")
        assert "is not complete" in check.problem

    def test_one_failed_part_fails_the_whole(
        self, baseline: Baseline, evaluate: Evaluate, user: User
    ):
        best = evaluate({"exact_match": [1]}, options={"weights": "d" * 64})
        other = make_baseline(name="best", run=best, label=None, lower_is_better=None, by=user)
        run = evaluate({"exact_match": [1, 1, 0, 1]}, options={"weights": "c" * 64})

        check = start_check(candidate=run, baselines=[baseline, other], margin=0.05, by=user)
        verdicts = {part.baseline.name: part.verdict for part in check.parts.all()}
        assert check.verdict == "fail"
        assert verdicts["best"] == "fail" and verdicts["quiz"] != "fail"

    def test_another_version_of_the_scorer_is_not_compared(
        self, baseline: Baseline, evaluate: Evaluate, user: User
    ):
        easier = [{"name": "exact_match", "parameters": {"ignore_case": True}}]
        check = start_check(
            candidate=evaluate(scorers=easier), baselines=[baseline], margin=0.0, by=user
        )
        assert check.state == GateState.FAILED
        assert "exact_match is another scorer" in check.problem

    def test_a_webhook_is_told(self, baseline: Baseline, evaluate: Evaluate, user: User, settings):
        settings.TUNIX_WEBHOOK_ALLOW_PRIVATE = True
        run = evaluate({"exact_match": [1]}, options={"weights": "c" * 64})
        check = start_check(
            candidate=run,
            baselines=[baseline],
            margin=0.0,
            by=user,
            webhook_url="http://127.0.0.1:9/gate",
        )
        [delivery] = WebhookDelivery.objects.filter(url="http://127.0.0.1:9/gate")
        assert delivery.payload["event"] == "gate.decided"
        assert delivery.payload["check_id"] == str(check.pk)
        assert delivery.payload["verdict"] == "pass"


class TestApi:
    def test_from_baseline_to_verdict(self, api: APIClient, evaluate: Evaluate):
        first, second = evaluate({"exact_match": [1, 0]}), evaluate({"exact_match": [1]}, seed=1)
        made = api.post(
            f"{URL}/baselines",
            {"name": "quiz", "run_id": str(first.pk), "metric": "exact_match"},
            format="json",
        )
        assert (made.status_code, made.json()["value"]) == (201, 0.5)
        assert [one["name"] for one in api.get(f"{URL}/baselines").json()["data"]] == ["quiz"]

        asked = {"run_id": str(second.pk), "baseline_name": "quiz"}
        started = api.post(f"{URL}/check", asked, format="json")
        assert started.status_code == 202
        answer = api.get(f"{URL}/check/{started.json()['check_id']}").json()
        assert (answer["state"], answer["verdict"], answer["delta"]) == ("decided", "pass", 0.5)
        assert api.delete(f"{URL}/baselines/quiz").status_code == 204

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"run_id": "x"}, 400),
            ({"run_id": "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"}, 404),
            ({"baseline_name": "gone"}, 404),
            ({"baseline_name": None}, 400),
            ({"baseline_names": []}, 400),
            ({"margin": -1}, 400),
            ({"margin": "0"}, 400),
            ({"webhook_url": "ftp://x"}, 400),
            ({"webhook_url": "http://127.0.0.1/"}, 400),
            ({"unknown": 1}, 400),
        ],
    )
    def test_what_is_wrong(
        self, api: APIClient, baseline: Baseline, fields: dict[str, Any], status: int
    ):
        asked = {"run_id": str(baseline.evaluation_id), "baseline_name": "quiz"} | fields
        assert api.post(f"{URL}/check", asked, format="json").status_code == status
        assert not GateCheck.objects.exists()

    def test_others_baselines_are_operators_to_delete(
        self, baseline: Baseline, api: APIClient, user: User
    ):
        Baseline.objects.update(created_by=User.objects.create_user("other"))
        assert api.delete(f"{URL}/baselines/quiz").status_code == 403
        set_role(user=user, role=Role.OPERATOR)
        api.force_authenticate(User.objects.get(pk=user.pk))
        assert api.delete(f"{URL}/baselines/quiz").status_code == 204

    @pytest.mark.parametrize("check_id", ["x", "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"])
    def test_a_check_that_is_not_there(self, api: APIClient, check_id: str):
        assert api.get(f"{URL}/check/{check_id}").status_code in (404, 422)


class TestCommand:
    @pytest.mark.parametrize(
        ("scores", "margin", "code", "said"),
        [
            ([1], "0", 0, "pass"),
            ([0], "0.1", 1, "fail"),
            ([1, 1, 0, 1, 0, 1, 1, 1], "0.01", 2, "undecided"),
        ],
    )
    def test_exit_codes(
        self,
        baseline: Baseline,
        evaluate: Evaluate,
        scores: list[int],
        margin: str,
        code: int,
        said: str,
    ):
        run = evaluate({"exact_match": scores}, options={"weights": "c" * 64})
        out = io.StringIO()
        found: Any = None
        try:
            call_command("gate", str(run.pk), "--baseline", "quiz", "--margin", margin, stdout=out)
            found = 0
        except SystemExit as end:
            found = end.code
        assert found == code
        assert out.getvalue().splitlines()[-1] == said

    @pytest.mark.parametrize("arguments", [["x"], ["0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"]])
    def test_without_a_verdict_it_is_three(self, baseline: Baseline, arguments: list[str]):
        with pytest.raises(CommandError) as error:
            call_command("gate", *arguments, "--baseline", "quiz")
        assert error.value.returncode == 3

    def test_it_does_not_wait_for_ever(self, baseline: Baseline, trained: Run, monkeypatch):
        with pytest.raises(CommandError, match="still waits") as error:
            call_command("gate", str(trained.pk), "--baseline", "quiz", "--wait", "0")
        assert error.value.returncode == ERROR


class TestEvaluateOn:
    def test_a_training_that_completes_is_evaluated(self, scripted: Script, submit, make_dataset):
        make_dataset("quiz", size=40, prompt="quiz {}?")
        scripted(["put", "model/config.json", "{}"])
        run = submit(evaluate_on=["quiz-v1", {"dataset_key": "quiz-v1", "max_tokens": 8}])
        launch_pending()
        run.refresh_from_db()
        run = wait_for(run)

        assert run.status == "completed"
        found = Run.objects.filter(kind="evaluate").order_by("created_at")
        assert [one.model_id for one in found] == [f"run:{run.pk}"] * 2
        assert all(f"Run {one.pk} evaluates it on quiz-v1." in run.message for one in found)

    def test_what_cannot_be_evaluated_is_said(self, scripted: Script, submit, make_dataset):
        scripted(["put", "model/config.json", "{}"])
        run = submit(evaluate_on=["gone-v1"])
        launch_pending()
        run.refresh_from_db()
        run = wait_for(run)

        assert run.status == "completed"
        assert "It is not evaluated on gone-v1: Dataset not found: gone-v1" in run.message

    @pytest.mark.parametrize(
        "value",
        ["x", [1], [{}], ["a"] * 11, [{"dataset_key": "a", "samples": 0}], [{"model_id": "x"}]],
    )
    def test_what_is_no_list_of_evaluations_is_refused(self, submit, value: Any):
        with pytest.raises(InvalidRequest, match="evaluate_on"):
            submit(evaluate_on=value)
