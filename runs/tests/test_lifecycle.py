"""The life cycle: all pairs of statuses against the contract's table, guarded steps, and steps
taken at the same moment."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from runs.lifecycle import TRANSITIONS, TransitionRefused, transition, transition_together
from runs.models import ACTIVE, EXECUTING, TERMINAL, Run, RunEvent, RunStatus
from runs.tests.launching import PATIENCE

# Written down here again, from the contract, so that an arrow added by mistake is noticed.
ARROWS = {
    ("pending", "running"), ("pending", "cancelled"), ("running", "completed"),
    ("running", "failed"), ("running", "timeout"), ("running", "cancelling"),
    ("cancelling", "cancelled"), ("cancelling", "completed"), ("cancelling", "failed"),
    ("cancelling", "timeout"),
}  # fmt: skip
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MakeRun = Callable[..., Run]


@pytest.fixture
def make(user: User) -> MakeRun:
    def create(status: str, **fields: Any) -> Run:
        values: dict[str, Any] = {
            "dataset_key": "d-1",
            "model_id": "m",
            "dry_run": False,
            "owner": user,
            "status": status,
        }
        values["started_at"] = None if status == "pending" else NOON
        values["completed_at"] = NOON if status in TERMINAL else None
        values["exit_code"] = 0 if status == "completed" else None
        values["output_dir"] = str(uuid.uuid4())
        return Run.objects.create(**values | fields)

    return create


def step(run: Run, new: str) -> Run:
    fields: dict[str, Any] = {"exit_code": 0} if new == "completed" else {}
    if new == "running":
        fields["started_at"] = NOON
    return transition(run, new, reason="tested", by="test", **fields)


def test_the_groups_of_statuses_are_whole():
    assert set(TERMINAL) | set(ACTIVE) == set(RunStatus.values) == set(TRANSITIONS)
    assert not set(TERMINAL) & set(ACTIVE)
    assert set(EXECUTING) < set(ACTIVE)
    assert {status for status, ways in TRANSITIONS.items() if not ways} == set(TERMINAL)


@pytest.mark.django_db
@pytest.mark.parametrize("old", RunStatus.values)
def test_all_pairs_against_the_table(make: MakeRun, old: str):
    for new in RunStatus.values:
        run = make(old)
        if (old, new) in ARROWS:
            assert step(run, new) is run
            assert run.status == new
            event = RunEvent.objects.get(run=run)
            assert (event.old, event.new, event.reason, event.by) == (old, new, "tested", "test")
            run.refresh_from_db()
            assert run.status == new
            assert (run.completed_at is not None) is (new in TERMINAL)
        else:
            with pytest.raises(TransitionRefused) as refused:
                step(run, new)
            assert (refused.value.new, refused.value.actual) == (new, old)
            assert str(refused.value) == f"Run {run.pk} is {old}; it cannot become {new}."
            run.refresh_from_db()
            assert run.status == old
            assert not RunEvent.objects.filter(run=run).exists()


@pytest.mark.django_db
def test_what_the_caller_believes_is_not_enough(make: MakeRun):
    run = make("running")
    stale = Run.objects.get(pk=run.pk)
    step(run, "completed")

    with pytest.raises(TransitionRefused) as refused:
        transition(stale, "failed", reason="too late", by="test", message="too late")

    assert refused.value.actual == "completed"
    assert (stale.status, stale.message) == ("running", "")  # as the caller had it
    run.refresh_from_db()
    assert (run.status, run.message) == ("completed", "")
    assert RunEvent.objects.count() == 1


@pytest.mark.django_db
def test_a_deleted_run_takes_no_step(make: MakeRun):
    run = make("running")
    Run.objects.filter(pk=run.pk).delete()

    with pytest.raises(TransitionRefused, match="is deleted"):
        step(run, "completed")


@pytest.mark.django_db
def test_fields_are_written_with_the_step_and_on_the_instance(make: MakeRun):
    run = step(make("pending"), "running")
    done = transition(
        run, "failed", reason="broke", by="test", exit_code=3, message="it broke", completed_at=NOON
    )

    stored = Run.objects.get(pk=run.pk)
    for each in (done, stored):
        assert (each.exit_code, each.message, each.completed_at) == (3, "it broke", NOON)


@pytest.mark.django_db
def test_several_take_a_step_together_or_none_does(make: MakeRun):
    runs = [make("running") for _ in range(3)]
    stale = [Run.objects.get(pk=run.pk) for run in runs]
    step(runs[1], "cancelling")

    with pytest.raises(TransitionRefused) as refused:
        transition_together(stale, "failed", reason="all", by="test")

    assert refused.value.run.pk == runs[1].pk
    assert sorted(Run.objects.values_list("status", flat=True)) == [
        "cancelling",
        "running",
        "running",
    ]
    assert RunEvent.objects.count() == 1
    runs[1].refresh_from_db()
    for mixed in ([runs[0], runs[1]], [runs[1], runs[0]]):
        with pytest.raises(TransitionRefused):  # they must be of one status
            transition_together(mixed, "failed", reason="all", by="test")
    transition_together([runs[0], runs[2]], "failed", reason="all", by="test")
    assert sorted(Run.objects.values_list("status", flat=True)) == [
        "cancelling",
        "failed",
        "failed",
    ]


class TestTheDatabaseHoldsTheInvariants:
    @pytest.mark.django_db
    @pytest.mark.parametrize(
        "wrong",
        [
            {"status": "done"},
            {"mode": "remote"},
            {"mode": "dry-run"},
            {"mode": ""},
            {"dry_run": True},
            {"engine": "remote"},
            {"engine": "remote", "mode": "remote"},
            {"engine": "dry-run", "mode": "dry-run"},
            {"status": "completed", "exit_code": 0},  # without its time
            {"status": "completed", "completed_at": NOON, "exit_code": None},
            {"status": "completed", "completed_at": NOON, "exit_code": 1},
            {"status": "failed", "completed_at": NOON, "exit_code": 0},
            {"status": "running", "started_at": None},
            {"status": "running", "started_at": NOON, "completed_at": NOON},
        ],
    )
    def test_against_any_writer(self, make: MakeRun, wrong: dict[str, Any]):
        run = make("pending")

        with pytest.raises(IntegrityError), transaction.atomic():
            Run.objects.filter(pk=run.pk).update(**wrong)

    @pytest.mark.django_db
    def test_the_mode_is_that_of_the_columns_however_a_run_is_stored(self, make: MakeRun):
        saved = make("pending", dry_run=False)
        copies = [
            Run(
                dataset_key="d-1", model_id="m", owner=saved.owner, dry_run=dry_run, mode="nonsense"
            )
            for dry_run in (False, True)
        ]
        Run.objects.bulk_create(copies)
        assert [run.mode for run in (saved, *copies)] == ["local", "local", "dry-run"]

        saved.dry_run = True
        saved.save()
        stored = Run.objects.in_bulk([saved.pk, *(run.pk for run in copies)])
        assert [stored[run.pk].mode for run in (saved, *copies)] == ["dry-run", "local", "dry-run"]

    @pytest.mark.django_db
    def test_one_folder_has_one_local_run(self, make: MakeRun):
        make("pending", output_dir="mine")

        with pytest.raises(IntegrityError), transaction.atomic():
            make("failed", output_dir="mine")
        make("completed", output_dir="mine", dry_run=True)


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    THREADS = 8

    def rush(self, work: Callable[[int], Any]) -> list[Any]:
        """Each call in a thread with a connection of its own, all let go at once; results, refusals
        as None."""
        barrier = threading.Barrier(self.THREADS, timeout=PATIENCE)

        def one(number: int) -> Any:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                barrier.wait()
                return work(number)
            except TransitionRefused:
                return None
            finally:
                connection.close()

        with ThreadPoolExecutor(self.THREADS) as pool:
            return list(pool.map(one, range(self.THREADS)))

    def test_one_of_many_claims_wins(self, make: MakeRun):
        run = make("pending")
        copies = [Run.objects.get(pk=run.pk) for _ in range(self.THREADS)]

        results = self.rush(lambda number: step(copies[number], "running"))

        assert sum(result is not None for result in results) == 1
        assert RunEvent.objects.filter(run=run).count() == 1
        run.refresh_from_db()
        assert run.status == "running"

    def test_of_different_ends_the_first_one_stays(self, make: MakeRun):
        run = make("cancelling")
        ends = ["cancelled", "completed", "failed", "timeout"] * 2
        copies = [Run.objects.get(pk=run.pk) for _ in ends]

        results = self.rush(lambda number: step(copies[number], ends[number]).status)

        won = [result for result in results if result is not None]
        run.refresh_from_db()
        assert won == [run.status]
        assert [event.new for event in RunEvent.objects.filter(run=run)] == won

    def test_a_cancel_and_a_claim_never_both_happen(self, make: MakeRun):
        for _ in range(3):
            run = make("pending")
            copies = [Run.objects.get(pk=run.pk) for _ in range(self.THREADS)]

            results = self.rush(
                lambda number: step(
                    copies[number],  # noqa: B023
                    ("running", "cancelled")[number % 2],
                )
            )

            assert sum(result is not None for result in results) == 1

    def test_two_groups_that_overlap_do_not_both_take_a_run(self, make: MakeRun):
        runs = [make("pending") for _ in range(4)]
        groups = [[Run.objects.get(pk=run.pk) for run in runs] for _ in range(self.THREADS)]

        def claim(number: int) -> int:
            transition_together(
                groups[number], "running", reason="tested", by="test", started_at=NOON
            )
            return number

        assert len([result for result in self.rush(claim) if result is not None]) == 1
        assert RunEvent.objects.count() == 4


def test_every_life_ends_and_no_arrow_leads_back():
    assert {new for _, new in ARROWS} == set(RunStatus.values) - {"pending"}
    for start in RunStatus.values:
        ahead: set[str] = set()
        waiting = list(TRANSITIONS[start])
        while waiting:
            status = waiting.pop()
            ahead.add(status)
            waiting += TRANSITIONS[status] - ahead
        assert start not in ahead
        assert start in TERMINAL or ahead & set(TERMINAL)
