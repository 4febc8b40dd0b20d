"""Votes of people: rounds, blind questions, votes, what came of them, and datasets of them."""

import json
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from datasets.examples.kinds import content_of
from datasets.models import Dataset
from datasets.services.refusals import DatasetExists, InvalidDataset
from runs.models import Choice, Run, Vote, VoteRound
from runs.models.vote import SIDES
from runs.queries import votes as reading
from runs.queries.votes import Agreement, agreement, beside_people, read_results, win_rate
from runs.runfolder import names
from runs.runfolder.erasing import erase_examples
from runs.services import votes as voting
from runs.services.deletion import purge_run, trash_run
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest
from runs.services.votes import (
    PROMPT_CHARACTERS,
    Pair,
    PairGone,
    QuestionNotFound,
    cast_vote,
    find_round,
    left_side,
    make_preferences,
    questions_of,
    read_pairs,
    start_round,
    voting_order,
)
from runs.spec import statistics
from runs.tests.conftest import Evaluate
from runs.trainer.evaluation.record import FIELD_CHARACTERS

pytestmark = pytest.mark.django_db
Start = Callable[..., VoteRound]
GOOD, BAD = "Because 1 and 1 are 2.", "I do not know."


@pytest.fixture
def start(evaluated: Evaluate, user: User) -> Start:
    """Starts a round of votes on two evaluations that wrote ``first`` and ``second`` (a text, or a
    list for one question after the other)."""

    def make(first: Any = GOOD, second: Any = BAD, *, seed: int = 7, **fields: Any) -> VoteRound:
        runs = [
            evaluated(options={"text": text}, seed=number, **fields)
            for number, text in enumerate((first, second))
        ]
        return start_round(evaluations=[run.pk for run in runs], seed=seed, by=user)

    return make


@pytest.fixture
def other(db: None) -> User:
    return User.objects.create(username="somebody else")


def key_for(round: VoteRound, voter: User, question: str, side: str) -> str:
    """The key that a voter presses for one of the two evaluations."""
    return "1" if left_side(round, voter.pk, question) == side else "2"


def vote_all(round: VoteRound, voter: User, choices: list[str]) -> None:
    """Vote on the first questions, by their hashes, with one choice after the other."""
    for question, choice in zip(questions_of(round), choices, strict=False):
        key = {"tie": "0", "skip": "s"}.get(choice) or key_for(round, voter, question, choice)
        cast_vote(round=round, question=question, key=key, by=voter)


class TestStart:
    def test_questions_with_equal_outputs_are_left_out(self, start: Start):
        round = start(["same", GOOD, "same ", "same"], ["same", BAD, "same", "other"])

        assert (round.size, round.equal) == (20, 20)
        assert round.questions.size == 40

    def test_equal_outputs_leave_nothing_to_choose(self, start: Start):
        with pytest.raises(StateConflict, match="the same outputs"):
            start(GOOD, GOOD)

    def test_a_seed_is_drawn_where_none_is_given(self, evaluated: Evaluate, user: User):
        runs = [evaluated(options={"text": text}).pk for text in (GOOD, BAD)]
        seeds = {start_round(evaluations=runs, by=user).seed for _ in range(4)}
        assert len(seeds) > 1

    def test_one_evaluation_twice_is_refused(self, evaluated: Evaluate, user: User):
        run = evaluated()
        with pytest.raises(InvalidRequest, match="two different"):
            start_round(evaluations=[run.pk, run.pk], by=user)

    @pytest.mark.parametrize("given", [[], ["x", "y"], ["x"], ["", ""]])
    def test_what_is_no_evaluation_is_refused(self, given: list[str], user: User):
        with pytest.raises(InvalidRequest):
            start_round(evaluations=given, by=user)

    def test_evaluations_of_other_questions_are_refused(self, evaluated: Evaluate, user: User):
        runs = [evaluated().pk, evaluated(limit=10).pk]
        with pytest.raises(InvalidRequest, match="different questions"):
            start_round(evaluations=runs, by=user)

    def test_an_evaluation_that_ended_early_is_refused(self, evaluated: Evaluate, user: User):
        runs = [evaluated().pk, evaluated(options={"upto": 5}).pk]
        with pytest.raises(StateConflict, match="has not answered all"):
            start_round(evaluations=runs, by=user)

    def test_outputs_that_were_edited_are_refused(self, evaluated: Evaluate, user: User):
        runs = [evaluated(options={"text": text}) for text in (GOOD, BAD)]
        path = run_folder(runs[1]) / names.ITEMS
        path.write_text(path.read_text().replace(BAD, "The best answer of all."))

        with pytest.raises(StateConflict, match="not those that were scored"):
            start_round(evaluations=[run.pk for run in runs], by=user)


