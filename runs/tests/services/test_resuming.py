"""Which checkpoint a retry resumes from, and what keeps that checkpoint until the retry has
ended."""

import html
import json
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from datasets.models import Dataset
from runs.execution.attending import attend, cancel_run
from runs.execution.hosts import this_host
from runs.execution.launching import launch_pending
from runs.execution.outcome import outcome
from runs.lifecycle import transition
from runs.models import Run, RunStatus
from runs.queries import artifacts
from runs.runfolder import names, records
from runs.services import annotations, cancelling, deletion, refusals, retrying, sources, submission
from runs.services.claiming import claim_run
from runs.services.deletion import trash_run
from runs.services.finishing import finish_failed, finish_run
from runs.services.output_root import root_problem
from runs.services.refusals import OutputRootAway, StateConflict
from runs.services.reservations import run_folder
from runs.services.retention import prune_runs
from runs.services.retrying import FROM_SCRATCH, retry_run
from runs.services.run_requests import clean_request
from runs.services.sources import Source, SourceGone
from runs.spec.manifest import parse_manifest
from runs.tests.conftest import Submit
from runs.tests.launching import wait_for
from runs.tests.leftovers import leave_checkpoints_of
from tunixrt.refusals import Refusal

pytestmark = pytest.mark.django_db

End = Callable[..., Run]


def end(run: Run, *steps: int, status: str = RunStatus.FAILED, lost: bool = False) -> Run:
    """Let a pending run start and end; its training has saved after ``steps`` (none: it died before
    its first checkpoint)."""
    # before the first claim: later a root without its marker would be a stranger's
    assert root_problem() is None
    claim_run(run=run, host=this_host(), by="test")
    leave_checkpoints_of(run, *steps)
    return finish_run(run=run, status=status, reason="x", by="test", lost=lost)


def shown(api: APIClient, run: Run) -> list[str]:
    """The warnings of a run, as the API shows them."""
    warnings: list[str] = api.get(f"/api/tunix/runs/{run.pk}").json()["warnings"]
    return warnings


def manifest(run: Run) -> dict[str, Any]:
    launch_pending()
    return parse_manifest((run_folder(run) / names.MANIFEST).read_text())


def checkpoints(run: Run) -> str:
    return str(run_folder(run) / names.CHECKPOINTS)


