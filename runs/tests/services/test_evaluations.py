"""Evaluations on the server's side: what is stored of a request, and of the files at its end."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User

from datasets.models import Dataset
from runs.execution.launching import launch_pending, wait_for
from runs.models import EvaluationSet, Look, Run, Score, Standing
from runs.models.evaluation import unpack_hashes, unpack_scores
from runs.runfolder import names
from runs.services.deletion import trash_run
from runs.services.evaluations import clean_evaluation
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
from runs.services.run_requests import InvalidRequest
from runs.services.submission import submit_run
from runs.spec.manifest import parse_manifest
from runs.tests.conftest import Evaluate, Script, Submit
from runs.tests.item_layout import questions_of

pytestmark = pytest.mark.django_db


def score_of(run: Run, label: str = "exact_match") -> Score:
    return Score.objects.get(evaluation=run.pk, label=label)


@pytest.fixture
def trained(scripted: Script, submit: Submit, dataset: Dataset, user: User) -> Run:
    """A training that has left the checkpoints of steps 2 and 4, and no exported model."""
    scripted(["checkpoint", 2, 4])
    run = submit(dry_run=False)
    launch_pending()
    run.refresh_from_db()
    return wait_for(run)


class TestTheEnd:
    def test_scores_are_computed_from_the_items(self, evaluate: Evaluate):
        run = evaluate({"exact_match": [1, 0, 0, 1]})

        assert (run.status, run.message) == ("completed", "Evaluation completed.")
        score = score_of(run)
        assert (score.mean, score.n, score.scored, score.failed, score.total) == (
            0.5,
            40,
            40,
            0,
            40,
        )
        assert 0.35 < score.low < 0.36 and 0.64 < score.high < 0.65  # Wilson at 20 of 40
        assert score.bound == score.low
        assert score.standing == Standing.RANKED
        assert unpack_scores(score.values) == [1, 0, 0, 1] * 10
        evaluation = run.evaluation
        assert evaluation.complete and evaluation.problem == ""
        assert evaluation.answered == 40 and evaluation.tokens == 40 * 12
        assert evaluation.weights == "a" * 64
        assert evaluation.engine == "cpu, float32, google-tunix 0.1.3, jax 0.7.0"

    def test_a_result_that_claims_more_changes_no_score(self, evaluate: Evaluate):
        claimed = {"exact_match": {"mean": 1.0, "scored": 40}}
        result = ["put", names.RESULT, json.dumps({"weights_sha256": "a" * 64, "scores": claimed})]
        run = evaluate({"exact_match": [0]}, script=[result])

        assert score_of(run).mean == 0

    def test_the_questions_are_frozen_in_their_order(self, evaluate: Evaluate):
        run = evaluate()

        asked = [question.hash for question in questions_of(run_folder(run))]
        assert unpack_hashes(EvaluationSet.objects.get().hashes) == asked == sorted(asked)

    def test_failures_are_counted_and_never_averaged(self, evaluate: Evaluate):
        run = evaluate({"exact_match": [1, None]})

        score = score_of(run)
        assert (score.mean, score.n, score.scored, score.failed, score.total) == (1, 20, 20, 20, 40)
        assert unpack_scores(score.values) == [1, None] * 20

    def test_several_samples_are_averaged_by_question(self, evaluate: Evaluate):
        run = evaluate({"exact_match": [[1, 1, 0, 0], [0, 0, 0, 0]]}, samples=4, temperature=1.0)

        score = score_of(run)
        assert (score.mean, score.n, score.scored) == (0.25, 40, 160)
        assert score.pass_at_k == {
            "1": pytest.approx(0.25),
            "2": pytest.approx((1 - 1 / 6) / 2),
            "4": pytest.approx(0.5),
        }
        # the interval is over 40 questions, not over 160 outputs
        assert score.high - score.low > 0.15

    def test_truncated_outputs_are_counted_apart(self, evaluate: Evaluate):
        run = evaluate(options={"finish_reason": "length"})

        assert score_of(run).truncated == 40 == run.evaluation.truncated

    def test_fewer_than_thirty_questions_are_not_ranked(self, evaluate: Evaluate):
        run = evaluate(limit=29)

        assert score_of(run).standing == Standing.TOO_FEW

    def test_a_cancelled_evaluation_keeps_what_there_is(self, evaluate: Evaluate):
        run = evaluate(options={"upto": 10}, script=[["leave", 17, "tunix: interrupted: stop"]])

        assert run.status == "failed"
        score = score_of(run)
        assert (score.n, score.standing) == (10, Standing.PARTIAL)
        assert not run.evaluation.complete

    def test_a_second_evaluation_with_the_same_outputs_is_not_ranked_again(
        self, evaluate: Evaluate
    ):
        first, second = evaluate(), evaluate()

        assert first.evaluation.identity == second.evaluation.identity != ""
        assert score_of(first).standing == Standing.RANKED
        assert score_of(second).standing == Standing.REPEATED

    @pytest.mark.parametrize(
        ("options", "fields"),
        [
            ({"weights": "c" * 64}, {}),
            ({"template_hash": "c" * 64}, {}),
            ({"jax_backend": "gpu"}, {}),
            ({}, {"system_prompt": "Answer briefly."}),
        ],
        ids=["weights", "template", "engine", "system prompt"],
    )
    def test_what_decides_the_outputs_makes_another_row(
        self, evaluate: Evaluate, options: dict[str, Any], fields: dict[str, Any]
    ):
        first, second = evaluate(), evaluate(options=options, **fields)

        assert first.evaluation.identity != second.evaluation.identity
        assert score_of(second).standing == Standing.RANKED

    def test_items_that_are_none_take_the_evaluation_out_of_comparisons(self, evaluate: Evaluate):
        evaluate()
        run = evaluate(
            options={"upto": 39},
            script=[["put", names.RESULT, json.dumps({"weights_sha256": "a" * 64})]],
        )

        assert run.status == "completed"
        assert not run.evaluation.complete
        assert run.evaluation.problem.startswith("It has answered 39 questions that are not the 40")
        assert score_of(run).standing == Standing.PARTIAL

    def test_an_evaluation_without_any_output_has_no_score(self, evaluate: Evaluate):
        run = evaluate(options={"upto": 0})

        assert run.evaluation.problem == "It has no outputs."
        assert score_of(run).mean is None

    def test_nul_and_control_tokens_in_outputs_are_no_trouble(self, evaluate: Evaluate, api):
        run = evaluate(options={"text": "\0<|im_end|>\ud800" + "a" * 100_000})

        answer = api.get(f"/api/tunix/evaluations/{run.pk}/items").json()
        text = answer["data"][0]["outputs"][0]["text"]
        assert "\0" not in text and "<|im_end|>" in text and len(text) <= 2**16


class TestReuse:
    def test_outputs_with_equal_model_questions_and_settings_are_scored_again(
        self, evaluate: Evaluate
    ):
        first = evaluate()
        second = evaluate(reuse=True, scorers=[{"name": "contains"}])

        assert second.evaluation.source_id == first.pk
        manifest = parse_manifest((run_folder(second) / names.MANIFEST).read_text())
        assert manifest["outputs_from"] == {
            "path": names.OUTPUTS,
            "sha256": first.evaluation.outputs,
        }
        copied = (run_folder(second) / names.OUTPUTS).read_bytes()
        assert copied == (run_folder(first) / names.ITEMS).read_bytes()

    @pytest.mark.parametrize("fields", [{"max_tokens": 8}, {"limit": 30}, {"dtype": "float32"}])
    def test_other_outputs_are_generated(self, evaluate: Evaluate, fields: dict[str, Any]):
        evaluate()
        second = evaluate(reuse=True, **fields)

        assert second.evaluation.source_id is None

    def test_outputs_that_were_edited_are_generated_again(self, evaluate: Evaluate):
        first = evaluate()
        with open(run_folder(first) / names.ITEMS, "a") as file:
            file.write("{}\n")

        assert evaluate(reuse=True).evaluation.source_id is None

    def test_asked_for_edited_outputs_the_run_fails(self, evaluate: Evaluate):
        first = evaluate()
        with open(run_folder(first) / names.ITEMS, "a") as file:
            file.write("{}\n")
        second = evaluate(outputs_from=str(first.pk), scorers=[{"name": "contains"}])

        assert second.status == "failed"
        assert "were changed since it ended" in second.message

    def test_settings_of_the_source_are_taken_and_others_refused(self, evaluate: Evaluate):
        first = evaluate(max_tokens=8)

        asked = clean_evaluation({"outputs_from": str(first.pk), "scorers": [{"name": "contains"}]})
        assert asked.training["max_tokens"] == 8 and asked.dataset_key == "quiz-v1"
        with pytest.raises(InvalidRequest) as refused:
            clean_evaluation({"outputs_from": str(first.pk), "max_tokens": 16})
        assert list(refused.value.errors) == ["max_tokens"]

    def test_a_retry_continues_with_the_items_that_there_are(self, evaluate: Evaluate, user: User):
        run = evaluate(options={"upto": 10}, script=[["leave", 17, "tunix: interrupted: stop"]])
        retry = retry_run(run=run, by=user)

        assert (retry.resume_from_id, retry.resume) == (run.pk, True)
        assert Look.objects.count() == 1  # the same attempt


class TestSubjects:
    def test_a_run_that_is_not_there_is_refused(self, make_dataset):
        make_dataset("quiz")
        run_id = "0c5b7a52-6d3f-4f0e-9c1b-2f1f6f0c9a11"
        asked = clean_evaluation({"dataset_key": "quiz-v1", "model_id": f"run:{run_id}"})

        with pytest.raises(InvalidRequest, match=f"Run not found: {run_id}"):
            submit_run(request=asked, by=User.objects.create_user("x"), queued=True)

    @pytest.mark.parametrize(
        "fields",
        [
            {"stop": ["\ud800"]},
            {"system_prompt": "\0"},
            {"scorers": [{"name": "regex", "parameters": {"pattern": "\ud800"}}]},
            {"scorers": [{"name": "json_schema", "parameters": {"schema": {"\0": 1}}}]},
        ],
    )
    def test_what_no_database_can_store_is_refused(self, fields: dict[str, Any]):
        with pytest.raises(InvalidRequest, match="cannot be stored"):
            clean_evaluation({"dataset_key": "quiz-v1", "model_id": "preset:tiny-llama"} | fields)

    @pytest.mark.parametrize("text", ["run:", "run:x", "run:../..", f"run:{'0' * 36}", "run:a@1"])
    def test_what_names_no_run_is_refused(self, text: str):
        with pytest.raises(InvalidRequest, match="model of a run is run:<run id>"):
            clean_evaluation({"dataset_key": "quiz-v1", "model_id": text})

    def test_a_checkpoint_is_found_with_what_it_was_trained_from(
        self, evaluate: Evaluate, trained: Run
    ):
        run = evaluate(model_id=f"run:{trained.pk}@4")

        section = parse_manifest((run_folder(run) / names.MANIFEST).read_text())["model"]
        assert section["id"] == "preset:tiny-llama"
        assert section["checkpoints"] == str(run_folder(trained) / names.CHECKPOINTS)
        assert section["step"] == 4
        assert run.evaluation.subject == trained and run.evaluation.step == 4
        assert run.evaluation.lineage == "preset:tiny-llama"

    def test_a_checkpoint_that_is_not_there_names_those_that_are(
        self, trained: Run, make_dataset, user: User
    ):
        make_dataset("quiz")
        asked = clean_evaluation({"dataset_key": "quiz-v1", "model_id": f"run:{trained.pk}@3"})

        with pytest.raises(InvalidRequest, match=r"no checkpoint of step 3; it has 2, 4\."):
            submit_run(request=asked, by=user, queued=True)

    def test_a_run_without_a_model_names_its_last_checkpoint(self, trained: Run, user: User):
        asked = clean_evaluation({"dataset_key": "sums-v1", "model_id": f"run:{trained.pk}"})

        with pytest.raises(InvalidRequest, match=f"last checkpoint is run:{trained.pk}@4"):
            submit_run(request=asked, by=user, queued=True)

    def test_a_run_that_is_evaluated_is_not_removed_meanwhile(
        self, trained: Run, user: User, dataset: Dataset
    ):
        asked = clean_evaluation({"dataset_key": "sums-v1", "model_id": f"run:{trained.pk}@2"})
        submit_run(request=asked, by=user, queued=True)

        with pytest.raises(StateConflict, match="evaluates the model of this run"):
            trash_run(run=trained, by=user)
        assert trained in Run.objects.needed()

    def test_evaluations_are_not_in_the_history(self, evaluate: Evaluate, api):
        run = evaluate()

        assert api.get("/api/tunix/runs").json()["data"] == []
        found = api.get("/api/tunix/runs?kind=evaluate").json()["data"]
        assert [one["run_id"] for one in found] == [str(run.pk)]
        assert api.get("/api/tunix/runs?q=kind:evaluate").json()["data"] == found
