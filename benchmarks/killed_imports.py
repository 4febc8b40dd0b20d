"""Kill imports at random moments: ``python -m benchmarks.killed_imports --kills 200``.

Files of different sizes are imported by processes of their own, as the attendant starts them, and
by the command, as a server imports within a request. Every process is killed (SIGKILL) at a random
moment, some imports are cancelled. In the end each import must be complete, with the fingerprint
of the same file imported without a kill, or must have left nothing: no dataset, no item, no trace,
no folder, no lock.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

from benchmarks.databases import on_each_database, parser_for
from benchmarks.environment import without_our_settings
from tunixrt.tests.postgres import PostgresServer

if TYPE_CHECKING:
    from datasets.models import Import

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 2.5  # before a kill
CANCELLED = 0.15  # share of imports
IN_REQUEST = 0.25
DERIVED = 0.4  # share of imports that are new versions of datasets


def main() -> int:
    parser = parser_for("benchmarks.killed_imports", __doc__ or "")
    parser.add_argument("--kills", type=int, default=200, help="on each database")
    parser.add_argument("--seed", type=int, default=1)
    return on_each_database(prove, parser.parse_args())


def prove(database: str, arguments: argparse.Namespace) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunixrt-kills-")))
        environment = without_our_settings() | {
            "DJANGO_SETTINGS_MODULE": "tunixrt.settings",
            "TUNIXRT_ENV_FILE": os.devnull,
            "TUNIXRT_VAR_DIR": str(folder / "var"),
        }
        if database == "postgresql":
            folder.chmod(0o755)  # of PostgreSQL's own user too
            data = folder / "postgresql"
            data.mkdir()
            server = PostgresServer(data, durable=False)
            server.create()
            stack.callback(server.remove)
            server.start()
            environment["DATABASE_URL"] = server.url()
        os.environ.update(environment)
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, check=True
        )
        django.setup()
        found = _Proof(random.Random(arguments.seed), folder, arguments.kills).run()
        print(json.dumps({"database": database, "seed": arguments.seed} | found), flush=True)


class _Proof:
    def __init__(self, draw: random.Random, folder: Path, kills: int):
        from django.contrib.auth.models import User  # noqa: PLC0415 - models need the settings

        from datasets.supervision import Supervisor  # noqa: PLC0415

        self.draw, self.folder, self.kills = draw, folder, kills
        self.user = User.objects.create_user("someone")
        self.supervisor = Supervisor()
        self.counts: Counter[str] = Counter()
        self.complete: list[str] = []  # keys of datasets

    def run(self) -> dict[str, int]:
        number = 0
        while self.counts["kills"] < self.kills:
            number += 1
            if len(self.complete) > 1 and self.draw.random() < DERIVED:
                self._derived(number)
                continue
            content = self._file(number)
            if self.draw.random() < IN_REQUEST:
                self._in_request(number, content)
            else:
                self._of_its_own(number, content)
        return dict(self.counts)

    def _file(self, number: int) -> bytes:
        """Lines that no other file has, and some that all have."""
        own = [
            {"prompt": f"file {number}: {line} + 1?", "completion": str(line + 1)}
            for line in range(self.draw.randrange(2_100, 25_000))
        ]
        common = [{"prompt": f"{line} + 2?", "completion": str(line + 2)} for line in range(300)]
        lines = own + common
        self.draw.shuffle(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def _of_its_own(self, number: int, content: bytes) -> None:
        from datasets import imports  # noqa: PLC0415
        from datasets.importers import ImportRequest  # noqa: PLC0415

        row = imports.submit_file(
            file=io.BytesIO(content),
            request=ImportRequest(name=f"file-{number}", version="v1", held_out=0.1),
            file_name="",
            by=self.user,
        )
        state = self._to_the_end(row)
        self._check(number, content, state, str(row.pk))

    def _derived(self, number: int) -> None:
        """A new version of some datasets: its text is that of no other one."""
        from datasets import imports  # noqa: PLC0415
        from datasets.cleaning.recipe import parse_recipe  # noqa: PLC0415
        from datasets.models import Dataset, DatasetItem  # noqa: PLC0415

        parents = [
            Dataset.objects.get(dataset_key=key) for key in self.draw.sample(self.complete, 2)
        ]
        recipe = parse_recipe(
            {
                "steps": [
                    {"operation": "merge"},
                    {"operation": "exact_duplicates"},
                    {"operation": "resplit", "held_out": 0.1, "by": "example", "seed": number},
                ]
            }
        )
        asked: dict[str, Any] = {"recipe": recipe, "parents": parents, "name": f"derived-{number}"}
        row = imports.submit_derivation(**asked, version="v1", by=self.user)
        state = self._to_the_end(row)
        self.counts[f"derived, {state}"] += 1
        made = Dataset.objects.filter(dataset_key=f"derived-{number}-v1").first()
        assert (made is not None) == (state == "completed"), state
        if made is not None:
            again = imports.submit_derivation(**asked, version="again", by=self.user)
            while again.state in ("pending", "running"):
                self.supervisor.attend()
                for process in self.supervisor._processes:
                    process.wait()
                again.refresh_from_db()
            assert made.fingerprint == Dataset.objects.get(pk=again.dataset_id).fingerprint
            assert made.size == made.items.count()
        self._nothing_is_left()
        assert not DatasetItem.objects.filter(dataset__complete=False).exists()

    def _to_the_end(self, row: Import) -> str:
        """Let processes work on an import, and kill some of them, until it has ended."""
        from datasets import imports  # noqa: PLC0415

        cancel_after = self.draw.randrange(1, 4) if self.draw.random() < CANCELLED else None
        kills = 0
        while row.state in ("pending", "running"):
            if kills == cancel_after:
                imports.cancel_import(row=row, by=self.user)
            self.supervisor.attend()
            (process,) = self.supervisor._processes
            if kills < 4 and self._kill(process):  # a few, and it is let through
                kills += 1
            process.wait()
            row.refresh_from_db()
        return str(row.state)

    def _in_request(self, number: int, content: bytes) -> None:
        from datasets.models import Import  # noqa: PLC0415

        path = self.folder / "lines.jsonl"
        path.write_bytes(content)
        command = [sys.executable, "manage.py", "import_jsonl", str(path), "--name"]
        process = subprocess.Popen(
            [*command, f"file-{number}", "--version", "v1", "--held-out", "0.1"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        self._kill(process)
        process.wait()
        row = Import.objects.filter(dataset_key=f"file-{number}-v1").first()
        if row is not None and row.state == "running":
            self.supervisor.attend()
            for undoing in self.supervisor._processes:
                undoing.wait()
            row.refresh_from_db()
        self._check(number, content, "absent" if row is None else row.state, row and str(row.pk))

    def _kill(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            process.wait(self.draw.uniform(0.0, LONGEST_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            self.counts["kills"] += 1
            return True
        return False

    def _check(self, number: int, content: bytes, state: str, import_id: str | None) -> None:
        from datasets import imports  # noqa: PLC0415
        from datasets.importers import ImportRequest  # noqa: PLC0415
        from datasets.models import Dataset, Trace  # noqa: PLC0415

        self.counts[state] += 1
        key = f"file-{number}-v1"
        own = Trace.objects.filter(prompt__startswith=f"file {number}: ")
        if state == "completed":
            dataset = Dataset.objects.get(dataset_key=key)
            imports.import_file(
                file=io.BytesIO(content),
                request=ImportRequest(name=f"file-{number}", version="again", held_out=0.1),
                by=self.user,
            )
            again = Dataset.objects.get(dataset_key=f"file-{number}-again")
            assert dataset.fingerprint == again.fingerprint, key
            assert dataset.size == dataset.items.count() == content.count(b"\n"), key
            self.complete = [*self.complete[-5:], key]
        else:
            assert state in ("cancelled", "failed", "absent"), (key, state)
            assert not own.exists(), key
        self._nothing_is_left()

    @staticmethod
    def _nothing_is_left() -> None:
        from datasets import supervision  # noqa: PLC0415
        from datasets.models import Dataset, DatasetItem  # noqa: PLC0415

        hidden = Dataset.with_incomplete.filter(complete=False)
        assert not hidden.exists(), list(hidden)
        known = Dataset.objects.values("pk")
        assert not DatasetItem.objects.exclude(dataset__in=known).exists()
        supervision.LEFTOVER_SECONDS = -1.0
        supervision.remove_leftovers()
        left = [entry.name for entry in supervision.folders.imports_folder().glob("*")]
        assert not left, left


if __name__ == "__main__":
    sys.exit(main())
