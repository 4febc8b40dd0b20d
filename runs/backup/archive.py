"""The layout of a backup and its manifest.

::

    manifest.json      what is in it, with sizes and SHA-256 hashes
    database.sqlite3   or database.dump: the database
    secret_key         what sessions and webhooks are signed with
    runs.jsonl         one line per run that has a folder: its status, and its files with sizes
                       and hashes
    output/            the folders of the runs

No name in a manifest is used as a path before ``path_parts`` has accepted it.
"""

import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

from django.conf import settings

from tunixrt.refusals import Conflict

FORMAT = 1
MANIFEST = "manifest.json"
SECRET_KEY = "secret_key"
RUNS = "runs.jsonl"
OUTPUT = "output"
DATABASES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}
MANIFEST_MAX_BYTES = 16 * 2**20
SPARE_BYTES = 64 * 2**20  # that must stay free
CHUNK = 2**20


class BackupRefused(Conflict):
    """No backup was made, or nothing was restored."""


class Damaged(BackupRefused):
    """A backup that is not what its manifest says."""

    def __init__(self, problem: str):
        super().__init__(
            f"This backup is damaged: {problem} Nothing was restored. Use another backup."
        )


def version() -> str:
    """Return the version of this program."""
    with open(settings.BASE_DIR / "pyproject.toml", "rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def path_parts(name: object) -> list[str]:
    """Return the parts of a relative path of the manifest. Raise Damaged for one that could lead
    elsewhere."""
    parts = name.split("/") if isinstance(name, str) else []
    if (
        not parts
        or any(part in ("", ".", "..") or "\0" in part for part in parts)
        or parts[0].startswith(".")
    ):
        raise Damaged(f"{str(name)[:200]!r} is no path of a run.")
    return parts


# --- the manifest ---------------------------------------------------------------------------------


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, signed with a hash of its own content against damage (not against
    forgery)."""
    text = json.dumps(content | {"sha256": _content_hash(content)}, indent=1, sort_keys=True)
    with create(folder / MANIFEST) as file:
        file.write(text.encode() + b"\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a backup.

    Raises:
        BackupRefused: there is none, or it is of a newer version.
        Damaged
    """
    if not os.path.lexists(folder):
        raise BackupRefused(f"There is no folder {folder}.")
    if not os.path.isdir(folder):
        raise BackupRefused(f"{folder} is no backup: it is not a folder.")
    try:
        with open_file(folder, MANIFEST) as file:
            data = file.read(MANIFEST_MAX_BYTES + 1)
    except FileNotFoundError:
        raise BackupRefused(f"{folder} is no backup: it has no {MANIFEST}.") from None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged(f"{MANIFEST} cannot be read.") from None
    if not isinstance(content, dict) or not {"format", "sha256"} <= content.keys():
        raise BackupRefused(f"{folder} is no backup: its {MANIFEST} is of something else.")
    written = content.pop("sha256")
    if written != _content_hash(content):
        raise Damaged(f"{MANIFEST} has changed.")
    if content.get("format") != FORMAT:
        raise BackupRefused(
            f"This backup was made by a newer version ({content.get('version')}); restore it with"
            " that one."
        )
    return content


def _content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- files ----------------------------------------------------------------------------------------


def create(path: Path) -> BufferedWriter:
    """Open a new file for writing that its owner alone can read."""
    return open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600),
        "wb",
    )


def make_folder(path: Path) -> None:
    """Make a new folder, and those above it that are missing, that their owner alone can read."""
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=0o700)


def open_file(folder: Path, name: str) -> BufferedReader:
    """Open a regular file of a backup for reading. Raise Damaged for a link or anything else in its
    place."""
    try:
        descriptor = os.open(
            folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{name} cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{name} is not a regular file.")
    return open(descriptor, "rb")


def hash_file(file: BufferedReader) -> str:
    """Return the SHA-256 hash of an open file, which is then read from its beginning again."""
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return found


@contextmanager
def verified(folder: Path, name: str, sha256: object) -> Iterator[BufferedReader]:
    """Yield an open file of a backup that has this hash. Raise Damaged."""
    try:
        file = open_file(folder, name)
    except FileNotFoundError:
        raise Damaged(f"{name} is missing.") from None
    with file:
        if hash_file(file) != sha256:
            raise Damaged(f"{name} has changed.")
        yield file


def require_space(folder: Path, wanted: int) -> None:
    """Raise BackupRefused if the file system of ``folder`` has less than ``wanted`` bytes and some
    to spare."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    needed = wanted + SPARE_BYTES
    if free < needed:
        raise BackupRefused(
            f"There is too little room in {folder}: {needed / 1e6:,.0f} MB are needed,"
            f" {free / 1e6:,.0f} MB are free."
        )
