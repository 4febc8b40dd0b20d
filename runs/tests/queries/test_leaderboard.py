"""Leaderboards, and ways to cheat that do not work."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets.comparison.overlaps import compute_overlap
from datasets.models import Dataset
from runs.execution.launching import launch_pending, wait_for
from runs.models import Evaluation, EvaluationSet, Look, Run, Score, Standing
from runs.models.evaluation import pack_scores
from runs.queries.leaderboard import (
    Board,
    boards_of,
    decode_mark,
    read_board,
    tie_groups,
    unranked,
)
from runs.runfolder import names
from runs.services.deletion import purge_run, trash_run
from runs.services.reservations import run_folder
from runs.spec.statistics import mcnemar
from runs.tests.conftest import Evaluate, Script

pytestmark = pytest.mark.django_db
GOOD, BETTER, BAD = [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]


def the_board(label: str = "exact_match") -> Board:
    [questions] = EvaluationSet.objects.exclude(hashes=b"")
    return next(board for board in boards_of(questions) if board.label == label)


def rows(label: str = "exact_match") -> Any:
    return read_board(the_board(label), limit=20)[0]


@pytest.fixture
def model(evaluate: Evaluate):
    """Evaluates models that differ in their weights."""

    def make(name: str, scores: list[Any], **fields: Any) -> Run:
        options = fields.pop("options", {}) | {"weights": (name * 64)[:64]}
        return evaluate({"exact_match": scores}, options=options, **fields)

    return make


@pytest.fixture
def trained(scripted: Script, submit, user: User):
    """Trains on a dataset, and leaves a checkpoint."""

    def make(dataset: Dataset, **fields: Any) -> Run:
        scripted(["checkpoint", 2])
        run = submit(dataset_key=dataset.dataset_key, **fields)
        launch_pending()
        run.refresh_from_db()
        return wait_for(run)

    return make


class TestOrder:
    def test_the_lower_bound_decides_and_ties_are_groups(self, model):
        bad, good, better = model("a", BAD), model("b", GOOD), model("c", BETTER)

        found = rows()
        assert [row.evaluation.pk for row in found] == [better.pk, good.pk, bad.pk]
        assert [row.place for row in found] == [1, 2, 3]
        # 40 against 30 of 40: p = 0.002; 30 against 10
        assert [row.group for row in found] == [1, 2, 3]

    def test_what_chance_may_have_made_is_one_group(self, model):
        model("a", GOOD), model("b", [1, 1, 0, 1])

        assert mcnemar(10, 10) > 0.05
        assert [row.group for row in rows()] == [1, 1]

    def test_groups_are_told_by_their_first_row(self):
        one = [1.0] * 60 + [0.0] * 40
        two = [1.0] * 56 + [0.0] * 44  # four fewer than the first: p = 0.125
        three = [1.0] * 52 + [0.0] * 48  # eight fewer than the first: p = 0.008
        assert tie_groups([one, two, three]) == [1, 1, 2]

    def test_fewer_than_thirty_questions_are_shown_apart(self, evaluate: Evaluate):
        run = evaluate({"exact_match": BETTER}, limit=29)
        board = the_board()

        assert read_board(board, limit=20) == ([], None)
        assert [score.evaluation_id for score in unranked(board)] == [run.pk]

    def test_pages_follow_each_other(self, model):
        made = [model(name, [1] * (10 - place) + [0]) for place, name in enumerate("abcde")]
        board, seen, mark = the_board(), [], None
        while True:
            page, mark = read_board(board, limit=2, behind=mark)
            seen += [(row.place, row.evaluation.pk) for row in page]
            if mark is None:
                break
            mark = decode_mark(mark.encode())

        assert [place for place, _ in seen] == [1, 2, 3, 4, 5]
        assert {pk for _, pk in seen} == {run.pk for run in made}

    def test_a_base_model_stands_beside_what_was_trained_from_it(
        self, model, trained, make_dataset
    ):
        tuned = trained(make_dataset("other", prompt="other {}"))
        base = model("a", BAD)
        child = model("b", GOOD, model_id=f"run:{tuned.pk}@2")

        found = {row.evaluation.pk: row for row in rows()}
        assert found[base.pk].base is None
        assert found[child.pk].base.run_id == base.pk
        assert found[child.pk].base.difference == 0.5
        assert found[child.pk].base.is_real

    def test_further_columns(self, evaluate: Evaluate):
        scorers = [{"name": "exact_match"}, {"name": "contains"}]
        run = evaluate({"exact_match": GOOD, "contains": BETTER}, scorers=scorers)

        other = the_board("contains").scorer_hash
        [row], _ = read_board(the_board(), limit=20, columns=[other])
        assert (row.evaluation.pk, row.others) == (run.pk, {other: 1.0})


class TestCheats:
    def test_duplicates_have_one_place(self, model):
        first = model("a", GOOD)
        for _ in range(3):
            model("a", GOOD)

        [row] = rows()
        assert (row.evaluation.pk, row.looks) == (first.pk, 4)

    def test_the_best_seed_does_not_take_the_place_of_the_first(self, model):
        first = model("a", GOOD, seed=0)
        lucky = model("a", BETTER, seed=1)

        [row] = rows()
        assert row.evaluation.pk == first.pk
        assert (row.seeds, row.seeds_mean) == (2, 0.875)
        assert Score.objects.get(evaluation=lucky.pk).standing == Standing.RESEEDED

    def test_a_model_trained_on_the_questions_is_said_to_be(self, model, trained, make_dataset):
        quiz = make_dataset("quiz", size=40, prompt="quiz {}?")
        cheat = model("a", BETTER, model_id=f"run:{trained(quiz).pk}@2")

        [row] = rows()
        assert row.evaluation.pk == cheat.pk
        assert row.contamination.itself
        assert row.contamination.sentence == "Trained on these very questions."

    def test_questions_that_were_learnt_are_left_out_of_a_second_score(
        self, model, trained, make_dataset
    ):
        """Ten of the forty questions are in what was learnt, and only these are right."""
        quiz = make_dataset("quiz", size=40, prompt="quiz {}?")
        part = make_dataset("part", size=10, prompt="quiz {}?")
        compute_overlap(part, quiz, by=None)
        run = trained(part)
        model("a", BAD, model_id=f"run:{run.pk}@2")
        learnt = {str(item.trace_id) for item in part.items.all()}
        right_if_learnt(learnt)

        [row] = rows()
        assert row.contamination.found == 10
        assert (row.score.mean, row.clean.mean, row.clean.n) == (0.25, 0, 30)

    def test_what_was_not_compared_is_said_to_be_unknown(self, model, trained, make_dataset):
        other = make_dataset("other", prompt="other {}")
        model("a", GOOD, model_id=f"run:{trained(other).pk}@2")

        [row] = rows()
        assert row.contamination.unknown == ("other-v1",)
        assert row.contamination.sentence == "Not compared yet: other-v1."

    def test_another_scorer_is_another_board(self, evaluate: Evaluate):
        evaluate()
        easier = [{"name": "exact_match", "parameters": {"ignore_case": True}}]
        evaluate({"exact_match": BETTER}, scorers=easier)

        [questions] = EvaluationSet.objects.all()
        assert len(boards_of(questions)) == 2
        for board in boards_of(questions):
            assert len(read_board(board, limit=20)[0]) == 1

    def test_outputs_that_are_edited_afterwards_change_nothing(self, model):
        run = model("a", BAD)
        path = run_folder(run) / names.ITEMS
        path.write_text(path.read_text().replace('"exact_match": 0', '"exact_match": 1'))

        [row] = rows()
        assert row.score.mean == 0.25

    def test_another_template_or_engine_is_another_row(self, evaluate: Evaluate):
        for options in ({}, {"template_hash": "c" * 64}, {"jax_backend": "gpu"}):
            evaluate(options=options)

        assert len(rows()) == 3
        assert len({row.evaluation.engine for row in rows()}) == 2

    def test_attempts_that_are_deleted_still_count(self, model, staff: User):
        bad = model("a", BAD)
        trash_run(run=bad, by=staff)
        purge_run(run=bad, by=staff)
        model("b", GOOD)

        [row] = rows()
        assert row.looks == 2 == Look.objects.count()

    def test_a_score_that_a_program_claims_is_not_taken(self, evaluate: Evaluate):
        evaluate({"exact_match": BAD}, options={"mean": 1.0, "weighted": {"mean": 1.0}})

        [row] = rows()
        assert row.score.mean == 0.25


def right_if_learnt(learnt: set[str]) -> None:
    """Make the one evaluation right at the questions whose examples were learnt, and at no other:
    the scripted program answers by place and knows no example."""
    from runs.models.evaluation import unpack_examples  # noqa: PLC0415

    score = Score.objects.select_related("questions").get()
    order = unpack_examples(score.questions.examples)
    score.values = pack_scores(float(str(pk) in learnt) for pk in order)
    score.save()


class TestPage:
    def test_it_shows_the_rows(self, remote_client: Client, user: User, model):
        remote_client.force_login(user)
        model("a", GOOD)
        key = EvaluationSet.objects.get().key

        assert "quiz-v1" in remote_client.get("/leaderboards").content.decode()
        page = remote_client.get(f"/leaderboards/{key}").content.decode()
        assert "75 %" in page and "preset:tiny-llama" in page

    @pytest.mark.parametrize("query", ["scorer=x", "scorer=%00"])
    def test_a_scorer_that_is_not_there_is_404(
        self, remote_client: Client, user: User, model, query: str
    ):
        remote_client.force_login(user)
        model("a", GOOD)
        key = EvaluationSet.objects.get().key
        assert remote_client.get(f"/leaderboards/{key}?{query}").status_code == 404

    @pytest.mark.parametrize("key", ["x", "0" * 64, "%00"])
    def test_a_set_that_is_not_there_is_404(self, remote_client: Client, user: User, key: str):
        remote_client.force_login(user)
        assert remote_client.get(f"/leaderboards/{key}").status_code == 404

    @pytest.mark.parametrize("cursor", ["x", "AAAA", "f_gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"])
    def test_a_cursor_that_is_none_is_422(
        self, remote_client: Client, user: User, model, cursor: str
    ):
        remote_client.force_login(user)
        model("a", GOOD)
        key = EvaluationSet.objects.get().key
        assert remote_client.get(f"/leaderboards/{key}?cursor={cursor}").status_code == 422

    def test_the_api_answers_the_same(self, api, model):
        model("a", GOOD)
        [found] = api.get("/api/tunix/leaderboards").json()["data"]
        address = f"/api/tunix/leaderboards/{found['questions']['key']}?scorer=exact_match"
        [row] = api.get(address).json()["data"]
        assert (row["place"], row["mean"], row["looks"]) == (1, 0.75, 1)

    def test_it_walks_an_index_and_costs_the_same_queries(self, model):
        for name in "ab":
            model(name, GOOD)
        board = the_board()
        with CaptureQueriesContext(connection) as two:
            assert len(read_board(board, limit=20)[0]) == 2
        model("c", GOOD)
        with CaptureQueriesContext(connection) as three:
            assert len(read_board(board, limit=20)[0]) == 3
        assert len(two) == len(three)
        if connection.vendor == "sqlite":
            ranked = Score.objects.filter(
                questions=board.questions,
                scorer_hash=board.scorer_hash,
                standing=Standing.RANKED,
            ).order_by("-bound", "-evaluation")
            assert "ix_score_leaderboard" in ranked.explain()
            assert "TEMP B-TREE" not in ranked.explain()
            family = Evaluation.objects.filter(family__in=["a", "b"]).order_by()
            assert "ix_evaluation_family" in family.explain()