class TestSource:
    def test_a_run_that_died_before_it_saved_is_retried_from_scratch(
        self, submit: Submit, user: User
    ) -> None:
        """Its folder of checkpoints is there, with identity.json alone."""
        run = end(submit())

        retry = retry_run(run=run, by=user)

        assert (retry.resume, retry.resume_from) == (False, None)
        assert manifest(retry)["resume_from"] is None

    def test_of_a_retry_that_died_before_it_saved_the_grandparents_checkpoint_is_remembered(
        self, submit: Submit, user: User, api: APIClient
    ) -> None:
        first = end(submit(), 5, 10)
        second = end(retry_run(run=first, by=user))
        third = end(retry_run(run=second, by=user))

        fourth = api.post(f"/api/tunix/runs/{third.pk}/retry").json()

        assert (fourth["retry_of"], fourth["resume"], fourth["resume_from"]) == (
            str(third.pk),
            True,
            str(first.pk),
        )
        run = Run.objects.get(pk=fourth["run_id"])
        assert run.events.get().reason == f"submitted; resumes from step 10 of run {first.pk}"
        assert manifest(run)["resume_from"] == checkpoints(first)

    def test_the_nearest_checkpoint_counts(self, submit: Submit, user: User) -> None:
        first = end(submit(), 5)
        second = end(retry_run(run=first, by=user), 6)
        third = end(retry_run(run=second, by=user))
        assert retry_run(run=third, by=user).resume_from == second

    def test_what_was_left_behind_on_purpose_stays_behind(self, submit: Submit, user: User) -> None:
        first = end(submit(), 5)
        from_scratch = end(retry_run(run=first, by=user, resume=False))
        assert retry_run(run=from_scratch, by=user).resume_from is None

    def test_a_purged_run_between_does_not_hide_the_checkpoint(
        self, submit: Submit, user: User
    ) -> None:
        first = end(submit(), 5)
        second = end(retry_run(run=first, by=user))
        third = end(retry_run(run=second, by=user))
        trash_run(run=second, by=user)
        deletion.purge_run(run=Run.objects.get(pk=second.pk), by=second.owner)
        third.refresh_from_db()

        assert third.retry_of is None
        assert retry_run(run=third, by=user).resume_from == first

    def test_a_run_in_the_trash_is_passed_over(self, submit: Submit, user: User) -> None:
        first = end(submit(), 5)
        second = end(retry_run(run=first, by=user), 6)
        third = end(retry_run(run=second, by=user))
        trash_run(run=second, by=user)
        third.refresh_from_db()
        assert retry_run(run=third, by=user).resume_from == first

    def test_checkpoints_of_another_training_are_passed_over(
        self, submit: Submit, user: User
    ) -> None:
        first = end(submit(), 5)
        second = end(retry_run(run=first, by=user), 6)
        identity = run_folder(second) / names.CHECKPOINTS / "identity.json"
        identity.write_text(json.dumps(json.loads(identity.read_text()) | {"seed": 7}))
        assert retry_run(run=second, by=user).resume_from == first
        identity.unlink()
        assert retry_run(run=second, by=user).resume_from == first

    def test_a_dry_run_has_none(self, submit: Submit, user: User) -> None:
        retry = retry_run(run=end(submit(dry_run=True), 5), by=user)
        assert (retry.mode, retry.resume) == ("dry-run", False)

    def test_a_lost_run_without_a_checkpoint_is_retried_from_scratch_by_itself(
        self, submit: Submit
    ) -> None:
        run = end(submit(auto_retry=1), lost=True)
        retry = run.retries.get()
        assert (retry.resume, retry.automatic_retries) == (False, 1)
        assert run.message == f"x Run {retry.pk} tries again from scratch."

    def test_an_automatic_retry_whose_checkpoints_are_gone_says_that_it_starts_from_scratch(
        self, submit: Submit, user: User, api: APIClient, local_client: Client
    ) -> None:
        """Only the message of the run that was lost said so."""
        first = end(submit(auto_retry=3), 5, lost=True)
        second = first.retries.get()
        assert (second.resume_from, shown(api, second)) == (first, [])
        shutil.rmtree(run_folder(first) / names.CHECKPOINTS)

        third = end(second, lost=True).retries.get()

        assert third.resume_from is None
        assert shown(api, third) == [FROM_SCRATCH]
        assert FROM_SCRATCH in html.unescape(local_client.get(f"/runs/{third.pk}").content.decode())
        end(third, 7, lost=True)
        assert shown(api, third) == [FROM_SCRATCH]  # it lasts
        assert shown(api, third.retries.get()) == []  # resumes from step 7

    def test_a_retry_asked_for_keeps_the_warning_and_one_meant_from_scratch_has_none(
        self, submit: Submit, user: User, api: APIClient
    ) -> None:
        run = end(submit())
        assert shown(api, retry_run(run=run, by=user)) == [FROM_SCRATCH]
        assert shown(api, retry_run(run=run, by=user, resume=False)) == []
        assert shown(api, retry_run(run=end(submit(dry_run=True)), by=user)) == []

    def test_the_warning_stays_beside_what_the_training_writes(
        self, submit: Submit, user: User
    ) -> None:
        retry = retry_run(run=end(submit()), by=user)
        folder = run_folder(retry)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names.RESULT).write_text(json.dumps({"steps": 3, "warnings": ["One."]}))

        _, _, columns = outcome(retry, folder, {"exit_code": 0})

        assert columns["summary"]["steps"] == 3
        assert columns["summary"]["warnings"] == [FROM_SCRATCH, "One."]

    def test_the_warning_stays_when_the_run_cannot_be_started(
        self, submit: Submit, user: User, api: APIClient
    ) -> None:
        retry = retry_run(run=end(submit()), by=user)
        claim_run(run=retry, host=this_host(), by="test")
        finish_failed(run=retry, problems=["No."], by="launcher")
        assert shown(api, retry) == [FROM_SCRATCH]

    def test_a_lost_run_goes_on_from_the_nearest_checkpoint_by_itself(self, submit: Submit) -> None:
        first = end(submit(auto_retry=2), 5, lost=True)
        second = end(first.retries.get(), lost=True)
        third = second.retries.get()
        assert third.resume_from == first
        assert (
            second.message
            == f"x Run {third.pk} tries again from the last checkpoint of run {first.pk}."
        )


@pytest.fixture
def source(submit: Submit) -> Run:
    return end(submit(), 5)


@pytest.fixture
def heir(source: Run, user: User) -> Run:
    return retry_run(run=source, by=user)


def advance(run: Run, status: str) -> None:
    """Bring a pending run to ``status``."""
    if status != RunStatus.PENDING:
        claim_run(run=run, host=this_host(), by="test")
    if status == RunStatus.CANCELLING:
        transition(run, RunStatus.CANCELLING, reason="x", by="test")