class TestBlind:
    def test_sides_and_order_follow_the_seed_and_differ_between_voters(
        self, start: Start, user: User, other: User
    ):
        round = start()
        orders = [voting_order(round, voter.pk) for voter in (user, other)]
        sides = [
            [left_side(round, voter.pk, one) for one in questions_of(round)]
            for voter in (user, other)
        ]

        assert orders[0] == voting_order(round, user.pk) and orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1]) == sorted(questions_of(round))
        assert sides[0] != sides[1]
        assert all(set(one) == set(SIDES) for one in sides)

    def test_outputs_stand_on_the_side_that_a_vote_counts_for(self, start: Start, user: User):
        round = start()
        for _ in range(round.size):
            asked = reading.next_question(round, user).asked
            assert asked is not None
            key = "1" if asked.outputs[0] == GOOD else "2"
            cast_vote(round=round, question=asked.question, key=key, by=user)

        assert set(round.votes.values_list("choice", flat=True)) == {Choice.FIRST}
        assert set(round.votes.values_list("left", flat=True)) == set(SIDES)
        ballot = reading.next_question(round, user)
        assert (ballot.asked, ballot.done, ballot.total) == (None, 40, 40)

    def test_a_question_is_shown_as_the_model_saw_it(self, start: Start, user: User):
        round = start("\x00 odd <b>\ud800", BAD, system_prompt="Be brief.")
        asked = reading.next_question(round, user).asked

        assert asked is not None
        assert [one["role"] for one in asked.prompt] == ["system", "user"]
        assert asked.prompt[0]["content"] == "Be brief."
        assert "\ufffd odd <b>\ufffd" in asked.outputs


