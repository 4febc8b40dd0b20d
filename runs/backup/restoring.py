"""Putting a backup back into a system that is stopped."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import CHANGE
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DatabaseError, connection, connections
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from datasets.models import Dataset, Trace
from runs.backup import archive
from runs.backup.archive import (
    BackupRefused,
    Damaged,
    make_folder,
    path_parts,
    require_space,
    verified,
)
from runs.backup.copying import opened, take_out
from runs.backup.databases import load_database
from runs.backup.making import BackupProgress, Say, nested
from runs.execution.homecoming import bring_home
from runs.execution.hosts import this_host
from runs.execution.outcome import read_end
from runs.lifecycle import transition
from runs.models import EXECUTING, Host, OutputRoot, Run, RunStatus
from runs.runfolder import files, names, records
from runs.runfolder.processes import has_open, live_processes
from runs.runfolder.tree import DEPTH_MAX, remove_tree
from runs.services.output_root import (
    RESTORING,
    forget_restore,
    interrupted_restore,
    restore_is_noted,
    restoring,
)
from runs.services.reservations import run_folder
from runs.services.wakeup import hosts_folder
from tunixrt.audit import SYSTEM_USERNAME, system_user, write_log_entry

STAGED, REPLACED = ".restoring-", ".replaced-"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Restored:
    runs: int
    ended: list[UUID]  # runs that the backup had found executing
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ListedRun:
    """A line of ``runs.jsonl``. ``files``: path → size and hash; None: the backup has no folder of
    it."""

    run_id: str
    status: str
    parts: list[str]
    files: dict[str, tuple[int, str]] | None


def restore_backup(*, folder: Path, replace: bool, how: str, say: Say) -> Restored:
    """Put a backup in place of what this system has: database, secret key, folders of runs.

    Everything is verified and laid ready beside what is there; the change itself is renames and one
    database transaction, undone if one of them fails. From before the change until all is settled,
    a note in the output root keeps every other process from starting or concluding anything
    (``runs.services.output_root``), so this program may be killed at any moment. Signals wait
    meanwhile.

    Raises:
        BackupRefused: nothing has changed, unless it says so.
    """
    with ExitStack() as stack:
        try:
            folder = Path(os.path.abspath(folder))
            manifest = archive.read_manifest(folder)
            _require_fitting(folder, manifest)
            settings.TUNIX_OUTPUT_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_stopped(stack)
            if not replace:
                _require_empty()
            restored = _verify_and_change(folder, manifest, how, say)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
            raise Damaged("its manifest lacks something.") from None
        except OSError as error:
            raise BackupRefused(
                f"The backup cannot be restored: {error}. Nothing has changed."
            ) from error
        except DatabaseError as error:
            raise BackupRefused(
                f"The database does not answer: {error} Nothing has changed."
            ) from error
    return restored


# --- may it be restored here? ---------------------------------------------------------------------


def _require_fitting(folder: Path, manifest: dict[str, Any]) -> None:
    vendor = manifest["database"]["vendor"]
    if vendor != connection.vendor:
        labels = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
        way_out = (
            "Leave DATABASE_URL out"
            if vendor == "sqlite"
            else "Let DATABASE_URL name a PostgreSQL database"
        )
        raise BackupRefused(
            f"This backup holds a database of {labels.get(vendor, vendor)}, and the settings name"
            f" {labels[connection.vendor]}. {way_out} and restore it there."
        )
    ours = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    theirs = {(app, name) for app, found in manifest["migrations"].items() for name in found}
    replaced = {key for migration in ours.values() for key in migration.replaces}
    unknown = sorted(f"{app}.{name}" for app, name in theirs - ours.keys() - replaced)
    if unknown:
        raise BackupRefused(
            f"This backup was made by a newer version ({manifest['version']}; migration"
            f" {unknown[0]}). Restore it with that one."
        )
    # Django takes a squashed migration for applied where all that it stands for is
    if any(theirs & set(one.replaces) and set(one.replaces) - theirs for one in ours.values()):
        raise BackupRefused(
            f"This backup was made by a version ({manifest['version']}) that is too old to be"
            " brought up to date at once. Restore it with that version, update to the last one"
            " before this, and run `manage.py migrate` there."
        )
    if folder.resolve().is_relative_to(settings.TUNIX_OUTPUT_ROOT):
        raise BackupRefused(
            f"{folder} lies in the output root, which is to be replaced. Move the backup elsewhere."
        )


def _require_stopped(stack: ExitStack) -> None:
    """Refuse a system that runs. ``stack`` holds this host's place of the attendant, so that none
    starts meanwhile."""
    hosts_folder().mkdir(mode=0o700, exist_ok=True)
    ours = hosts_folder() / f"{settings.TUNIX_HOST_NAME}.attend"
    locked = {path.name.removesuffix(".attend") for path in hosts_folder().glob("*.attend")} | {
        settings.TUNIX_HOST_NAME
    }
    for name in sorted(locked):
        lock = files.try_lock(ours.with_name(f"{name}.attend"))
        if lock is None:
            raise BackupRefused(
                f"The attendant of the host {name!r} is running. Stop it (manage.py attend, make"
                " serve) and the web server first."
            )
        stack.callback(os.close, lock)
    if training := next(_alive_below(settings.TUNIX_OUTPUT_ROOT), None):
        raise BackupRefused(
            f"A training is still executing in {training}. Cancel it, or wait for its end."
        )
    if Host._meta.db_table in connection.introspection.table_names():
        for host in Host.objects.alive().exclude(name__in=locked):
            raise BackupRefused(
                f"The host {host.name} was heard of a moment ago. Stop its attendant, and wait"
                f" {settings.TUNIX_HOST_SILENT_SECONDS:g} s."
            )
    if holder := who_has_the_database():
        raise BackupRefused(
            f"{holder} uses the database. Stop the web server and all other programs of this system"
            " first."
        )


def _alive_below(root: Path) -> Iterator[Path]:
    """Yield folders of runs whose keeper is alive."""
    for path, folders, entries in os.walk(root):
        folders[:] = [
            name for name in folders if name not in (names.CHECKPOINTS, names.MODEL, names.HOSTS)
        ]
        if path.count("/") - str(root).count("/") >= DEPTH_MAX:
            folders.clear()
        if names.LOCK in entries:
            lock = files.try_lock(os.path.join(path, names.LOCK))
            if lock is None:
                yield Path(path)
            else:
                os.close(lock)


def who_has_the_database() -> str | None:
    """Return, in words, another program that has the database open."""
    if connection.vendor == "sqlite":
        path = os.path.realpath(connection.settings_dict["NAME"])
        holders = [
            process.pid
            for process in live_processes()
            if process.pid != os.getpid() and has_open(process.pid, path)
        ]
        return f"Process {holders[0]}" if holders else None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <>"
            " pg_backend_pid() AND backend_type = 'client backend'"
        )
        sessions = cursor.fetchone()[0]
    return f"Another program ({sessions} connections)" if sessions else None


def _require_empty() -> None:
    root: Path = settings.TUNIX_OUTPUT_ROOT
    if problem := interrupted_restore():
        raise BackupRefused(problem)
    replace = "--replace puts the backup in place of everything that is there."
    tables = connection.introspection.table_names()
    people = User.objects.exclude(username=SYSTEM_USERNAME)
    for rows in (people, Run.objects.all(), Dataset.objects.all(), Trace.objects.all()):
        model = rows.model
        if model._meta.db_table in tables and rows.exists():
            raise BackupRefused(
                f"The database has {model._meta.verbose_name_plural} already. {replace}"
            )
    if found := [path.name for path in root.iterdir() if not path.name.startswith(".")]:
        raise BackupRefused(f"The output root {root} is not empty: it holds {found[0]}. {replace}")


# --- laying ready ---------------------------------------------------------------------------------


def _lay_ready(
    folder: Path, lines: BufferedReader, staged: Path, manifest: dict[str, Any], say: Say
) -> int:
    """Copy the folders of the runs out of the backup, verified; return how many. Runs that were
    executing get an end there."""
    total = manifest["output"]["bytes"]
    require_space(staged, total)
    progress = BackupProgress(say, "Verifying and copying the folders of runs", total)
    folders_listed = {"/".join(run.parts) for run in _listed(lines)}
    inside = nested(folders_listed)
    count = 0
    lines.seek(0)
    for run in _listed(lines):
        target = staged.joinpath(*run.parts)
        if run.files is not None:
            try:
                with opened(folder, [archive.OUTPUT, *run.parts]) as source:
                    name = "/".join(run.parts)
                    take_out(
                        source, target, name, run.files, others=inside[name], progress=progress
                    )
            except (FileNotFoundError, NotADirectoryError):
                raise Damaged(f"the folder {'/'.join(run.parts)!r} is missing.") from None
            count += 1
        if run.status in EXECUTING or (run.status == RunStatus.PENDING and has_begun(target)):
            _write_end(run, target, manifest["made_at"])
    return count


def has_begun(folder: Path) -> bool:
    """Return whether a training that the database has as pending had been started when its folder
    was copied, a moment later."""
    return any(os.path.lexists(folder / name) for name in (names.KEEPER, names.EXIT))


def _listed(lines: BufferedReader) -> Iterator[ListedRun]:
    try:
        for line in lines:
            value = json.loads(line)
            listing = value["files"]
            listed = (
                None
                if listing is None
                else {path: (size, sha256) for path, size, sha256 in listing}
            )
            yield ListedRun(
                str(UUID(value["run_id"])), value["status"], path_parts(value["folder"]), listed
            )
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"{archive.RUNS} cannot be read.") from None


def _write_end(run: ListedRun, folder: Path, made_at: str) -> None:
    """Write an exit.json for the run unless it has one. Its processes are another system's, which
    may continue: nothing is killed."""
    if not folder.exists():
        make_folder(folder)
    if read_end(folder) is not None:
        return
    (folder / names.EXIT).unlink(missing_ok=True)  # nothing that is an end
    keeper = records.read_keeper(folder) or {}
    message = (
        f"Restored from the backup of {made_at[:16].replace('T', ' ')} UTC, which was made while"
        " this run was executing."
    )
    record = records.exit_record(
        run_id=run.run_id,
        reason="lost",
        message=message,
        started_at=keeper.get("started_at"),
        ended_at=made_at,
    )
    files.create_json_once(folder / names.EXIT, record)


def _verify_and_change(folder: Path, manifest: dict[str, Any], how: str, say: Say) -> Restored:
    """Verify everything, then change everything."""
    root: Path = settings.TUNIX_OUTPUT_ROOT
    _remove_leftovers(root)
    root_id = manifest["output"]["root_id"]
    message = f"restored the backup of {manifest['made_at']}, made on {manifest['host']}, {how}"
    staged = Path(tempfile.mkdtemp(prefix=STAGED, dir=root))
    replaced = Path(tempfile.mkdtemp(prefix=REPLACED, dir=root))
    try:
        with verified(folder, archive.RUNS, manifest["runs"]["sha256"]) as lines:
            runs = _lay_ready(folder, lines, staged, manifest, say)
        database = archive.DATABASES[connection.vendor]
        with (
            verified(folder, archive.SECRET_KEY, manifest["secret_key"]["sha256"]) as key,
            verified(folder, database, manifest["database"]["sha256"]),
        ):
            secret_key = key.read().decode()
            if holder := who_has_the_database():  # copying the folders may have taken hours
                raise BackupRefused(
                    f"{holder} has begun to use the database. Stop it, and restore again."
                )
            say("Loading the database")
            with load_database(folder / database) as commit, _signals_wait():
                connections.close_all()
                restored = Restored(runs, [])
                with _change(folder, root, staged, replaced, commit):
                    _finish(root, restored, secret_key, root_id, manifest, message, say)
    finally:
        # unless something is in it: then it is removed, or moved back, elsewhere
        with suppress(OSError):
            os.rmdir(replaced)
        shutil.rmtree(staged, ignore_errors=True)
    return restored


def _remove_leftovers(root: Path) -> None:
    """Remove what a restore that was killed has left. What it had replaced stays unless the marker
    is there: without it, the database may still be the one of those folders, and this restore may
    be refused."""
    for note in hosts_folder().glob(f".{RESTORING}.*"):  # written half
        note.unlink()
    left = [*root.glob(f"{STAGED}*")]
    if os.path.lexists(hosts_folder() / names.ROOT_ID):
        left += root.glob(f"{REPLACED}*")
    for path in left:
        remove_tree(path)


# --- the change -----------------------------------------------------------------------------------


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let no signal end this program between the database's transaction and the folders that belong
    to it."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _change(
    folder: Path, root: Path, staged: Path, replaced: Path, commit: Callable[[], None]
) -> Iterator[None]:
    """Put what is laid ready in place of what is there, then the database; take everything back if
    one of them fails. The block does the rest: if that fails, the note of this restore stays in the
    output root."""
    first = not restore_is_noted()
    with restoring(folder):
        _swap(root, staged, replaced, commit, first)
        try:
            yield
            forget_restore()
        except Exception as error:
            raise BackupRefused(
                f"The backup is in place, but what follows failed: {error} Until it is done,"
                " nothing is started. Run the same command again, with --replace."
            ) from error


def _swap(
    root: Path, staged: Path, replaced: Path, commit: Callable[[], None], first: bool
) -> None:
    """Exchange folders and database, or nothing. ``first``: no earlier restore was interrupted, so
    that the system is whole once everything is taken back."""
    marker = hosts_folder() / names.ROOT_ID
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        moves.append((source, target))

    try:
        if os.path.lexists(marker):
            move(marker, replaced / ".marker")
        for entry in sorted(root.iterdir()):
            if entry.name != names.HOSTS and not entry.name.startswith((STAGED, REPLACED)):
                move(entry, replaced / entry.name)
        for entry in sorted(staged.iterdir()):
            move(entry, root / entry.name)
        commit()
    except BaseException as error:
        try:
            for source, target in reversed(moves):
                os.rename(target, source)
            if first:
                forget_restore()
        except OSError as problem:
            raise BackupRefused(
                f"The restore failed ({error}), and what was moved cannot be moved back"
                f" ({problem}). Nothing is started until it is done: run the same command again,"
                " with --replace."
            ) from error
        raise


def _finish(
    root: Path,
    restored: Restored,
    secret_key: str,
    root_id: str | None,
    manifest: dict[str, Any],
    message: str,
    say: Say,
) -> None:
    """Complete a restore after the change."""
    for notes in hosts_folder().glob("*.keepers"):
        shutil.rmtree(notes, ignore_errors=True)  # of keepers of the system that was replaced
    if root_id is not None:
        files.create_json_once(hosts_folder() / names.ROOT_ID, {"id": root_id})
    if problem := _keep_secret_key(secret_key):
        restored.warnings.append(problem)
    _settle(restored, manifest, say)
    target = OutputRoot.objects.get_or_create(single=True)[0]
    write_log_entry(by=system_user(), target=target, name="restore", flag=CHANGE, message=message)
    for path in root.glob(f"{REPLACED}*"):
        with suppress(OSError):  # the next restore removes it
            remove_tree(path)


def _keep_secret_key(secret_key: str) -> str | None:
    """Put the key where this system keeps its own; what to do if that comes from the
    environment."""
    if settings.TUNIXRT_SECRET_KEY_FILE is None:
        if secret_key == settings.SECRET_KEY:
            return None
        return (
            "SECRET_KEY of the environment is not the one of the backup: everybody logs in once"
            " more, and webhooks are signed with another key. To keep both as they were, set"
            " SECRET_KEY to what the file secret_key of the backup holds."
        )
    path: Path = settings.TUNIXRT_SECRET_KEY_FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # made with mode 0600
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(secret_key)
    os.replace(file.name, path)
    return None


# --- afterwards -----------------------------------------------------------------------------------


def _settle(restored: Restored, manifest: dict[str, Any], say: Say) -> None:
    """Bring the restored database up to date. The attendant would do the same with the ends; so it
    is done when this returns."""
    known = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
    if known - {(app, name) for app, names in manifest["migrations"].items() for name in names}:
        say("The backup is of an older version: migrating its database")
        call_command("migrate", verbosity=0, interactive=False)
    # those of then are not heard of now
    Host.objects.update(heartbeat_at=None, canary_at=None, silent_since=None)
    for run in Run.objects.filter(status=RunStatus.PENDING, supervised=True):
        if has_begun(run_folder(run)):
            end = read_end(run_folder(run)) or {}
            started_at = parse_datetime(str(end.get("started_at"))) or timezone.now()
            transition(
                run,
                RunStatus.RUNNING,
                reason="it had been started when it was backed up",
                by="restore",
                host=this_host(),
                started_at=started_at,
            )
    for run in Run.objects.executing().filter(supervised=True):
        bring_home(run, by="restore")
        restored.ended.append(run.pk)
