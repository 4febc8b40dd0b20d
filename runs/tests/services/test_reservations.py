"""One folder, one run: whoever asks at the same moment, whatever the file system makes of names,
whoever is purged meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from datasets.models import Dataset
from runs.execution.launching import launch_pending
from runs.models import FolderReservation, Run
from runs.runfolder import files, names, records
from runs.services import cancelling, deletion, refusals, retrying, submission
from runs.services.output_root import root_problem
from runs.services.reservations import folder_keys, run_folder
from runs.services.run_requests import InvalidRequest, clean_request
from runs.tests.conftest import Script, Submit
from runs.tests.leftovers import make_run

ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
# What an older version, or two requests at the same moment, could store.
PAIRS = [
    ("n", "n/sub"),
    ("n/sub", "n"),
    ("n", "n"),
    ("n", "N"),
    ("Stra\u00dfe/x", "STRASSE"),
    (COMPOSED, DECOMPOSED),
    ("a/b/c", "A/B"),
    ("n", "n./sub"),  # SMB drops the dot
]


@pytest.fixture(autouse=True)
def _scripted(a_training_command: None) -> None:
    """Local runs are refused without one."""


class TestAtTheSameMoment:
    """The first request is held open between its check and its commit, until the second one is
    about to write."""

    @pytest.fixture
    def ask(self, dataset: Dataset) -> Callable[[str], Run]:
        """Each is asked by another account: the requests of one wait for each other before they
        come to the folders."""

        people = [User.objects.create_user(f"person-{number}") for number in range(5)]

        def ask(path: str) -> Run:
            asked = {
                "dataset_key": dataset.dataset_key,
                "model_id": "preset:tiny-llama",
                "dry_run": False,
                "output_dir": path,
            }
            return submission.submit_run(
                request=clean_request(asked), by=people.pop(), queued=True
            )[0]

        return ask

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(("first", "second"), PAIRS[:4])
    def test_folders_that_overlap_are_given_to_one(
        self, ask: Callable[[str], Run], first: str, second: str
    ):
        asked, about_to_write = threading.Event(), threading.Event()

        def hold() -> None:
            try:
                with transaction.atomic():
                    ask(first)
                    asked.set()
                    assert about_to_write.wait(60)
            finally:
                asked.set()
                connection.close()

        def signalling(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if sql.startswith(("BEGIN", "INSERT")) or "pg_advisory_xact_lock" in sql:
                about_to_write.set()
            return execute(sql, params, many, context)

        holder = threading.Thread(target=hold)
        holder.start()
        assert asked.wait(60)
        try:
            with connection.execute_wrapper(signalling), pytest.raises(InvalidRequest) as refused:
                ask(second)
        finally:
            about_to_write.set()
            holder.join()

        run = Run.objects.get()
        assert run.output_dir == first
        assert str(run.pk) in refused.value.errors["output_dir"][0]

    @pytest.mark.django_db(transaction=True)
    def test_folders_side_by_side_are_given_to_both(self, ask: Callable[[str], Run]):
        for path in ("a/b", "a/c", "ab", "a_b", "aXb"):
            ask(path)

        assert Run.objects.count() == 5
        assert FolderReservation.objects.filter(own=True).count() == 5


@pytest.mark.django_db
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_folders_that_overlap_are_refused_one_after_the_other(
    submit: Submit, first: str, second: str
):
    run = submit(output_dir=first)

    with pytest.raises(InvalidRequest, match=str(run.run_id)):
        submit(output_dir=second)


@pytest.mark.django_db
def test_a_refused_request_reserves_nothing(submit: Submit):
    submit(output_dir="a/b")
    with pytest.raises(InvalidRequest):
        submit(output_dir="A")

    assert FolderReservation.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["\u200b.hosts", f"{ID}.", f"{ID.upper()}\u200b"])
def test_names_that_only_look_harmless_are_refused(submit: Submit, name: str):
    """Some file systems take them for a hidden folder, or for that of a run."""
    with pytest.raises(InvalidRequest):
        submit(output_dir=name)


@pytest.mark.django_db
def test_a_long_path_of_letters_that_grow_can_be_reserved(submit: Submit):
    """An index entry has a limited size on PostgreSQL."""
    submit(output_dir="/".join(["\u0390" * 120] * 4))


@pytest.mark.django_db
def test_a_retry_needs_no_reservation(submit: Submit, user: User):
    run = cancelling.request_cancel(run=submit(output_dir="n"), by=user)

    retry = retrying.retry_run(run=run, by=user)

    assert retry.output_dir == str(retry.run_id)
    assert not FolderReservation.objects.filter(run=retry).exists()


# --- at the start ---------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("name", [names.KEEPER, names.EXIT])
def test_the_end_of_another_run_is_not_taken_for_its_own(
    submit: Submit, scripted: Script, name: str
):
    """Somebody copied a run to where another one was to start."""
    scripted(["say", "hello"])
    run = submit(output_dir="n")
    run_folder(run).mkdir(parents=True)
    files.write_json(
        run_folder(run) / name,
        records.exit_record(run_id="another", reason="exit", message="", exit_code=0),
    )

    launch_pending()

    run.refresh_from_db()
    assert (run.status, run.exit_code) == ("failed", None)
    assert "holds files of another run" in run.message


@pytest.mark.django_db
def test_a_link_that_took_the_place_of_a_folder_leads_nowhere(
    submit: Submit, scripted: Script, output_root: Path
):
    scripted(["say", "hello"])
    run = submit(output_dir="a/run")
    (output_root / "b").mkdir(parents=True)
    (output_root / "a").symlink_to(output_root / "b")

    launch_pending()

    run.refresh_from_db()
    assert run.status == "failed"
    assert "symbolic link" in run.message
    assert list((output_root / "b").iterdir()) == []


# --- purging --------------------------------------------------------------------------------------


def trashed(run: Run, by: User) -> Run:
    if not run.is_terminal:
        run = cancelling.request_cancel(run=run, by=by)
    deletion.trash_run(run=run, by=by)
    return Run.objects.get(pk=run.pk)


def with_file(run: Run) -> Path:
    path = run_folder(run) / "model" / "weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    return path


@pytest.mark.django_db
def test_a_purge_that_comes_second_spares_the_next_run_in_the_folder(submit: Submit, user: User):
    """Two purges had read the same row; between them the folder was freed and given to another
    run."""
    late = trashed(submit(output_dir="n"), user)
    assert deletion.purge_run(run=Run.objects.get(pk=late.pk), by=late.owner) == 0
    precious = with_file(submit(output_dir="n"))

    with pytest.raises(refusals.StateConflict):
        deletion.purge_run(run=late, by=late.owner)

    assert precious.exists()


@pytest.mark.django_db
def test_a_folder_is_reserved_until_its_files_are_gone(
    submit: Submit, user: User, monkeypatch: pytest.MonkeyPatch
):
    run = trashed(submit(output_dir="n"), user)
    with_file(run)
    with monkeypatch.context() as broken:
        broken.setattr(
            "shutil.rmtree",
            lambda path, **named: (_ for _ in ()).throw(OSError("the disk is in trouble")),
        )
        with pytest.raises(OSError, match="in trouble"):
            deletion.purge_run(run=run, by=run.owner)
    for path in ("n", "n/sub"):
        with pytest.raises(InvalidRequest):
            submit(output_dir=path)

    assert deletion.purge_run(run=run, by=run.owner) == 1000

    assert submit(output_dir="n/sub").output_dir == "n/sub"


@pytest.fixture
def stored_before(user: User) -> Callable[..., list[Run]]:
    """Ended runs of versions that let folders overlap, in the trash, with files, and with the
    reservations that their migration stored."""

    def make(*paths: str) -> list[Run]:
        runs = [
            make_run(user, status="failed", output_dir=path, files={"stdout.log": b"x" * 10})
            for path in paths
        ]
        for run in runs:
            keys = folder_keys(run.output_dir)
            FolderReservation.objects.bulk_create(
                FolderReservation(run=run, key=key, own=key == keys[-1]) for key in keys
            )
        return [trashed(run, user) for run in runs]

    return make


@pytest.mark.django_db
def test_runs_that_lie_in_each_other_keep_their_files_until_the_last_purge(
    stored_before: Callable[..., list[Run]],
):
    outer, inner = stored_before("n", "n/checkpoints/sub")
    (run_folder(outer) / "checkpoints" / "step").write_bytes(b"x" * 100)

    # what holds the folder of another run stays
    assert deletion.purge_run(run=outer, by=outer.owner) == 10

    assert (run_folder(inner) / "stdout.log").exists()
    assert deletion.purge_run(run=inner, by=inner.owner) == 10
    assert not run_folder(inner).exists()


@pytest.mark.django_db
def test_files_inside_the_folder_of_another_run_go_with_that_run(
    stored_before: Callable[..., list[Run]],
):
    outer, inner = stored_before("n", "n/checkpoints")

    assert deletion.purge_run(run=inner, by=inner.owner) == 0

    assert (run_folder(inner) / "stdout.log").exists()
    assert deletion.purge_run(run=outer, by=outer.owner) == 20
    assert not run_folder(outer).exists()


@pytest.mark.django_db
def test_names_that_this_file_system_tells_apart_are_two_folders(
    stored_before: Callable[..., list[Run]],
):
    first, second = stored_before("n", "N")

    assert deletion.purge_run(run=first, by=first.owner) == 10
    assert (run_folder(second) / "stdout.log").exists()
    assert deletion.purge_run(run=second, by=second.owner) == 10


@pytest.mark.django_db
@pytest.mark.parametrize("link", ["n", "n/sub"])
def test_a_purge_does_not_follow_links(submit: Submit, user: User, output_root: Path, link: str):
    """Neither in place of the folder nor of one above it."""
    precious = with_file(submit(output_dir="precious/sub"))
    run = trashed(submit(output_dir="n/sub"), user)
    (output_root / link).parent.mkdir(exist_ok=True)
    (output_root / link).symlink_to(
        output_root / "precious" / link.removeprefix("n").removeprefix("/")
    )

    assert deletion.purge_run(run=run, by=run.owner) == 0

    assert precious.exists()


@pytest.mark.django_db
def test_nothing_is_purged_while_the_output_root_is_away(
    submit: Submit, user: User, output_root: Path
):
    assert root_problem() is None
    run = trashed(submit(output_dir="n"), user)
    with_file(run)
    output_root.rename(output_root.with_name("away"))
    with pytest.raises(refusals.StateConflict, match="is not there"):
        deletion.purge_run(run=run, by=run.owner)
    assert not output_root.exists()
    output_root.with_name("away").rename(output_root)

    assert deletion.purge_run(run=run, by=run.owner) == 1000
