"""Deleting and keeping: the trash, the purge that frees the disk, retention by age and number."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone
from rest_framework.test import APIClient

from runs import tasks
from runs.models import Run
from runs.services import annotations, cancelling, deletion, refusals, reservations
from runs.services.retention import prune_runs
from runs.tests.conftest import Submit


@pytest.fixture
def ended(submit: Submit, user: User) -> Run:
    """A cancelled run whose folder holds 1,000 bytes."""
    run = cancelling.request_cancel(run=submit(), by=user)
    folder = reservations.run_folder(run)
    folder.mkdir(parents=True)
    (folder / "stdout.log").write_bytes(b"x" * 1000)
    return run


def age(run: Run, **ago: float) -> None:
    moment = timezone.now() - timedelta(**ago)
    Run.objects.filter(pk=run.pk).update(completed_at=moment, created_at=moment)


def test_deleting_trashes_then_the_purge_frees_the_disk(
    ended: Run, api: APIClient, user: User, settings: LazySettings
) -> None:
    folder = reservations.run_folder(ended)
    response = api.delete(f"/api/tunix/runs/{ended.run_id}")
    assert (response.status_code, response.json()) == (200, {"trashed": True})
    assert api.get(f"/api/tunix/runs/{ended.run_id}").status_code == 404
    assert api.delete(f"/api/tunix/runs/{ended.run_id}").status_code == 404
    assert folder.is_dir()

    assert prune_runs(by=user).purged == 0  # it stays for TUNIX_TRASH_HOURS
    settings.TUNIX_TRASH_HOURS = 0.0
    pruned = prune_runs(by=user)
    assert (pruned.purged, pruned.bytes_freed) == (1, 1000)
    assert not folder.exists()
    assert not Run.objects.filter(pk=ended.pk).exists()


def test_an_active_run_is_not_deleted(submit: Submit, api: APIClient) -> None:
    run = submit()
    response = api.delete(f"/api/tunix/runs/{run.run_id}")
    assert response.status_code == 409
    assert response.json() == {
        "detail": "Only an ended run can be deleted; this one is pending. Cancel it first."
    }
    assert api.get(f"/api/tunix/runs/{run.run_id}/status").status_code == 200


def test_only_the_trash_is_purged(ended: Run) -> None:
    with pytest.raises(refusals.StateConflict):
        deletion.purge_run(run=ended, by=ended.owner)
    assert reservations.run_folder(ended).is_dir()


def test_a_folder_that_became_a_link_is_left_alone(ended: Run, user: User, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep me")
    folder = reservations.run_folder(ended)
    (folder / "stdout.log").unlink()
    folder.rmdir()
    folder.symlink_to(precious)
    deletion.trash_run(run=ended, by=user)
    ended.refresh_from_db()
    assert deletion.purge_run(run=ended, by=ended.owner) == 0
    assert (precious / "file").read_text() == "keep me"


def test_folders_without_end_keep_nothing_from_being_purged(
    ended: Run, submit: Submit, user: User, leave_deep_folders: Callable[[Path], None]
) -> None:
    """A training may leave them; retention would stop at it, for all runs."""
    leave_deep_folders(reservations.run_folder(ended))
    other = cancelling.request_cancel(run=submit(), by=user)
    for run in (ended, other):
        deletion.trash_run(run=run, by=user)
    assert prune_runs(by=user, trash_age=timedelta()).purged == 2
    assert not reservations.run_folder(ended).exists()
    assert not list((reservations.run_folder(ended).parent / ".purged").iterdir())


def test_retention_by_age_spares_pinned_active_and_young_runs(submit: Submit, user: User) -> None:
    old, young, pinned = (cancelling.request_cancel(run=submit(), by=user) for _ in range(3))
    active = submit()
    for run in (old, pinned):
        age(run, days=31)
    annotations.annotate_run(run=pinned, by=user, pinned=True)
    Run.objects.filter(pk=active.pk).update(created_at=timezone.now() - timedelta(days=40))

    assert prune_runs(by=user, max_age=timedelta(days=30)).trashed == 1
    assert set(Run.objects.visible()) == {young, pinned, active}


def test_retention_by_number_keeps_the_newest(submit: Submit, user: User) -> None:
    runs = [cancelling.request_cancel(run=submit(), by=user) for _ in range(4)]
    for days, run in enumerate(runs):
        age(run, days=days)
    assert prune_runs(by=user, keep_newest=2).trashed == 2
    assert list(Run.objects.visible().newest_first()) == runs[:2]
    assert prune_runs(by=user, keep_newest=10).trashed == 0


def test_a_rehearsal_does_nothing(
    ended: Run, user: User, settings: LazySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    age(ended, days=31)
    call_command("prune_runs", "--days", "30", "--dry-run")
    assert capsys.readouterr().out.startswith(
        "1 runs would be put into the trash, 0 would be removed"
    )
    assert list(Run.objects.visible()) == [ended]
    deletion.trash_run(run=ended, by=user)
    settings.TUNIX_TRASH_HOURS = 0.0
    call_command("prune_runs", "--dry-run")
    assert "1 would be removed for good, 1,000 bytes would be freed." in capsys.readouterr().out
    assert reservations.run_folder(ended).is_dir()


def test_the_trash_can_be_emptied_at_once(
    ended: Run, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    deletion.trash_run(run=ended, by=user)
    call_command("prune_runs", "--empty-trash")
    assert "1 removed for good, 1,000 bytes freed." in capsys.readouterr().out


@pytest.mark.parametrize(("on", "left"), [(False, 1), (True, 0)])
def test_the_task_follows_the_settings(
    ended: Run, settings: LazySettings, on: bool, left: int
) -> None:
    age(ended, days=31)
    settings.TUNIX_RETENTION, settings.TUNIX_RETENTION_DAYS = on, 30.0
    tasks.prune()
    assert Run.objects.visible().count() == left


@pytest.mark.parametrize("option", ["--days", "--keep"])
@pytest.mark.parametrize("value", ["999999999999999", "-1", "nan", "1e400", "x"])
@pytest.mark.django_db
def test_numbers_beyond_any_sense_are_a_sentence(option: str, value: str) -> None:
    with pytest.raises(CommandError, match=f"argument {option}: must be a .*number from 0 to"):
        call_command("prune_runs", f"{option}={value}")