class TestProtection:
    @pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.RUNNING, RunStatus.CANCELLING])
    def test_what_an_active_run_goes_on_from_is_neither_trashed_nor_removed(
        self, source: Run, heir: Run, status: str, user: User, api: APIClient
    ) -> None:
        advance(heir, status)

        answers = [
            api.delete(f"/api/tunix/runs/{source.pk}{path}")
            for path in ("", "/artifacts/checkpoints/5")
        ]
        pruned = prune_runs(
            by=user, max_age=timedelta(seconds=-1), keep_newest=0, trash_age=timedelta()
        )
        foreseen = prune_runs(by=user, max_age=timedelta(seconds=-1), keep_newest=0, dry_run=True)

        for answer in answers:
            assert answer.status_code == 409
            assert str(heir.pk) in answer.json()["detail"]
        assert (pruned.trashed, foreseen.trashed) == (0, 0)
        source.refresh_from_db()
        assert source.trashed_at is None
        assert sources.find_source(source) == Source(source, 5)

    def test_the_page_that_asks_before_deleting_says_so(
        self, source: Run, heir: Run, local_client: Client
    ) -> None:
        page = local_client.get(
            "/runs/chosen", {"do": "delete", "ids": str(source.pk)}
        ).content.decode()
        assert "Nothing: it has checkpoints that an active run resumes from." in page

    def test_when_the_heir_has_ended_it_may_go(self, source: Run, heir: Run, user: User) -> None:
        end(heir, 7)
        trash_run(run=source, by=user)
        source.refresh_from_db()
        deletion.purge_run(run=source, by=source.owner)
        heir.refresh_from_db()
        assert (heir.resume, heir.resume_from) == (True, None)
        assert sources.find_source(heir) == Source(heir, 7)

    def test_the_run_between_may_go(self, source: Run, user: User) -> None:
        between = end(retry_run(run=source, by=user))
        retry_run(run=between, by=user)
        trash_run(run=between, by=user)
        with pytest.raises(StateConflict):
            trash_run(run=source, by=user)

    def test_a_run_trashed_before_heirs_protected_it_is_not_purged(
        self, source: Run, heir: Run, user: User
    ) -> None:
        Run.objects.filter(pk=source.pk).update(trashed_at=timezone.now())
        source.refresh_from_db()
        with pytest.raises(StateConflict, match=str(heir.pk)):
            deletion.purge_run(run=source, by=source.owner)
        assert prune_runs(by=user, trash_age=timedelta()).purged == 0
        assert run_folder(source).exists()

    def test_a_checkpoint_that_is_removed_after_it_was_found_is_not_promised(
        self, source: Run, user: User
    ) -> None:
        artifacts.remove_artifact(run=source, path="checkpoints/5", by=source.owner)
        request = clean_request(source.config | {"output_dir": None})

        with pytest.raises(SourceGone):
            submission.submit_run(
                request=request, by=user, queued=True, retry_of=source, source=Source(source, 5)
            )

        assert Run.objects.count() == 1
        assert not list((run_folder(source) / names.CHECKPOINTS).glob(".*"))


def beside(
    act: Callable[[], Any],
) -> tuple[threading.Thread, threading.Event, list[BaseException | None]]:
    """Do something in a thread with a connection of its own: the thread, when it is done, and what
    it raised."""
    done = threading.Event()
    raised: list[BaseException | None] = []

    def work() -> None:
        try:
            act()
            raised.append(None)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)
        finally:
            connection.close()
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread, done, raised


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    """One transaction is open when the other begins. The other waits for it, however long that
    takes."""

    # seconds in which one that does not wait would be done; it is right as well if it has not begun
    # by then
    LONG_ENOUGH = 0.3

    @pytest.mark.parametrize("what", ["run", "checkpoint"])
    def test_a_retry_comes_first(self, source: Run, user: User, what: str) -> None:
        acts: dict[str, Callable[[], object]] = {
            "run": lambda: trash_run(run=Run.objects.get(pk=source.pk), by=user),
            "checkpoint": lambda: artifacts.remove_artifact(
                run=Run.objects.get(pk=source.pk), path="checkpoints/5", by=source.owner
            ),
        }
        with transaction.atomic():
            retry = retry_run(run=source, by=user)
            thread, done, raised = beside(acts[what])
            done.wait(self.LONG_ENOUGH)
        thread.join()

        assert isinstance(raised[0], StateConflict)
        assert sources.find_source(source) == Source(source, 5)
        assert retry.resume_from == source

    def test_the_trash_comes_first(self, source: Run, user: User) -> None:
        with transaction.atomic():
            trash_run(run=source, by=user)
            thread, done, raised = beside(lambda: retry_run(run=source, by=user))
            done.wait(self.LONG_ENOUGH)
        thread.join()

        assert raised == [None]
        assert Run.objects.exclude(pk=source.pk).get().resume is False