class TestVote:
    def test_a_second_vote_takes_the_place_of_the_first(self, start: Start, user: User):
        round = start()
        [question, *_] = questions_of(round)
        for key in ("1", "0", "s", "2"):
            cast_vote(round=round, question=question, key=key, by=user)

        vote = Vote.objects.get()
        assert vote.choice == SIDES[1 - SIDES.index(vote.left)]
        again = reading.question_again(round, user, question).asked
        assert again is not None and again.chosen == "2"

    @pytest.mark.parametrize("key", ["", "3", "first", "S", "\x00"])
    def test_an_unknown_choice_is_refused(self, start: Start, user: User, key: str):
        round = start()
        with pytest.raises(InvalidRequest):
            cast_vote(round=round, question=next(iter(questions_of(round))), key=key, by=user)

    @pytest.mark.parametrize("question", ["", "f" * 64, "\x00", "../x"])
    def test_an_unknown_question_is_refused(self, start: Start, user: User, question: str):
        round = start()
        for call in (
            lambda: cast_vote(round=round, question=question, key="1", by=user),
            lambda: reading.question_again(round, user, question),
        ):
            with pytest.raises(QuestionNotFound):
                call()

    def test_a_vote_after_its_outputs_were_erased_is_refused(self, start: Start, user: User):
        round = start()
        voted, gone, *_ = voting_order(round, user.pk)
        cast_vote(round=round, question=voted, key="1", by=user)
        assert round.first is not None and round.second is not None
        folder = run_folder(round.second.run)
        lines = (folder / names.ITEMS).read_text().splitlines()
        [example] = [item["id"] for item in map(json.loads, lines) if item["hash"] == gone]
        assert erase_examples(folder, [example])

        with pytest.raises(PairGone):
            cast_vote(round=round, question=gone, key="1", by=user)
        ballot = reading.next_question(round, user)
        assert ballot.asked is not None and ballot.asked.question not in (voted, gone)
        assert Vote.objects.count() == 1

    def test_a_vote_on_outputs_that_were_edited_is_refused(self, start: Start, user: User):
        round = start()
        assert round.first is not None
        path = run_folder(round.first.run) / names.ITEMS
        path.write_text(path.read_text().replace(GOOD, "Edited."))

        with pytest.raises(PairGone):
            cast_vote(round=round, question=next(iter(questions_of(round))), key="1", by=user)
        assert reading.next_question(round, user).gone == round.size

    def test_a_vote_after_the_files_are_gone_is_refused(self, start: Start, user: User):
        round = start()
        assert round.first is not None
        (run_folder(round.first.run) / names.ITEMS).unlink()
        with pytest.raises(PairGone):
            cast_vote(round=round, question=next(iter(questions_of(round))), key="1", by=user)

    def test_after_an_evaluation_was_deleted_results_stay(self, start: Start, user: User):
        round = start()
        vote_all(round, user, ["first"] * 3)
        assert round.second is not None
        run = round.second.run
        question = list(questions_of(round))[5]
        trash_run(run=run, by=user)
        for delete in (lambda: None, lambda: purge_run(run=Run.objects.get(pk=run.pk), by=user)):
            delete()
            round = find_round(round.pk)
            with pytest.raises(PairGone, match="was deleted"):
                cast_vote(round=round, question=question, key="1", by=user)
            with pytest.raises(PairGone, match="was deleted"):
                reading.next_question(round, user)
            assert read_results(round).people.win.n == 3
        assert round.second is None and round.second_model == "preset:tiny-llama"


