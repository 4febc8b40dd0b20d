"""Comparisons of evaluations: what is paired, how sure a difference is, what else differs."""

import io
import json
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from datasets.imports.importers import ImportRequest
from datasets.imports.importing import import_file
from datasets.models import Dataset
from runs.models import Run
from runs.models.evaluation import unpack_hashes
from runs.queries import evaluation_comparison as comparing
from runs.queries.compared_items import ItemsAway, answered_hashes, facts_of, outputs_of
from runs.queries.evaluation_comparison import (
    NotComparable,
    compare_evaluations,
    difference_of,
    find_evaluations,
    pair_questions,
)
from runs.runfolder import names
from runs.services.deletion import trash_run
from runs.services.erasing import affected_by, erase
from runs.services.reservations import run_folder
from runs.tests.conftest import Evaluate, Submit

# 6 both, 20 only the first, 8 only the second, 6 neither
FIRST = [1] * 6 + [1] * 20 + [0] * 8 + [0] * 6
SECOND = [1] * 6 + [0] * 20 + [1] * 8 + [0] * 6


def compared(*runs: Run) -> comparing.Comparison:
    found, missing = find_evaluations([run.pk for run in runs])
    assert missing == []
    return compare_evaluations(found)


class TestDifferences:
    def test_right_and_wrong_by_the_exact_test(self):
        """20 against 8 discordant questions have p = 0.0357 (the facts of lm-eval's tracker)."""
        found = difference_of(FIRST, SECOND)

        assert (found.n, found.better_on, found.worse_on) == (40, 20, 8)
        assert found.mean == pytest.approx(26 / 40)
        assert found.baseline_mean == pytest.approx(14 / 40)
        assert found.difference == pytest.approx(12 / 40)
        assert found.p_value == pytest.approx(0.0357, abs=5e-5)
        assert found.low < 0.3 < found.high
        assert found.verdict == comparing.BETTER
        assert difference_of(SECOND, FIRST).verdict == comparing.WORSE

    def test_the_smallest_effect_is_that_of_the_spread(self):
        """By hand: the differences 1, −1 and 0 have a variance of (28 − 12²/40) / 39."""
        spread = (28 - 12**2 / 40) / 39
        expected = (1.959964 + 0.841621) * (spread / 40) ** 0.5

        assert difference_of(FIRST, SECOND).smallest_effect == pytest.approx(expected, abs=1e-5)

    def test_questions_without_a_score_of_both_take_no_part(self):
        found = difference_of([1, None, 0, 1], [0, 1, None, 1])

        assert (found.n, found.better_on, found.worse_on) == (2, 1, 0)

    @pytest.mark.parametrize("scores", [[], [1], [None, 1]])
    def test_one_pair_says_nothing(self, scores: list[Any]):
        found = difference_of(scores, [0] * len(scores))

        assert (found.difference, found.verdict) == (None, comparing.UNDECIDED)

    def test_where_less_is_better_less_is_better(self):
        first = [2.0 + number % 7 / 10 for number in range(40)]
        second = [score + 0.5 + number % 3 / 10 for number, score in enumerate(first)]
        found = difference_of(first, second, lower_is_better=True)

        assert found.difference == pytest.approx(-0.5975)
        assert (found.better_on, found.worse_on) == (40, 0)
        assert found.verdict == comparing.BETTER

    def test_many_graded_scores_need_no_resampling(self):
        first = [number % 10 / 10 for number in range(1000)]
        second = [score / 2 for score in first]
        found = difference_of(first, second)

        # by hand: mean 0.225, variance (0.0825 / 4) · 1000/999
        half = 1.959964 * (0.020625 / 999) ** 0.5
        assert (found.low, found.high) == pytest.approx((0.225 - half, 0.225 + half), abs=1e-6)
        assert "normal" in found.method


class TestQuestions:
    def test_discordant_ones_come_first(self):
        found = pair_questions([1, 0.5, 0, None, 0], [1, 0, 1, 1, 0])

        assert found.places == [2, 1, 0, 4]
        assert found.counts == {
            "first": 1, "second": 1, "both_wrong": 1, "both_right": 1, "equal": 0,
        }  # fmt: skip
        assert (found.unpaired, found.binary) == (1, False)

    @pytest.mark.parametrize(
        ("only", "places"), [("first", [1]), ("second", [2]), ("both_wrong", [3]), ("equal", [])]
    )
    def test_of_one_relation(self, only: str, places: list[int]):
        found = pair_questions([1, 1, 0, 0], [1, 0, 1, 0], only=only)

        assert found.places == places and found.binary

    def test_where_less_is_better(self):
        found = pair_questions([1.0, 2.0, 0.0], [2.0, 1.0, 0.0], lower_is_better=True)

        assert (found.counts["first"], found.counts["second"], found.counts["equal"]) == (1, 1, 1)