class TestWhileTheOutputRootIsAway:
    """Then a checkpoint that is not found may well be there."""

    @pytest.fixture
    def away(self, source: Run, output_root: Path) -> Path:
        return output_root.rename(output_root.with_name("away"))

    def test_a_retry_is_refused_instead_of_starting_from_scratch(
        self, source: Run, away: Path, output_root: Path, user: User, api: APIClient
    ) -> None:
        response = api.post(f"/api/tunix/runs/{source.pk}/retry")
        assert response.status_code == 409
        assert "is not there" in response.json()["detail"]
        assert not source.retries.exists()

        away.rename(output_root)
        assert retry_run(run=source, by=user).resume_from == source

    def test_a_lost_run_is_ended_and_retried_when_it_is_back(
        self, submit: Submit, output_root: Path
    ) -> None:
        run = submit(auto_retry=1)
        assert root_problem() is None
        claim_run(run=run, host=this_host(), by="test")
        leave_checkpoints_of(run, 5)
        away = output_root.rename(output_root.with_name("away"))
        with pytest.raises(OutputRootAway):
            finish_run(run=run, status="failed", reason="x", by="test", lost=True)
        run.refresh_from_db()
        assert run.status == "running"

        away.rename(output_root)
        finish_run(run=run, status="failed", reason="x", by="test", lost=True)
        assert run.retries.get().resume_from == run


class TestWhenItIsGone:
    """Somebody took the files away by hand."""

    @pytest.mark.parametrize("gone", ["folder", "checkpoint", "row"])
    def test_the_heir_fails_and_says_so(self, source: Run, heir: Run, gone: str) -> None:
        match gone:
            case "folder":
                shutil.rmtree(run_folder(source))
                words = f"Run {source.pk} no longer has the checkpoint"
            case "checkpoint":
                shutil.rmtree(run_folder(source) / "checkpoints" / "5")
                words = f"Run {source.pk} no longer has the checkpoint"
            case _:
                Run.objects.filter(pk=source.pk).delete()
                words = "has been deleted"

        launch_pending()

        heir.refresh_from_db()
        assert (heir.status, heir.exit_code) == ("failed", None)
        assert words in heir.message
        assert not (run_folder(heir) / names.MANIFEST).exists()
        assert retry_run(run=heir, by=heir.owner).resume is False


class TestPages:
    def test_the_page_says_where_a_retry_begins_and_offers_scratch(
        self, source: Run, local_client: Client
    ) -> None:
        page = local_client.get(f"/runs/{source.pk}").content.decode()
        assert f'title="From step 5 of run {str(source.pk)[:8]}"' in page
        assert 'data-testid="retry-from-scratch"' in page

        page = local_client.post(
            f"/runs/{source.pk}/retry", {"resume": "false"}, follow=True
        ).content.decode()

        assert f"This run tries {str(source.pk)[:8]} again, from scratch." in page
        assert source.retries.get().resume is False

    def test_without_a_checkpoint_there_is_nothing_to_choose(
        self, submit: Submit, local_client: Client
    ) -> None:
        assert (
            "retry-from-scratch"
            not in local_client.get(f"/runs/{end(submit()).pk}").content.decode()
        )

    def test_the_page_of_the_heir_names_its_source(
        self, source: Run, user: User, local_client: Client
    ) -> None:
        heir = end(retry_run(run=end(retry_run(run=source, by=user)), by=user))
        address = f"/runs/{heir.pk}"
        assert (
            f'data-testid="resume-from" class="mono" href="/runs/{source.pk}"'
            in local_client.get(address).content.decode()
        )
        trash_run(run=source, by=user)
        assert "which is in the trash" in local_client.get(address).content.decode()
        deletion.purge_run(run=Run.objects.get(pk=source.pk), by=source.owner)
        assert "a run that has been deleted" in local_client.get(address).content.decode()

    def test_the_admin_retries_from_scratch(self, source: Run, remote_client: Client) -> None:
        remote_client.force_login(User.objects.create_superuser("operator"))
        chosen = {"action": "retry_from_scratch", "_selected_action": [str(source.pk)]}
        page = remote_client.post("/admin/runs/run/", chosen, follow=True).content.decode()
        assert "1 run tried again from scratch." in page
        assert source.retries.get().resume is False


