"""What a comparison of evaluations reads from their files: outputs, ids, and the columns of the
set. Scores never come from here."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from runs.models import Run
from runs.queries.evaluations import find_items, is_intact
from runs.runfolder import files, names
from runs.runfolder.items import item_lines
from runs.services.access import SealedItems, require_items
from runs.services.evaluations import parse_item
from runs.services.reservations import run_folder

ITEMS_MAX_BYTES = 256 * 2**20  # of a file that is read for a page
COLUMNS_MAX, VALUES_MAX, VALUE_MAX = 50, 50, 64  # columns, distinct values, characters
NO_VALUE = "(none)"
_AWAY = "Its outputs are not there, or cannot be read; its scores are what was stored."


class ItemsAway(Exception):
    """The items of an evaluation cannot be shown; the sentence says why."""


@dataclass(frozen=True)
class SetFacts:
    """What items say of the questions, by their hashes. ``columns``: those by which questions can
    be grouped, with the value of each question."""

    ids: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)


def open_items(run: Run) -> Path:
    """Return the folder of an evaluation whose items may be shown: they are those that were scored.

    Everything that a comparison reads of items comes through here; whether an account may read
    them, ``outputs_of`` and ``facts_of`` ask. Raise ItemsAway.
    """
    folder = run_folder(run)
    try:
        size = os.stat(folder / names.ITEMS, follow_symlinks=False).st_size
    except OSError as error:
        raise ItemsAway(_AWAY) from error
    if size > ITEMS_MAX_BYTES:
        raise ItemsAway("Its outputs are too large to be shown here; its own page shows them.")
    intact = is_intact(run)
    if intact is None:
        raise ItemsAway(_AWAY)
    if not intact:
        raise ItemsAway(
            "Its outputs were changed after they were scored, so they are not shown; its scores are"
            " those of the original outputs."
        )
    return folder


def outputs_of(run: Run, hashes: Iterable[str], *, reader: User) -> dict[str, dict[str, Any]]:
    """Return the items of some questions by their hashes. Raise ItemsAway, also if they are those
    of a sealed dataset that ``reader`` does not read."""
    open_items(run)
    try:
        return find_items(run, hashes, reader=reader)
    except SealedItems as refusal:
        raise ItemsAway(refusal.detail) from refusal
    except (OSError, files.BrokenFile) as error:
        raise ItemsAway(_AWAY) from error


def answered_hashes(run: Run) -> list[str]:
    """Return the questions that an evaluation has answered, in the order of its stored scores.
    Raise ItemsAway."""
    return sorted(_facts_of(open_items(run)).ids)


def facts_of(runs: Sequence[Run], *, reader: User) -> SetFacts:
    """Return what the items of the first of these evaluations, all of one set, with readable ones
    say of the questions. Raise ItemsAway with the reason of the first evaluation if there is none,
    and if the set is that of a sealed dataset that ``reader`` does not read."""
    try:
        if runs:
            require_items(reader, runs[0])
    except SealedItems as refusal:
        raise ItemsAway(refusal.detail) from refusal
    refused: ItemsAway | None = None
    for run in runs:
        try:
            return _facts_of(open_items(run))
        except ItemsAway as away:
            refused = refused or away
    raise refused or ItemsAway("There is no evaluation.")


def _facts_of(folder: Path) -> SetFacts:
    path = folder / names.ITEMS
    try:
        status = os.stat(path, follow_symlinks=False)
        return _read_facts(str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ItemsAway(_AWAY) from error


@lru_cache(maxsize=4)
def _read_facts(path: str, inode: int, size: int, changed_ns: int) -> SetFacts:
    """Return the facts of a file, read again when the file has changed. Raise OSError."""
    ids: dict[str, str] = {}
    columns: dict[str, dict[str, str]] = {}
    seen: dict[str, set[str]] = {}
    for line in item_lines(Path(path)):
        item = parse_item(line)
        if item is None:
            continue
        key = item["hash"]
        ids[key] = files.clean_text(str(item.get("id") or ""))[:256]
        given = item.get("columns")
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in seen:
                if len(seen) >= COLUMNS_MAX or len(name) > VALUE_MAX or "\0" in name:
                    continue
                seen[name], columns[name] = set(), {}
            if name not in columns:
                continue  # no column to group by
            text, values = _short(value), seen[name]
            if text is None or (text not in values and len(values) >= VALUES_MAX):
                del columns[name]
                continue
            values.add(text)
            columns[name][key] = text
    grouping = {
        name: of
        for name, of in columns.items()
        if len(seen[name]) > 1 or len(of) < len(ids)  # more than one group
    }
    return SetFacts(ids, grouping)


def _short(value: Any) -> str | None:
    """Return a value as text; None where it is none to group by."""
    if value is None or value == "":
        return NO_VALUE
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        return None
    try:
        text = files.clean_text(str(value))
    except ValueError:  # a whole number of thousands of digits
        return None
    return text if len(text) <= VALUE_MAX else None