@pytest.mark.django_db
class TestEvaluations:
    def test_are_paired_with_the_leftmost(self, evaluate: Evaluate):
        base, tuned = evaluate({"exact_match": SECOND}), evaluate({"exact_match": FIRST})
        comparison = compared(base, tuned)
        (measured,) = comparing.measure(comparison)

        assert measured.label == "exact_match"
        assert [cell.mean.mean for cell in measured.cells] == [14 / 40, 26 / 40]
        assert measured.cells[0].against is None
        against = measured.cells[1].against
        assert (against.n, against.better_on, against.worse_on) == (40, 20, 8)
        assert comparison.differing == []
        assert comparing.headline(comparison) is None

    def test_samples_of_a_question_are_averaged_first(self, evaluate: Evaluate):
        one = evaluate({"exact_match": [[1, 0, 0, 0]]}, samples=4, temperature=1.0)
        two = evaluate({"exact_match": [[1, 1, 0, 0]]}, samples=4, temperature=1.0)
        (measured,) = comparing.measure(compared(one, two))

        assert measured.cells[1].against.n == 40
        assert measured.cells[1].against.difference == pytest.approx(0.25)

    def test_several_scorers_have_a_weighted_headline(self, evaluate: Evaluate):
        scorers = [{"name": "exact_match", "weight": 3}, {"name": "contains"}]
        one = evaluate({"exact_match": [0], "contains": [1]}, scorers=scorers)
        two = evaluate({"exact_match": [1], "contains": [0, None]}, scorers=scorers)
        comparison = compared(one, two)
        headline = comparing.headline(comparison)

        assert [cell.mean.mean for cell in headline.cells] == [0.25, 0.75]
        assert headline.cells[1].mean.n == 20  # with a score of both
        assert headline.cells[1].against.difference == pytest.approx(0.5)
        assert headline.label == "Weighted: exact_match × 3, contains × 1"

    def test_only_what_both_answered_is_paired(self, evaluate: Evaluate):
        whole = evaluate({"exact_match": [0]})
        part = evaluate(
            {"exact_match": [1, 0]},
            options={"upto": 10},
            script=[["leave", 17, "tunix: interrupted: stop"]],
        )
        comparison = compared(whole, part)
        (measured,) = comparing.measure(comparison)

        assert comparison.entries[1].is_partial
        against = measured.cells[1].against
        assert (against.n, against.better_on, against.mean) == (10, 5, 0.5)
        assert answered_hashes(part) == unpack_hashes(whole.evaluation.questions.hashes)[:10]

    def test_two_partial_ones_are_paired_by_question(self, evaluate: Evaluate):
        stop = [["leave", 17, "tunix: interrupted: stop"]]
        one = evaluate(options={"upto": 10}, script=stop)
        two = evaluate({"exact_match": [1]}, options={"upto": 20}, script=stop)
        comparison = compared(two, one)

        assert len(comparison.hashes) == 20
        assert comparing.measure(comparison)[0].cells[1].against.n == 10

    def test_a_partial_one_whose_file_is_gone_is_not_guessed(self, evaluate: Evaluate):
        whole = evaluate()
        part = evaluate(options={"upto": 10}, script=[["leave", 17, "tunix: interrupted: stop"]])
        (run_folder(part) / names.ITEMS).unlink()
        comparison = compared(whole, part)

        assert comparison.entries[1].why_not.startswith("It has not answered all questions.")
        assert comparing.measure(comparison) == []

    def test_erased_examples_keep_whole_evaluations_comparable_and_partial_ones_out(
        self, evaluate: Evaluate, staff: User
    ):
        whole = evaluate()
        part = evaluate(options={"upto": 10}, script=[["leave", 17, "tunix: interrupted: stop"]])
        again = evaluate()
        with open(run_folder(part) / names.ITEMS, encoding="utf-8") as file:
            erased = json.loads(file.readline())
        affected = affected_by(trace_ids=[uuid.UUID(erased["id"])], by=staff)
        erase(affected=affected, confirmed=affected.count, by=staff)
        comparison = compared(whole, part, again)

        assert "examples were erased" in comparison.entries[1].why_not
        assert comparing.measure(comparison)[0].cells[2].against.n == 40
        assert outputs_of(whole, [erased["hash"]], reader=whole.owner) == {}

    def test_what_has_not_the_questions_of_the_set_is_not_compared(self, evaluate: Evaluate):
        whole = evaluate()
        other = evaluate(
            options={"upto": 39},
            script=[["put", names.RESULT, json.dumps({"weights_sha256": "a" * 64})]],
        )

        assert "39 questions that are not the 40" in compared(whole, other).entries[1].why_not

    def test_every_setting_that_differs_is_named(self, evaluate: Evaluate):
        one = evaluate({"regex": [1]}, scorers=[{"name": "regex", "parameters": {"pattern": "a"}}])
        two = evaluate(
            {"regex": [1]},
            options={"template_hash": "c" * 64, "jax_backend": "gpu"},
            scorers=[{"name": "regex", "parameters": {"pattern": "b"}}],
            max_tokens=8,
            seed=1,
            system_prompt="Answer briefly. " * 50,
        )
        comparison = compared(one, two)
        lines = {line.label: line.values for line in comparison.differing}

        assert lines.keys() == {
            "max_tokens", "seed", "system_prompt", "chat template", "engine", "scorer regex",
        }  # fmt: skip
        assert lines["max_tokens"] == [256, 8]
        assert lines["system_prompt"][0] is None
        assert len(lines["system_prompt"][1]) < 200 and "SHA-256" in lines["system_prompt"][1]
        assert "pattern a" in lines["scorer regex"][0] and "pattern b" in lines["scorer regex"][1]
        assert comparing.measure(comparison) == []  # another scorer

    def test_of_other_questions_they_are_refused(self, submit: Submit):
        one, two = submit(kind="evaluate"), submit(kind="evaluate", limit=2)

        with pytest.raises(NotComparable, match=r"different questions: sums-v1 .*2 questions"):
            find_evaluations([one.pk, two.pk])

    def test_what_is_in_the_trash_is_missing(self, evaluate: Evaluate):
        one, two, three = evaluate(), evaluate(), evaluate()
        trash_run(run=three, by=three.owner)

        found, missing = find_evaluations([three.pk, one.pk, two.pk])
        assert (found, missing) == ([one, two], [three.pk])
        with pytest.raises(NotComparable, match="Fewer than two"):
            find_evaluations([one.pk, three.pk])

    @pytest.mark.parametrize("count", [0, 1, 11])
    def test_too_few_or_many_are_refused(self, count: int):
        with pytest.raises(NotComparable, match="Choose 2 to 10 evaluations"):
            find_evaluations([uuid.uuid4() for _ in range(count)])