@pytest.mark.tunix
@pytest.mark.django_db(transaction=True)
def test_with_the_real_training_program(
    submit: Submit, user: User, make_dataset: Callable[..., Dataset]
) -> None:
    """Killed before its first checkpoint, retried, stopped with a checkpoint, retried, cancelled in
    the queue, retried."""

    def train(run: Run, *, until: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Start a run and wait until its metrics are as they should be; they stay so."""
        launch_pending()
        path = run_folder(run) / names.METRICS

        def measured() -> list[dict[str, Any]] | None:
            attend()
            run.refresh_from_db()
            assert run.is_active, run.message
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            found = [json.loads(line) for line in lines if line.endswith("\n")]
            return found if until(found) else None

        return wait_for(measured, "the training")

    def steps(lines: list[dict[str, Any]]) -> bool:
        return any(line.get("step", 0) >= 2 for line in lines)

    def ended(run: Run) -> Run:
        wait_for(lambda: attend() == 0, "the end")
        run.refresh_from_db()
        return run

    def kill(run: Run) -> Run:
        os.kill((records.read_keeper(run_folder(run)) or {})["keeper"]["pid"], 9)
        return ended(run)

    # a hundred thousand steps, or a tenth of that if packed
    endless = {
        "dataset_key": make_dataset("many", size=1000).dataset_key,
        "num_epochs": 100,
        "batch_size": 1,
    }
    first = submit(**endless, max_seq_length=128, exact_match_examples=0)
    train(first, until=steps)
    assert kill(first).status == "failed"

    second = retry_run(run=first, by=user)
    assert second.resume is False
    train(second, until=steps)
    cancel_run(run=second, by=user)
    assert ended(second).status == "cancelled"
    found = sources.find_source(second)
    assert found is not None

    third = retry_run(run=second, by=user)
    assert cancel_run(run=third, by=user).status == "cancelled"  # never started

    fourth = retry_run(run=third, by=user)
    assert fourth.resume_from == second
    lines = train(fourth, until=bool)
    assert lines[0]["plan"]["resumed_from_step"] == found.step
    kill(fourth)


@pytest.mark.django_db(transaction=True)  # a foreign key is checked at the end of the transaction
class TestARunThatIsPurgedMeanwhile:
    """Whoever read it a moment before is told that it is gone."""

    @pytest.fixture
    def gone(self, submit: Submit, user: User) -> Callable[..., Run]:
        def make(*steps: int, status: str = "failed", **asked: Any) -> Run:
            stale = end(submit(**asked), *steps, status=status)
            trashed = Run.objects.get(pk=stale.pk)
            deletion.trash_run(run=trashed, by=user)
            deletion.purge_run(run=trashed, by=user)
            return stale

        return make

    @pytest.mark.parametrize("steps", [(), (5,)])
    @pytest.mark.parametrize("dry_run", [False, True])
    def test_a_retry(
        self, gone: Callable[..., Run], user: User, steps: tuple[int, ...], dry_run: bool
    ) -> None:
        with pytest.raises(refusals.RunGone, match="It has just been deleted"):
            retry_run(run=gone(*steps, dry_run=dry_run), by=user)
        assert not Run.objects.exists()

    def test_a_retry_that_would_go_on_from_the_run_before(
        self, gone: Callable[..., Run], submit: Submit, user: User
    ) -> None:
        first = end(submit(), 5)
        second = end(retry_run(run=first, by=user))
        stale = Run.objects.get(pk=second.pk)
        deletion.trash_run(run=second, by=user)
        deletion.purge_run(run=second, by=user)
        with pytest.raises(refusals.RunGone):
            retry_run(run=stale, by=user)
        assert Run.objects.get() == first

    def test_other_requests(self, gone: Callable[..., Run], user: User) -> None:
        run = gone(5)
        with pytest.raises(refusals.RunGone):
            annotations.annotate_run(run=run, by=user, tags=("a",), notes="b", pinned=True)
        with pytest.raises(refusals.RunGone):
            deletion.trash_run(run=run, by=user)
        with pytest.raises(refusals.RunGone):
            annotations.set_priority(run=run, by=user, priority=1)
        run.status = "running"
        with pytest.raises(refusals.RunGone):
            cancelling.request_cancel(run=run, by=user)
        run.status = "completed"
        with pytest.raises(Refusal):
            retrying.extend_run(run=run, by=user, max_steps=5)