@pytest.mark.django_db(transaction=True)
def test_two_votes_at_once_leave_one(start: Start, user: User):
    round = start()
    [question, *_] = questions_of(round)
    together = threading.Barrier(2)
    problems: list[BaseException] = []

    def vote(key: str) -> None:
        try:
            together.wait()
            cast_vote(round=round, question=question, key=key, by=user)
        except BaseException as problem:  # noqa: BLE001 - the test shows it
            problems.append(problem)
        finally:
            connection.close()

    threads = [threading.Thread(target=vote, args=[key]) for key in ("0", "s")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert Vote.objects.get().choice in ("tie", "skip")


class TestResults:
    def test_the_win_rate_counts_a_question_once_and_a_tie_half(
        self, start: Start, user: User, other: User
    ):
        round = start()
        vote_all(round, user, ["first", "first", "tie", "second", "skip"])
        vote_all(round, other, ["first", "second", "tie"])

        win = read_results(round).people.win
        shares = [1.0, 0.5, 0.5, 0.0]
        assert (win.n, win.first, win.second, win.tie) == (4, 1, 1, 2)
        assert win.rate == 0.5
        assert (win.low, win.high) == statistics.share_interval(shares)
        mirrored = win.of_second
        assert (mirrored.low, mirrored.high) == pytest.approx((1 - (win.high or 0), 1 - win.low))
        assert mirrored.first == win.second
        [row], _ = reading.read_rounds(viewer=other, limit=5)
        assert row.win == win
        assert (row.voters, row.votes, row.own, row.decided) == (2, 8, 3, 4)

    def test_one_vote_a_question_has_wilsons_interval(self):
        win = win_rate([1.0] * 15 + [0.0] * 5)
        assert (win.low, win.high) == statistics.wilson(15, 20)
        assert win.p_value == statistics.mcnemar(15, 5)

    def test_without_votes_there_is_no_rate(self, start: Start):
        results = read_results(start())
        assert results.people.win == reading.WinRate()
        assert results.people.win.of_second == reading.WinRate()
        assert (results.voters, results.pairs, results.kappa) == ([], [], None)

    def test_agreement_is_cohens_kappa_over_common_questions(
        self, start: Start, user: User, other: User
    ):
        # 2 x 2 counts 20, 5, 10, 15: kappa is 0.4
        one = ["first"] * 25 + ["second"] * 15
        two = ["first"] * 20 + ["second"] * 5 + ["first"] * 5 + ["second"] * 10
        round = start()
        vote_all(round, user, one)
        vote_all(round, other, [*two[:-1], "skip"])

        results = read_results(round)
        [pair] = results.pairs
        assert (pair.agreement.n, pair.agreement.agreed) == (39, 29)
        assert pair.agreement.kappa == statistics.kappa(one[:-1], two[:-1])
        assert results.kappa == pytest.approx(pair.agreement.kappa)
        counts = {one.voter: one for one in results.voters}
        assert (counts[other.username].skip, counts[other.username].votes) == (1, 40)
        assert results.votes == 80

    def test_kappa_of_published_counts(self):
        both = [("first", "first")] * 20 + [("first", "second")] * 5
        both += [("second", "first")] * 10 + [("second", "second")] * 15
        one, two = ({str(n): pair[side] for n, pair in enumerate(both)} for side in (0, 1))
        found = agreement(one, two)
        assert (found.n, found.agreed) == (50, 35) and math.isclose(found.kappa or 0, 0.4)
        assert agreement(one, {}) == Agreement(0, 0, None)

    def test_a_judge_stands_beside_the_people(self, start: Start, user: User, other: User):
        round = start()
        vote_all(round, user, ["first", "second", "first"])
        vote_all(round, other, ["first", "second", "second"])
        questions = list(questions_of(round))
        verdicts = dict(zip(questions, ["first", "first", "tie", "second"], strict=False))

        judge = beside_people(round, "judge", verdicts | {"f" * 64: "first"})
        assert (judge.win.n, judge.win.rate) == (4, 0.625)
        # people: first, second, tie
        assert judge.with_people is not None
        assert (judge.with_people.n, judge.with_people.agreed) == (3, 2)

    def test_a_list_costs_a_fixed_number_of_queries(
        self, start: Start, user: User, django_assert_num_queries: Any
    ):
        round = start()
        vote_all(round, user, ["first"] * 5)
        VoteRound.objects.create(
            questions=round.questions, first_model="a", second_model="b", seed=1, created_by=user
        )
        with django_assert_num_queries(4):
            rows, following = reading.read_rounds(viewer=user, limit=5)
            assert [str(row.round.questions) for row in rows] and following is None
        [row], following = reading.read_rounds(viewer=user, limit=1)
        assert following is not None and row.round.first_model == "a"
        [row], following = reading.read_rounds(viewer=user, limit=1, behind=following)
        assert following is None and row.round == round


class TestDataset:
    def test_the_majority_of_each_question_becomes_a_pair(
        self, start: Start, user: User, other: User
    ):
        round = start()
        vote_all(round, user, ["first", "second", "first", "tie", "skip", "second"])
        vote_all(round, other, ["first", "second", "second", "first"])

        made = make_preferences(round=round, name="preferred", version="v1", by=user)

        dataset = Dataset.objects.get(dataset_key="preferred-v1")
        assert made.dataset == dataset and made.left_out == {}
        assert (dataset.kind, dataset.format, dataset.size) == (
            "preference",
            "tunix_preference",
            4,
        )
        assert dataset.provenance["source"] == "votes"
        examples = [item.trace for item in dataset.items.select_related("trace")]
        by_question = {one.meta["question"]: one for one in examples}
        questions = list(questions_of(round))
        assert set(by_question) == {questions[n] for n in (0, 1, 3, 5)}
        first, second = (by_question[questions[n]] for n in (0, 1))
        said = [
            [content_of(one)[side][0]["content"] for side in ("chosen", "rejected")]
            for one in (first, second)
        ]
        assert said == [[GOOD, BAD], [BAD, GOOD]]
        assert first.meta["votes"] == {"chosen": 2, "rejected": 0, "tie": 0}
        assert content_of(first)["prompt"][0]["content"].startswith("quiz ")
        for one in examples:
            text = json.dumps([one.meta, one.content])
            assert user.username not in text and other.username not in text
            assert one.meta["vote_round"] == str(round.pk)

    def test_each_vote_becomes_a_pair(self, start: Start, user: User, other: User):
        round = start()
        vote_all(round, user, ["first", "second", "tie"])
        vote_all(round, other, ["first", "first", "skip"])

        made = make_preferences(round=round, name="each", version="v1", per="vote", by=user)
        assert made.dataset.size == 4
        # the same pair twice, and one both ways
        assert made.dataset.items.values("trace").distinct().count() == 3

    def test_what_cannot_be_an_example_is_counted(self, start: Start, user: User):
        round = start([GOOD, "", "x\x00"], BAD)
        vote_all(round, user, ["first"] * 40)

        made = make_preferences(round=round, name="some", version="v1", by=user)
        assert sum(made.left_out.values()) + made.dataset.size == 40
        assert set(made.left_out) == {"blank or not storable"}

    def test_erased_outputs_are_left_out(self, start: Start, user: User):
        round = start()
        vote_all(round, user, ["first"] * 3)
        assert round.first is not None
        folder = run_folder(round.first.run)
        lines = (folder / names.ITEMS).read_text().splitlines()
        gone = next(iter(questions_of(round)))
        [example] = [item["id"] for item in map(json.loads, lines) if item["hash"] == gone]
        erase_examples(folder, [example])

        made = make_preferences(round=round, name="kept", version="v1", by=user)
        assert (made.dataset.size, made.left_out) == (2, {"erased or changed": 1})

    def test_shortened_texts_are_left_out(self):
        assert PROMPT_CHARACTERS == FIELD_CHARACTERS
        long = [{"role": "system", "content": "x"}, {"role": "user", "content": "y" * 16_384}]
        assert voting._is_shortened(long) and not voting._is_shortened(long[:1])
        pair = Pair("f" * 64, [], GOOD, BAD, cut=True)
        decided = voting._Decided(pair.question, "first", {})
        assert "too long" in voting._example(VoteRound(), decided, pair)

    def test_without_a_decided_vote_there_is_no_dataset(self, start: Start, user: User):
        round = start()
        vote_all(round, user, ["tie", "skip"])
        with pytest.raises(StateConflict, match="has chosen an output"):
            make_preferences(round=round, name="none", version="v1", by=user)
        assert not Dataset.objects.filter(name="none").exists()

    def test_bad_names_and_taken_ones_are_refused(self, start: Start, user: User):
        round = start()
        vote_all(round, user, ["first"])
        make = lambda **given: make_preferences(round=round, by=user, **given)  # noqa: E731
        make(name="taken", version="v1")
        with pytest.raises(DatasetExists):
            make(name="taken", version="v1")
        for name in ("", "a b", "..", "x" * 201, "\x00"):
            with pytest.raises(InvalidDataset):
                make(name=name, version="v1")

    def test_a_limit_is_named(self, start: Start, user: User, monkeypatch: pytest.MonkeyPatch):
        round = start()
        vote_all(round, user, ["first"] * 3)
        monkeypatch.setattr(voting, "EXAMPLES_MAX", 2)
        for per in ("question", "vote"):
            with pytest.raises(StateConflict, match="at most 2"):
                make_preferences(round=round, name="many", version="v1", per=per, by=user)


def test_all_questions_are_read_with_one_walk_over_each_file(start: Start):
    round = start()
    assert round.size > voting.NEEDLES_MAX
    assert read_pairs(round, questions_of(round)).keys() == questions_of(round).keys()
