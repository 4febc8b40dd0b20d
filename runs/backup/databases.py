"""Saving and loading the database: SQLite through its backup API, PostgreSQL through pg_dump and
pg_restore.

Both save one consistent state while others write, and load it in one transaction: all or nothing.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection, transaction
from psycopg.pq import Conninfo

from runs.backup.archive import BackupRefused, create
from runs.models import RunMode

LOADED = "tunixrt: loaded"
LOCK_SECONDS = 60
COUNTED = {
    "accounts": "auth_user",
    "runs": "tunix_runs",
    "datasets": "datasets_dataset",
    "traces": "datasets_trace",
}


@dataclass(frozen=True)
class StoredRun:
    """A run that has, or may get, a folder, as the saved database knows it."""

    run_id: uuid.UUID
    status: str
    folder: str  # relative to the output root


@dataclass(frozen=True)
class Saved:
    """What the saved database holds. ``details`` are for the manifest."""

    runs: list[StoredRun]
    migrations: dict[str, list[str]]
    root_id: str | None
    counts: dict[str, int]
    details: dict[str, Any]


Query = Callable[[str], Sequence[Sequence[Any]]]


def _read_facts(query: Query, details: dict[str, Any]) -> Saved:
    # by the mode: a backup may be made after an update and before `migrate`, without newer columns
    runs = [
        StoredRun(
            uuid.UUID(str(run_id)),
            status,
            output_dir if mode != RunMode.DRY_RUN and output_dir else str(uuid.UUID(str(run_id))),
        )
        for run_id, mode, status, output_dir in query(
            "SELECT run_id, mode, status, output_dir FROM tunix_runs WHERE mode <> 'dry-run' OR"
            " supervised ORDER BY run_id"
        )
    ]
    migrations: dict[str, list[str]] = {}
    for app, name in query("SELECT app, name FROM django_migrations ORDER BY app, name"):
        migrations.setdefault(app, []).append(name)
    roots = query("SELECT id FROM runs_outputroot")
    counts = {what: query(f"SELECT count(*) FROM {table}")[0][0] for what, table in COUNTED.items()}  # noqa: S608 - our own names
    return Saved(
        runs, migrations, str(uuid.UUID(str(roots[0][0]))) if roots else None, counts, details
    )


def database_bytes() -> int:
    """Return about how many bytes the database takes."""
    if connection.vendor == "sqlite":
        return os.stat(connection.settings_dict["NAME"]).st_size
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


def save_database(target: Path) -> Saved:
    """Save the database into the new file ``target`` and return what it then holds. Raise
    BackupRefused."""
    return _save_sqlite(target) if connection.vendor == "sqlite" else _save_postgresql(target)


def load_database(source: Path) -> AbstractContextManager[Callable[[], None]]:
    """Load the saved database, in place of all that is there, when the function that this yields is
    called; until then, and if that raises BackupRefused, everything stays as it is. No connection
    of this process may be open."""
    return _load_sqlite(source) if connection.vendor == "sqlite" else _load_postgresql(source)


# --- SQLite ---------------------------------------------------------------------------------------


def _save_sqlite(target: Path) -> Saved:
    create(target).close()
    live = f"file:{quote(str(Path(connection.settings_dict['NAME']).resolve()))}?mode=rw"
    try:
        with (
            closing(sqlite3.connect(live, uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            # All pages in one step, which is one read transaction: step by step it would start
            # again at every write of others.
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # so that it is one file
            if (problem := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise BackupRefused(f"The database is damaged: {problem}")
            return _read_facts(
                lambda sql: copy.execute(sql).fetchall(), {"version": sqlite3.sqlite_version}
            )
    except sqlite3.Error as error:
        raise BackupRefused(f"The database cannot be saved: {error}") from error


@contextmanager
def _load_sqlite(source: Path) -> Iterator[Callable[[], None]]:
    with closing(
        sqlite3.connect(f"file:{quote(str(source.resolve()))}?mode=ro&immutable=1", uri=True)
    ) as saved:

        def commit() -> None:
            database = Path(connection.settings_dict["NAME"])
            try:
                # Written as one transaction: also for a reader who has the file open, and after a
                # power cut.
                with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as target:
                    saved.backup(target)
            except sqlite3.Error as error:
                raise BackupRefused(
                    f"The database {database} cannot be written: {error}"
                ) from error

        yield commit


# --- PostgreSQL -----------------------------------------------------------------------------------


def _save_postgresql(target: Path) -> Saved:
    program = _program("pg_dump", _server_version() // 10_000)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot = cursor.fetchone()[0]
        options = [
            "--format=custom",
            "--no-owner",
            "--no-privileges",
            f"--lock-wait-timeout={LOCK_SECONDS}s",
        ]
        with create(target) as file:
            _run([program, *options, f"--snapshot={snapshot}"], stdout=file)

        def query(sql: str) -> Sequence[Sequence[Any]]:
            cursor.execute(sql)
            return cursor.fetchall()

        return _read_facts(query, {"version": str(_server_version()), "client": _major(program)})


@contextmanager
def _load_postgresql(source: Path) -> Iterator[Callable[[], None]]:
    """Load the database. ``psql`` holds the transaction open: this program sends COMMIT when all
    else is in place, and if it dies nothing happens."""
    major = _server_version() // 10_000
    restore, psql = _program("pg_restore", major), _program("psql", major)
    known = [*connection.introspection.django_table_names(only_existing=True), "django_migrations"]
    drop = "".join(
        f"DROP TABLE IF EXISTS {connection.ops.quote_name(name)} CASCADE;\n" for name in known
    )
    connection.close()
    options = [
        "--no-psqlrc",
        "--no-password",
        "--quiet",
        "--no-align",
        "--tuples-only",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    ]
    with tempfile.TemporaryFile() as errors:
        client = subprocess.Popen(
            [psql, *options, "--file=-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for this program, which decides
        )
        assert client.stdin is not None
        assert client.stdout is not None

        def failed(otherwise: str = "it gave no reason") -> BackupRefused:
            """Return why psql ended, as it does without a COMMIT when its input ends."""
            with suppress(BrokenPipeError):
                client.communicate()
            errors.seek(0)
            return BackupRefused(
                f"The database cannot be loaded: {_last_line(errors.read()) or otherwise}"
            )

        try:
            try:
                client.stdin.write(
                    f"BEGIN;\nSET LOCAL lock_timeout = '{LOCK_SECONDS}s';\n{drop}".encode()
                )
                options = ["--clean", "--if-exists", "--no-owner", "--no-privileges", "--file=-"]
                _run([restore, *options, str(source)], stdout=client.stdin)
                client.stdin.write(f"\\echo {LOADED}\n".encode())
                client.stdin.flush()
            except BrokenPipeError:
                raise failed() from None
            except BackupRefused as error:  # perhaps because psql had ended
                raise failed(error.detail) from error
            if LOADED not in client.stdout.readline().decode():
                raise failed()

            def commit() -> None:
                client.communicate(b"COMMIT;\n")
                if client.returncode:
                    raise failed()

            yield commit
        finally:
            client.kill()
            client.wait()
            with suppress(BrokenPipeError):
                client.stdin.close()
            client.stdout.close()


def _run(command: list[str], stdout: Any) -> None:
    stdout.flush()
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=_environment(),
        check=False,
    )
    if ended.returncode:
        raise BackupRefused(
            f"{Path(command[0]).name} failed:"
            f" {_last_line(ended.stderr) or f'exit code {ended.returncode}'}"
        )


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return next(
        (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else ""
    )


def _server_version() -> int:
    """Return the version of the PostgreSQL server as libpq numbers it: 150004 is 15.4."""
    version: int = connection.pg_version  # type: ignore[attr-defined]
    return version


def _program(name: str, least: int) -> str:
    """Return the path of a client program of PostgreSQL. Raise BackupRefused if it is missing or
    older than the server."""
    path = shutil.which(name)
    way_out = (
        f"Install the client programs of PostgreSQL {least} (Debian: postgresql-client-{least}),"
        " and have them in PATH."
    )
    if path is None:
        raise BackupRefused(f"{name} is not installed. {way_out}")
    if (major := _major(path)) < least:
        raise BackupRefused(
            f"{path} is of PostgreSQL {major}, which cannot handle the server's version {least}."
            f" {way_out}"
        )
    return path


def _major(program: str) -> int:
    ended = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    said = ended.stdout or ended.stderr
    try:
        return int(
            said.split("(PostgreSQL)")[1]
            .split()[0]
            .split(".")[0]
            .rstrip("abcdefghijklmnopqrstuvwxyz")
        )
    except (IndexError, ValueError):
        raise BackupRefused(
            f"{program} does not say its version; it says {said[:200]!r} (exit code"
            f" {ended.returncode})."
        ) from None


def _environment() -> dict[str, str]:
    """Return the environment with the connection's parameters as libpq's variables: other accounts
    can see a command line."""
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in Conninfo.get_defaults()
        if option.envvar is not None
    }
    parameters = connection.get_connection_params()
    given = {
        variables[name]: str(value)
        for name, value in parameters.items()
        if name in variables and value is not None
    }
    return os.environ | given
