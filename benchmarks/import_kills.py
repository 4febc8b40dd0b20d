"""The imports that benchmarks/killed_imports.py kills, and what must hold after each.

Import it when Django is set up."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from benchmarks.databases import ROOT
from datasets.cleaning.recipe import parse_recipe
from datasets.imports import importing, supervision
from datasets.imports.importers import ImportRequest
from datasets.imports.supervision import Supervisor
from datasets.models import Dataset, DatasetItem, Import, Trace

LONGEST_SECONDS = 2.5  # before a kill
CANCELLED = 0.15  # share of imports
IN_REQUEST = 0.25
DERIVED = 0.4  # share of imports that are new versions of datasets


class Proof:
    def __init__(self, draw: random.Random, folder: Path, kills: int):

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
        """Return lines that no other file has, and some that all have."""
        own = [
            {"prompt": f"file {number}: {line} + 1?", "completion": str(line + 1)}
            for line in range(self.draw.randrange(2_100, 25_000))
        ]
        common = [{"prompt": f"{line} + 2?", "completion": str(line + 2)} for line in range(300)]
        lines = own + common
        self.draw.shuffle(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def _of_its_own(self, number: int, content: bytes) -> None:

        row = importing.submit_file(
            file=io.BytesIO(content),
            request=ImportRequest(name=f"file-{number}", version="v1", held_out=0.1),
            file_name="",
            by=self.user,
        )
        state = self._to_the_end(row)
        self._check(number, content, state, str(row.pk))

    def _derived(self, number: int) -> None:
        """Submit a new version of some datasets; its text is that of no other one."""

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
        row = importing.submit_derivation(**asked, version="v1", by=self.user)
        state = self._to_the_end(row)
        self.counts[f"derived, {state}"] += 1
        made = Dataset.objects.filter(dataset_key=f"derived-{number}-v1").first()
        assert (made is not None) == (state == "completed"), state
        if made is not None:
            again = importing.submit_derivation(**asked, version="again", by=self.user)
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

        cancel_after = self.draw.randrange(1, 4) if self.draw.random() < CANCELLED else None
        kills = 0
        while row.state in ("pending", "running"):
            if kills == cancel_after:
                importing.cancel_import(row=row, by=self.user)
            self.supervisor.attend()
            (process,) = self.supervisor._processes
            if kills < 4 and self._kill(process):  # a few, and it is let through
                kills += 1
            process.wait()
            row.refresh_from_db()
        return str(row.state)

    def _in_request(self, number: int, content: bytes) -> None:

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

        self.counts[state] += 1
        key = f"file-{number}-v1"
        own = Trace.objects.filter(prompt__startswith=f"file {number}: ")
        if state == "completed":
            dataset = Dataset.objects.get(dataset_key=key)
            importing.import_file(
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

        hidden = Dataset.with_incomplete.filter(complete=False)
        assert not hidden.exists(), list(hidden)
        known = Dataset.objects.values("pk")
        assert not DatasetItem.objects.exclude(dataset__in=known).exists()
        supervision.LEFTOVER_SECONDS = -1.0
        supervision.remove_leftovers()
        left = [entry.name for entry in supervision.folders.imports_folder().glob("*")]
        assert not left, left
