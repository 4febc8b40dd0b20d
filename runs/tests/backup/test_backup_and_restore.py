"""Backup and restore, on the database of the tests: what was there is there again, and what is
refused changes nothing."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from datasets.models import Dataset
from runs.backup import archive
from runs.backup.archive import BackupRefused, Damaged
from runs.backup.making import Made, make_backup
from runs.backup.restoring import restore_backup
from runs.execution.hosts import this_host
from runs.models import Host, OutputRoot, Run, RunStatus
from runs.runfolder import files, names, records
from runs.services.cancelling import request_cancel
from runs.services.output_root import root_away, root_problem, start_problem
from runs.services.reservations import run_folder
from runs.services.retrying import retry_run
from runs.services.sources import find_source
from runs.tests.launching import wait_for
from runs.tests.leftovers import leave_checkpoints_of, make_run
from tunixrt.audit import system_user
from tunixrt.tests.postgres import client_programs

pytestmark = pytest.mark.django_db(transaction=True)

Restore = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _secret_key_of_its_own(tmp_path: Path, settings: LazySettings) -> None:
    settings.TUNIXRT_SECRET_KEY_FILE = tmp_path / "var" / "secret_key"


@pytest.fixture(autouse=True)
def _client_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump of the version of the server."""
    if programs := client_programs():
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "monday"


@pytest.fixture
def backup(target: Path, user: User) -> Callable[..., Made]:
    def make(at: dict[str, Callable[[], object]] | None = None) -> Made:
        """``at``: what happens when the backup says something that begins so."""

        def say(sentence: str) -> None:
            for beginning, act in (at or {}).items():
                if sentence.startswith(beginning):
                    act()

        return make_backup(folder=target, by=user, how="by a test", say=say)

    return make


@pytest.fixture
def restore(target: Path) -> Restore:
    def put_back(*, replace: bool = True) -> list[str]:
        restored = restore_backup(
            folder=target, replace=replace, how="by a test", say=lambda sentence: None
        )
        return restored.warnings

    return put_back


@pytest.fixture
def root(settings: LazySettings) -> Path:
    """The output root, marked for this database."""
    assert root_problem() is None
    return Path(settings.TUNIX_OUTPUT_ROOT)


@pytest.fixture
def config(dataset: Dataset, a_training_command: None) -> dict[str, Any]:
    return {"dataset_key": dataset.dataset_key, "model_id": "preset:tiny-llama", "dry_run": False}


@pytest.fixture
def ended(user: User, root: Path, config: dict[str, Any]) -> Run:
    """A training that failed after it had saved twice."""
    run = make_run(
        user,
        status=RunStatus.FAILED,
        files={"stdout.log": b"said", "model/a/b": b"\x00" * 5000},
        output_dir="team/one",
        config=config,
    )
    leave_checkpoints_of(run, 5, 10)
    return run


@pytest.fixture
def executing(user: User, root: Path, config: dict[str, Any]) -> Run:
    """A training that is executing, and has saved."""
    run = make_run(user, status=RunStatus.RUNNING, host=this_host(), files=begun(), config=config)
    leave_checkpoints_of(run, 5)
    return run


def begun() -> dict[str, bytes]:
    """What a keeper has written of a training that has started."""
    keeper = {
        "version": 1,
        "host": "elsewhere",
        "boot_id": "of another machine",
        "started_at": "2026-01-01T00:00:00.000000Z",
    }
    return {"keeper.json": json.dumps(keeper).encode(), "stdout.log": b"step 1\n"}


def complete(run: Run) -> None:
    """The training ends well, and its keeper says so."""
    record = records.exit_record(
        run_id=str(run.pk), reason="exit", message="", exit_code=0, duration_seconds=1.0
    )
    files.write_json(run_folder(run) / names.EXIT, record)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows() -> list[str]:
    """All that is known of people, runs and datasets."""
    return sorted(
        serializers.serialize("json", [row])
        for model in (User, Run, Dataset, OutputRoot)
        for row in model._default_manager.all()
    )