@pytest.fixture
def quiz(db: None) -> Dataset:
    """``quiz-v1`` with columns: a level, a topic with few and many questions, and no groups."""
    lines = [
        {
            "prompt": f"quiz {number}?",
            "final_answer": str(number),
            "meta": {
                "level": number % 2,
                "topic": "rare" if number < 5 else "common",
                "serial": f"{number}" * 40,
                "nested": {"a": 1},
            },
        }
        for number in range(60)
    ]
    file = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return import_file(
        file=io.BytesIO(file),
        request=ImportRequest(name="quiz", version="v1", kind="prompt"),
        by=None,
    )


@pytest.mark.django_db
class TestSlices:
    def test_are_of_columns_with_few_short_values(
        self, evaluate: Evaluate, quiz: Dataset, api: APIClient
    ):
        one, two = evaluate({"exact_match": [0]}), evaluate({"exact_match": [1]})
        comparison = compared(one, two)
        facts = facts_of([one], reader=one.owner)
        found = comparing.slices(
            comparison,
            comparing.measure(comparison)[0].hash,
            facts.columns["topic"],
        )

        assert sorted(facts.columns) == ["level", "topic"]
        assert [(slice.value, slice.n, slice.too_few) for slice in found] == [
            ("common", 55, False),
            ("rare", 5, True),
        ]
        assert [cell.mean.mean for cell in found[0].cells] == [0, 1]
        assert found[1].cells[1].against.n == 5
        assert found[1].cells[1].against.difference == 1

        ask = f"/api/tunix/evaluations/compare?ids={one.pk},{two.pk}&column="
        answer = api.get(f"{ask}topic").json()
        assert answer["columns"] == ["level", "topic"]
        assert [(one["value"], one["n"], one["too_few"]) for one in answer["slices"]] == [
            ("common", 55, False),
            ("rare", 5, True),
        ]
        assert answer["slices"][1]["scores"][1]["against_baseline"]["difference"] == 1
        refused = api.get(f"{ask}serial")
        assert refused.status_code == 422 and "level, topic" in refused.content.decode()

    def test_come_from_the_first_file_that_is_still_the_scored_one(
        self, evaluate: Evaluate, quiz: Dataset
    ):
        one, two = evaluate(), evaluate()
        with open(run_folder(one) / names.ITEMS, "a") as file:
            file.write("{}\n")

        assert facts_of([one, two], reader=one.owner).columns.keys() == {"level", "topic"}
        with pytest.raises(ItemsAway, match="were changed after they were scored"):
            facts_of([one], reader=one.owner)