def destroy(root: Path) -> None:
    call_command("flush", interactive=False, verbosity=0)
    shutil.rmtree(root)


def test_what_is_restored_is_what_was_there(
    ended: Run, root: Path, backup: Callable[..., Made], restore: Restore, settings: LazySettings
) -> None:
    system_user()  # by whom it is logged
    before, below = rows(), files_below(root)
    made = backup()
    assert (made.runs, made.warnings) == (1, [])
    assert LogEntry.objects.get().change_message.startswith("backup of 1 folders of runs, ")
    destroy(root)

    assert restore(replace=False) == []

    assert rows() == before
    assert files_below(root) == {
        name: content for name, content in below.items() if not name.endswith("/lock")
    } | {f".hosts/{settings.TUNIX_HOST_NAME}.attend": b""}
    assert root_away() is None
    assert settings.TUNIXRT_SECRET_KEY_FILE.read_text() == settings.SECRET_KEY
    assert stat.S_IMODE(settings.TUNIXRT_SECRET_KEY_FILE.stat().st_mode) == 0o600
    assert LogEntry.objects.get().change_message.startswith("restored the backup of ")
    retry = retry_run(run=Run.objects.get(), by=User.objects.get(username="somebody"))
    assert (retry.resume_from_id, retry.resume) == (ended.pk, True)


def test_a_backup_is_for_the_account_that_made_it(
    ended: Run, target: Path, backup: Callable[..., Made]
) -> None:
    target.mkdir(parents=True)  # empty: as good as new
    backup()
    assert [entry.name for entry in target.parent.iterdir()] == ["monday"]
    for path in [target, *target.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


class TestRunsThatWereActive:
    """The database is saved a moment before the folders: what happens in between is only in the
    folders."""

    def test_one_that_was_executing_has_failed_and_its_retry_resumes(
        self, executing: Run, backup: Callable[..., Made], restore: Restore, root: Path, user: User
    ) -> None:
        Host.objects.update(heartbeat_at=timezone.now())
        backup()
        Host.objects.update(heartbeat_at=None)
        destroy(root)
        restore()

        run = Run.objects.get()
        assert (run.status, run.exit_code) == (RunStatus.FAILED, None)
        assert run.message.startswith("Restored from the backup of 2")
        assert run.stdout == "step 1\n"
        assert run.events.get().new == RunStatus.FAILED
        assert not Host.objects.alive().exists()
        assert retry_run(run=run, by=User.objects.get(username="somebody")).resume_from == run

    def test_one_that_was_to_be_retried_by_itself_is(
        self, executing: Run, backup: Callable[..., Made], restore: Restore
    ) -> None:
        Run.objects.update(config=executing.config | {"auto_retry": 1})
        backup()
        restore()
        retry = Run.objects.get(retry_of=executing)
        assert (retry.status, retry.resume_from_id) == (RunStatus.PENDING, executing.pk)

    def test_one_that_was_being_cancelled_has_ended(
        self, executing: Run, backup: Callable[..., Made], restore: Restore, user: User
    ) -> None:
        request_cancel(run=executing, by=user)
        backup()
        restore()
        assert Run.objects.get().status == RunStatus.FAILED

    def test_one_that_ended_meanwhile_has_its_true_end(
        self, executing: Run, backup: Callable[..., Made], restore: Restore
    ) -> None:
        backup(at={"Measuring": lambda: complete(executing)})
        restore()
        assert (Run.objects.get().status, Run.objects.get().exit_code) == (RunStatus.COMPLETED, 0)

    @pytest.mark.parametrize("ends", [True, False])
    def test_one_that_was_started_meanwhile_has_its_true_end(
        self, user: User, root: Path, backup: Callable[..., Made], restore: Restore, ends: bool
    ) -> None:
        run = make_run(user, status=RunStatus.PENDING)

        def start() -> None:
            for name, content in begun().items():
                (run_folder(run) / name).write_bytes(content)
            if ends:
                complete(run)

        backup(at={"Measuring": start})
        restore()

        run = Run.objects.get()
        assert run.status == (RunStatus.COMPLETED if ends else RunStatus.FAILED)
        assert [event.new for event in run.events.all()] == [RunStatus.RUNNING, run.status]

    def test_one_that_waited_still_waits(
        self, user: User, root: Path, backup: Callable[..., Made], restore: Restore
    ) -> None:
        shutil.rmtree(run_folder(make_run(user, status=RunStatus.PENDING)))
        backup()
        restore()
        assert Run.objects.get().status == RunStatus.PENDING

    def test_one_without_a_folder_has_failed(
        self, executing: Run, backup: Callable[..., Made], restore: Restore
    ) -> None:
        backup(at={"Measuring": lambda: shutil.rmtree(run_folder(executing))})
        restore()
        assert Run.objects.get().message.startswith("Restored from the backup")

    def test_one_that_was_made_meanwhile_is_in_neither(
        self, ended: Run, root: Path, user: User, backup: Callable[..., Made], restore: Restore
    ) -> None:
        backup(
            at={"Measuring": lambda: make_run(user, output_dir="new", files={"stdout.log": b"x"})}
        )
        restore()
        assert Run.objects.get() == ended
        assert sorted(path.name for path in root.iterdir()) == [".hosts", "team"]

    def test_one_that_was_purged_meanwhile_has_no_files(
        self, ended: Run, backup: Callable[..., Made], restore: Restore
    ) -> None:
        made = backup(at={"Measuring": lambda: shutil.rmtree(run_folder(ended))})
        assert made.runs == 0
        restore()
        assert find_source(Run.objects.get()) is None


class TestNoBackup:
    """Refused with a sentence, and nothing is left behind."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, ended: Run, target: Path) -> Iterator[None]:
        before = files_below(target.parent)
        yield
        assert files_below(target.parent) == before or target.joinpath("precious").exists()
        assert not list(target.parent.glob("*partial*")) + list(target.parent.glob(".*partial*"))

    def test_into_a_folder_that_is_used(self, target: Path, backup: Callable[..., Made]) -> None:
        target.mkdir(parents=True)
        (target / "precious").write_text("x")
        with pytest.raises(BackupRefused, match="not empty"):
            backup()
        assert files_below(target) == {"precious": b"x"}

    def test_into_what_is_no_folder(self, target: Path, user: User) -> None:
        target.mkdir(parents=True)
        file, link, dangling = target / "precious", target / "link", target / "dangling"
        file.write_text("x")
        link.symlink_to(target)
        dangling.symlink_to("nowhere")
        for place, what in (
            (file, "a file"),
            (link, "a symbolic link to /"),
            (dangling, "a symbolic link to nowhere"),
        ):
            with pytest.raises(BackupRefused, match=f"{place.name} is {what}.*Name a new folder"):
                make_backup(folder=place, by=user, how="", say=print)

    def test_into_a_place_that_cannot_be_written(self, target: Path, user: User) -> None:
        """Not even by root: there is a file where a folder has to be, no folder can be made there,
        the name is too long."""
        target.parent.mkdir()
        (target.parent / "file").write_text("x")
        for place in (
            target.parent / "file" / "monday",
            Path("/proc/self/backup"),
            Path("/proc/x/backup"),
            target / ("x" * 256),
        ):
            with pytest.raises(
                BackupRefused, match=r"The backup cannot be made: .*Nothing was left behind"
            ):
                make_backup(folder=place, by=user, how="", say=print)
        (target.parent / "file").unlink()
        assert list(target.parent.iterdir()) == []

    def test_of_which_folders_are_left_that_were_made_for_it(
        self, target: Path, backup: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archive, "SPARE_BYTES", 2**60)
        with pytest.raises(BackupRefused, match="too little room"):
            backup()
        assert not target.parent.exists()

    def test_into_a_folder_that_another_backup_has_made_meanwhile(
        self, target: Path, backup: Callable[..., Made]
    ) -> None:
        def make() -> None:
            target.mkdir()
            (target / "precious").write_text("x")

        with pytest.raises(BackupRefused, match="Another backup made this folder meanwhile"):
            backup(at={"Waiting for the disk": make})
        assert files_below(target) == {"precious": b"x"}

    def test_into_the_output_root(self, root: Path, user: User) -> None:
        with pytest.raises(BackupRefused, match="lies in the output root"):
            make_backup(folder=root / "inside", by=user, how="", say=print)

    def test_while_the_output_root_is_away(self, root: Path, backup: Callable[..., Made]) -> None:
        def unmount() -> None:
            (root / ".hosts" / "root_id").unlink()

        with pytest.raises(BackupRefused, match="is not there"):
            backup(at={"Copying": unmount, "Measuring": unmount})
        with pytest.raises(BackupRefused, match="is not there"):
            backup()

    def test_without_room(
        self, backup: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archive, "SPARE_BYTES", 2**60)
        with pytest.raises(BackupRefused, match="too little room"):
            backup()

    def test_of_one_that_is_interrupted(self, backup: Callable[..., Made]) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backup(at={"Waiting for the disk": interrupt})

    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            (None, "pg_dump is not installed. Install the client programs of PostgreSQL"),
            (
                "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n",
                "of PostgreSQL 9, which cannot handle",
            ),
            ("#!/bin/sh\necho hello\n", "does not say its version"),
        ],
    )
    def test_without_a_fitting_pg_dump(
        self,
        backup: Callable[..., Made],
        program: str | None,
        reason: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if connection.vendor == "sqlite":
            pytest.skip("SQLite needs no program")
        monkeypatch.setenv("PATH", str(tmp_path))
        if program:
            (tmp_path / "pg_dump").write_text(program)
            (tmp_path / "pg_dump").chmod(0o755)
        with pytest.raises(BackupRefused, match=reason):
            backup()


def test_a_backup_may_have_any_name_that_a_folder_may_have(
    ended: Run, target: Path, user: User
) -> None:
    for name in ("x" * 255, "ä" * 127):
        assert make_backup(folder=target / name, by=user, how="", say=print).folder == target / name
        assert (target / name / "manifest.json").exists()


def rewrite(target: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as somebody would who can compute its hash."""
    content = json.loads((target / "manifest.json").read_text())
    del content["sha256"]
    change(content)
    (target / "manifest.json").unlink()
    archive.write_manifest(target, content)


def rewrite_runs(target: Path, change: Callable[[dict[str, Any]], object]) -> None:
    lines = [json.loads(line) for line in (target / "runs.jsonl").read_text().splitlines()]
    for line in lines:
        change(line)
    (target / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sha256 = hashlib.sha256((target / "runs.jsonl").read_bytes()).hexdigest()
    rewrite(target, lambda content: content["runs"].update(sha256=sha256))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


DATABASE = "database.*"
LOG = "output/team/one/stdout.log"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the database": lambda target: flip_a_bit(next(target.glob(DATABASE))),
    "a bit of a log": lambda target: flip_a_bit(target / LOG),
    "a bit of the list of files": lambda target: flip_a_bit(target / "runs.jsonl"),
    "a bit of the key": lambda target: flip_a_bit(target / "secret_key"),
    "a bit of the manifest": lambda target: flip_a_bit(target / "manifest.json"),
    "half a manifest": lambda target: os.truncate(target / "manifest.json", 100),
    "an empty manifest": lambda target: rewrite(
        target, lambda content: [content.pop(name) for name in ("runs", "output")]
    ),
    "a missing file": lambda target: (target / LOG).unlink(),
    "a missing folder": lambda target: shutil.rmtree(target / "output"),
    "a missing database": lambda target: next(target.glob(DATABASE)).unlink(),
    "a further file": lambda target: (target / LOG).with_name("further").write_text("x"),
    "a link": lambda target: replace_by_a_link(target / LOG),
    "a link to a folder": lambda target: replace_by_a_link(target / "output" / "team"),
    "a name that leads out": lambda target: rewrite_runs(
        target, lambda line: line.update(folder="../../precious")
    ),
    "an absolute name": lambda target: rewrite_runs(
        target, lambda line: line.update(folder="/etc")
    ),
    "a hidden name": lambda target: rewrite_runs(target, lambda line: line.update(folder=".hosts")),
    "a line that is none": lambda target: rewrite_runs(target, lambda line: line.clear()),
}


class TestNoRestore:
    """Refused with a sentence, and nothing has changed."""

    @pytest.fixture(autouse=True)
    def _nothing_has_changed(
        self, ended: Run, root: Path, backup: Callable[..., Made], settings: LazySettings
    ) -> Iterator[None]:
        backup()
        ended.notes = "written after the backup"
        ended.save(update_fields=["notes"])
        (run_folder(ended) / "stdout.log").write_text("longer than it was")
        settings.TUNIXRT_SECRET_KEY_FILE.parent.mkdir()
        settings.TUNIXRT_SECRET_KEY_FILE.write_text("the key of now")

        def archived() -> dict[str, bytes]:
            return {
                name: content
                for name, content in files_below(root).items()
                if not name.endswith((".attend", "lock"))
            }

        before = rows(), archived()
        yield
        assert (rows(), archived()) == before
        assert settings.TUNIXRT_SECRET_KEY_FILE.read_text() == "the key of now"
        assert {path.name for path in root.iterdir()} == {".hosts", "team"}

    def test_of_a_damaged_backup(self, target: Path, root: Path) -> None:
        for name, damage in DAMAGES.items():
            damaged = target.with_name(f"with {name}")
            shutil.copytree(target, damaged)
            damage(damaged)
            with pytest.raises(Damaged, match=r"This backup is damaged: .+ Nothing was restored"):
                restore_backup(folder=damaged, replace=True, how=name, say=lambda sentence: None)
            assert {path.name for path in root.iterdir()} == {".hosts", "team"}, name

    def test_of_what_is_no_backup(self, target: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        places = {"file": "is no backup: it is not a folder", "none": "There is no folder"}
        for number, content in enumerate(("{}", "[]", "7", '{"name": "of a browser extension"}')):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "manifest.json").write_text(content)
            places[str(number)] = "is no backup: its manifest.json is of something else"
        for name, reason in places.items():
            with pytest.raises(BackupRefused, match=reason) as refused:
                restore_backup(folder=tmp_path / name, replace=True, how="", say=print)
            assert not isinstance(refused.value, Damaged)

    def test_of_a_damaged_file_names_its_run(self, target: Path, restore: Restore) -> None:
        flip_a_bit(target / LOG)
        with pytest.raises(Damaged, match=r"'team/one/stdout\.log' has changed"):
            restore()

    def test_when_it_is_interrupted(self, target: Path) -> None:
        def interrupt(sentence: str) -> None:
            if sentence.startswith("Loading the database"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            restore_backup(folder=target, replace=True, how="", say=interrupt)

    def test_of_a_database_that_cannot_be_loaded(self, target: Path, restore: Restore) -> None:
        """What was moved by then is moved back."""
        database = next(target.glob(DATABASE))
        database.write_bytes(b"no database" * 1000)
        sha256 = hashlib.sha256(database.read_bytes()).hexdigest()
        rewrite(target, lambda content: content["database"].update(sha256=sha256))
        with pytest.raises(BackupRefused, match="The database"):
            restore()

    def test_over_what_is_there_unless_told(self, restore: Restore) -> None:
        with pytest.raises(BackupRefused, match=r"The database has users already. --replace puts"):
            restore(replace=False)

    def test_over_folders_unless_told(self, restore: Restore, target: Path, tmp_path: Path) -> None:
        with pytest.raises(BackupRefused, match="is no backup: it has no manifest"):
            restore_backup(folder=tmp_path, replace=True, how="", say=print)

    def test_from_inside_the_output_root(self, target: Path, root: Path) -> None:
        inside = root / ".hosts" / "backup"
        target.rename(inside)
        try:
            with pytest.raises(BackupRefused, match="lies in the output root"):
                restore_backup(folder=inside, replace=True, how="", say=print)
        finally:
            inside.rename(target)

    def test_while_an_attendant_runs(self, root: Path, restore: Restore) -> None:
        lock = files.try_lock(root / ".hosts" / "another-host.attend")
        assert lock is not None
        with pytest.raises(
            BackupRefused, match="The attendant of the host 'another-host' is running"
        ):
            restore()
        os.close(lock)

    def test_while_another_host_is_alive(self, restore: Restore) -> None:
        host = Host.objects.create(name="far", heartbeat_at=timezone.now())
        with pytest.raises(BackupRefused, match="The host far was heard of a moment ago"):
            restore()
        host.delete()

    def test_while_a_training_is_executing(self, ended: Run, restore: Restore) -> None:
        lock = files.try_lock(run_folder(ended) / names.LOCK)
        assert lock is not None
        with pytest.raises(BackupRefused, match=r"still executing in .*team/one"):
            restore()
        os.close(lock)

    def test_while_somebody_uses_the_database(
        self, restore: Restore, program: Any, tmp_path: Path
    ) -> None:
        ready = tmp_path / "ready"
        code = (
            "import django, pathlib, time; django.setup(); from django.db import connection;"
            f" connection.ensure_connection(); pathlib.Path({str(ready)!r}).touch();"
            " time.sleep(1000)"
        )
        other = program("-c", code, DJANGO_SETTINGS_MODULE="tunixrt.settings")
        wait_for(ready.exists, "the other program")
        with pytest.raises(
            BackupRefused, match=r"uses the database. Stop the web server|connections"
        ):
            restore()
        other.kill()

    def test_into_another_kind_of_database(self, target: Path, restore: Restore) -> None:
        other = "postgresql" if connection.vendor == "sqlite" else "sqlite"
        rewrite(target, lambda content: content["database"].update(vendor=other))
        with pytest.raises(BackupRefused, match="and restore it there"):
            restore()

    def test_of_a_newer_version(self, target: Path, restore: Restore) -> None:
        rewrite(target, lambda content: content["migrations"]["runs"].append("9999_of_tomorrow"))
        with pytest.raises(BackupRefused, match=r"newer version .*runs.9999_of_tomorrow"):
            restore()
        rewrite(target, lambda content: content.update(format=2))
        with pytest.raises(BackupRefused, match="newer version"):
            restore()

    def test_of_a_version_that_lacks_some_of_what_was_squashed(
        self, target: Path, restore: Restore
    ) -> None:
        last = "0014_waiting_by_owner"
        rewrite(target, lambda content: content["migrations"]["runs"].remove(last))
        with pytest.raises(BackupRefused, match="too old to be brought up to date at once"):
            restore()

    def test_without_room(self, restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archive, "SPARE_BYTES", 2**60)
        with pytest.raises(BackupRefused, match="too little room"):
            restore()


def test_a_restore_may_be_killed_at_any_moment_and_is_done_again(
    user: User,
    root: Path,
    config: dict[str, Any],
    backup: Callable[..., Made],
    target: Path,
    program: Any,
) -> None:
    """What is left is untouched, or restored, or nothing is started and concluded until it is done
    again."""
    make_run(
        user,
        status=RunStatus.FAILED,
        files={"stdout.log": b"said"},
        output_dir="team/one",
        config=config,
    )
    make_run(user, status=RunStatus.RUNNING, host=this_host(), files=begun(), config=config)
    shutil.rmtree(run_folder(make_run(user, status=RunStatus.PENDING, config=config)))
    backup()
    connections.close_all()

    code = (
        "import django, pathlib, sys; django.setup(); from runs.tests import killed_restores;"
        " killed_restores.main(pathlib.Path(sys.argv[1]))"
    )
    restores = program("-c", code, str(target), DJANGO_SETTINGS_MODULE="tunixrt.settings")

    assert restores.wait() == 0, restores.said()
    moments, interrupted = [
        int(word) for word in restores.said().splitlines()[-1].split() if word.isdigit()
    ]
    assert moments > interrupted > 10, restores.said()


def leave_an_interrupted_restore(root: Path, target: Path) -> str:
    """The note is what every restore begins its change with. Returns what is to be said then."""
    files.write_json(root / ".hosts" / "restoring.json", {"backup": str(target)})
    return f"A restore was interrupted here; run manage.py restore {target} --replace again."


def test_after_an_interrupted_restore_everybody_says_what_to_do(
    ended: Run, root: Path, target: Path, backup: Callable[..., Made], restore: Restore
) -> None:
    """Above all not to write the marker."""
    backup()
    says = leave_an_interrupted_restore(root, target)
    (root / ".hosts" / "root_id").unlink()
    for problem in (root_away(), root_problem(), start_problem()):
        assert problem is not None
        assert problem.startswith(says)
        assert "marker" not in problem
    with pytest.raises(BackupRefused, match=re.escape(says)):
        make_backup(folder=target.with_name("tuesday"), by=system_user(), how="", say=print)
    with pytest.raises(BackupRefused, match=re.escape(says)):
        restore(replace=False)
    restore()
    assert root_away() is None


def test_a_restore_that_fails_after_an_interrupted_one_leaves_it_interrupted(
    ended: Run, root: Path, target: Path, backup: Callable[..., Made], restore: Restore
) -> None:
    """The folders that the interrupted one has moved belong to the database, perhaps: they stay
    until a restore succeeds."""
    backup()
    leave_an_interrupted_restore(root, target)
    (root / ".hosts" / "root_id").unlink()
    (root / "team").rename(root / ".replaced-by-the-interrupted-one")
    database = next(target.glob(DATABASE))
    good, manifest = database.read_bytes(), (target / "manifest.json").read_bytes()
    database.write_bytes(b"no database" * 1000)
    sha256 = hashlib.sha256(database.read_bytes()).hexdigest()
    rewrite(target, lambda content: content["database"].update(sha256=sha256))

    with pytest.raises(BackupRefused, match="The database"):
        restore()

    assert "A restore was interrupted here" in str(root_away())
    assert {path.name for path in root.iterdir()} == {".hosts", ".replaced-by-the-interrupted-one"}
    database.write_bytes(good)
    (target / "manifest.json").write_bytes(manifest)
    restore()
    assert root_away() is None
    assert {path.name for path in root.iterdir()} == {".hosts", "team"}


def test_what_fails_after_the_change_is_said_and_done_again(
    ended: Run, root: Path, backup: Callable[..., Made], restore: Restore, settings: LazySettings
) -> None:
    backup()
    settings.TUNIXRT_SECRET_KEY_FILE.mkdir(parents=True)  # so that the key cannot be put there
    with pytest.raises(
        BackupRefused,
        match=r"in place, but what follows failed: .*Run the same command again, with --replace",
    ):
        restore()
    assert "A restore was interrupted here" in str(root_away())
    settings.TUNIXRT_SECRET_KEY_FILE.rmdir()
    restore()
    assert root_away() is None


def test_a_signal_during_the_change_waits_for_its_end(
    ended: Run, root: Path, backup: Callable[..., Made], target: Path
) -> None:
    """Else the folders would be moved back although the database has been exchanged."""
    backup()
    run_folder(ended).joinpath("stdout.log").write_text("of now")
    sent = 0

    def interrupt(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal sent
        if listening and event == "os.rename":
            sent += 1
            signal.raise_signal(signal.SIGINT)

    listening = False
    sys.addaudithook(interrupt)  # for good, but it listens only here
    try:
        listening = True
        with pytest.raises(KeyboardInterrupt):
            restore_backup(folder=target, replace=True, how="", say=lambda sentence: None)
    finally:
        listening = False

    assert sent > 3
    assert root_away() is None
    assert run_folder(ended).joinpath("stdout.log").read_text() == "said"
    assert {path.name for path in root.iterdir()} == {".hosts", "team"}


def test_no_password_is_on_a_command_line(
    ended: Run,
    backup: Callable[..., Made],
    restore: Restore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no password")
    said = tmp_path / "said"
    for name in ("pg_dump", "pg_restore", "psql"):
        real = shlex.quote(shutil.which(name) or name)
        script = (
            f'#!/bin/sh\necho "{name} $PGPASSWORD: $*" >> {shlex.quote(str(said))}\nexec {real}'
            ' "$@"\n'
        )
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(connection.settings_dict, "PASSWORD", "s3cret/#")

    backup()
    restore()

    calls = [
        line.split(": ", 1) for line in said.read_text().splitlines() if "--version" not in line
    ]
    assert {call for call, _ in calls} == {
        f"{name} s3cret/#" for name in ("pg_dump", "pg_restore", "psql")
    }
    assert not [arguments for _, arguments in calls if "s3cret" in arguments]


def test_what_a_killed_restore_has_left_is_removed(
    ended: Run, root: Path, backup: Callable[..., Made], restore: Restore
) -> None:
    backup()
    for name in (".restoring-x", ".replaced-x"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    (root / ".hosts" / "root_id").unlink()
    (root / ".hosts" / ".restoring.json.0a1b2c3d").write_text("{")  # its note, half written

    restore()

    assert {path.name for path in root.iterdir()} == {".hosts", "team"}
    assert not list((root / ".hosts").glob(".restoring*"))
    assert root_away() is None


def test_a_backup_of_an_older_version_is_migrated(
    ended: Run, backup: Callable[..., Made], restore: Restore
) -> None:
    before = rows()
    call_command("migrate", "runs", "0001", verbosity=0)
    try:
        # the version before had no squashed migrations
        MigrationRecorder.Migration.objects.filter(name__startswith="0001_squashed_").delete()
        backup()
        call_command("migrate", verbosity=0)
        restore()
        assert [row for row in rows() if '"system"' not in row] == before
    finally:
        call_command("migrate", verbosity=0)


def test_a_key_of_the_environment_is_not_overwritten(
    ended: Run, backup: Callable[..., Made], restore: Restore, settings: LazySettings
) -> None:
    backup()
    settings.TUNIXRT_SECRET_KEY_FILE = None
    assert restore() == []
    settings.SECRET_KEY = "another" * 10
    (warning,) = restore()
    assert "SECRET_KEY of the environment is not the one of the backup" in warning


def test_the_commands_say_what_they_do_and_refuse_in_a_sentence(
    executing: Run, root: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("backup", str(target))
    assert f"{target}: the database and 1 folders of runs" in capsys.readouterr().out
    with pytest.raises(CommandError, match="Name a new folder"):
        call_command("backup", str(target))
    with pytest.raises(CommandError, match="--replace puts the backup in place"):
        call_command("restore", str(target))
    for command in (
        ["backup", ""],
        ["restore", ""],
        ["hand_over", "", "somebody"],
        ["hand_over", "somebody", " "],
    ):
        with pytest.raises(CommandError, match="is empty"):
            call_command(*command)
    call_command("restore", str(target), "--replace")
    said = capsys.readouterr().out
    assert f"Run {executing.pk} was executing when the backup was made" in said
    assert said.endswith("Restored: the database and 1 folders of runs. Start the system now.\n")
