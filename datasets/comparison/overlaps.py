"""Contamination: which examples of one dataset, such as a set for evaluation, stand in another one
that a model learns from.

Three kinds are told apart, the strictest first:

* exact: question and answer are the same text;
* normalised: the question is the same but for case, white space, punctuation and Unicode form;
* ngram: a run of ``NGRAM`` words of the question stands in a question of the other dataset.
  Containment is the share of such runs that do, wherever they stand (GPT-3, arXiv:2005.14165,
  appendix C, compares runs of 13 words as well).

The system's text and tool output are not compared: many examples share them.
"""

import heapq
import math
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from datasets.cleaning.items import Item, Work
from datasets.cleaning.scratch import scratch
from datasets.examples.kinds import content_of, texts_of_example
from datasets.examples.schema import HasContent
from datasets.examples.words import digest, ngrams, normalised, words_of
from datasets.models import Dataset, Kind, Overlap, Split, pack_positions
from datasets.services.sealing import may_read_sealed, note_comparison
from tunixrt.refusals import Refusal

NGRAM = 13
KEPT = 50  # examples that are stored
AT_ONCE = 2_000  # examples of both datasets that are compared within a request
KINDS = ("exact", "normalised", "ngram")
_BITS_LEAST, _BITS_GREATEST = 1 << 20, 1 << 30


class NothingToCompare(Refusal):
    code = "nothing_to_compare"


def part_learnt(dataset: Dataset) -> str | None:
    """Return the part that a model learns from; None: all of it, since nothing is held out."""
    return Split.TRAIN.value if dataset.held_out_size else None


def part_compared(dataset: Dataset) -> str | None:
    """Return the part that a model is evaluated on; None: all of it."""
    return Split.HELD_OUT.value if dataset.held_out_size else None


def compute_overlap(
    dataset: Dataset,
    other: Dataset,
    *,
    progress: Callable[[], None] = lambda: None,
    by: User | None,
) -> Overlap:
    """Compare the examples of ``other`` with those that a model learns of ``dataset``, and store
    what was found in place of what was stored before.

    Three passes, over ``other``, ``dataset`` and ``other`` again. Memory does not grow with the
    datasets but for some bytes an example; what both have in common is in a temporary file.

    Args:
        progress: called every few hundred examples; it may raise to stop the work.

    Raises:
        NothingToCompare: the dataset is to be compared with itself and has no held-out part.
    """
    check_comparable(dataset, other)
    with scratch() as database:
        found = _Comparison(database, Work([dataset, other], progress)).run()
    overlap, _ = Overlap.objects.update_or_create(
        dataset=dataset,
        other=other,
        defaults=found
        | {
            "dataset_fingerprint": dataset.fingerprint,
            "other_fingerprint": other.fingerprint,
            "ngram_words": NGRAM,
            "computed_at": timezone.now(),
            "computed_by": by,
        },
    )
    if by is not None:
        note_comparison(dataset, other, by=by)
    return overlap


def check_comparable(dataset: Dataset, other: Dataset) -> None:
    """Raise NothingToCompare if a dataset is compared with itself and has no held-out part."""
    if dataset.pk == other.pk and not dataset.held_out_size:
        raise NothingToCompare(
            f"{dataset.dataset_key} has no held-out part that could be compared with the rest."
        )


def is_small(dataset: Dataset, other: Dataset) -> bool:
    """Return whether a request can wait for the comparison."""
    return dataset.size + other.size <= AT_ONCE


def question_of(example: HasContent) -> str:
    """Return the question of an example: the text of the user, or, without one, all that is
    learnt."""
    if example.kind == Kind.TRACE:
        return str(example.prompt)
    content = content_of(example)
    messages = content["prompt" if example.kind == Kind.PREFERENCE else "messages"]
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return "\n".join(asked or texts_of_example(example)[1])


class _Grams:
    """Tells whether a number may be among those seen; it sometimes errs, so that the rest of the
    work is more, never wrong. Some 64 bytes for each example, up to 128 MiB."""

    def __init__(self, examples: int):
        wanted = 1 << math.ceil(math.log2(max(1, examples * 512)))
        self._mask = min(max(wanted, _BITS_LEAST), _BITS_GREATEST) - 1
        self._bits = bytearray((self._mask + 1) // 8)

    def add(self, number: int) -> None:
        place = number & self._mask
        self._bits[place >> 3] |= 1 << (place & 7)

    def holds(self, number: int) -> int:
        place = number & self._mask
        return self._bits[place >> 3] & 1 << (place & 7)


class _Comparison:
    def __init__(self, database: sqlite3.Connection, work: Work):
        self._database, self._work = database, work
        self._dataset, self._other = work.parents
        self._wanted = _Grams(self._other.size)
        database.execute(
            "CREATE TABLE texts (key BLOB PRIMARY KEY, position INTEGER) WITHOUT ROWID"
        )
        database.execute("CREATE TABLE grams (gram INTEGER PRIMARY KEY, position INTEGER)")

    def run(self) -> dict[str, Any]:
        """Compare the datasets; return the fields of the Overlap that hold the result."""
        for item in self._others():
            exact, same = _keys(item)
            self._database.execute("INSERT OR IGNORE INTO texts VALUES (?, NULL)", (exact,))
            self._database.execute("INSERT OR IGNORE INTO texts VALUES (?, NULL)", (same,))
            for gram in _grams(item):
                self._wanted.add(gram)
        learnt = 0
        for item in self._work.items(0, split=part_learnt(self._dataset)):
            learnt += 1
            self._take(item)
        counts = dict.fromkeys(KINDS, 0)
        worst: list[tuple[tuple[int, float, int], dict[str, Any]]] = []
        compared, greatest = 0, 0.0
        positions = array("I")
        for item in self._others():
            compared += 1
            found = self._find(item)
            if found is None:
                continue
            counts[found["kind"]] += 1
            positions.append(item.position)
            greatest = max(greatest, found["containment"])
            rank = (-KINDS.index(found["kind"]), found["containment"], -item.position)
            if len(worst) < KEPT:
                heapq.heappush(worst, (rank, found))
            else:
                heapq.heappushpop(worst, (rank, found))
        examples = [found for _, found in sorted(worst, key=lambda entry: entry[0], reverse=True)]
        return counts | {
            "learnt": learnt,
            "compared": compared,
            "containment": greatest,
            "examples": examples,
            "positions": pack_positions(positions),
        }

    def _others(self) -> Iterator[Item]:
        return self._work.items(1, split=part_compared(self._other))

    def _take(self, item: Item) -> None:
        """Record where the wanted texts and n-grams stand first."""
        for key in _keys(item):
            self._database.execute(
                "UPDATE texts SET position = ? WHERE key = ? AND position IS NULL",
                (item.position, key),
            )
        wanted = [(gram, item.position) for gram in _grams(item) if self._wanted.holds(gram)]
        if wanted:
            self._database.executemany("INSERT OR IGNORE INTO grams VALUES (?, ?)", wanted)

    def _find(self, item: Item) -> dict[str, Any] | None:
        for kind, key in zip(KINDS, _keys(item), strict=False):
            row = self._database.execute(
                "SELECT position FROM texts WHERE key = ?", (key,)
            ).fetchone()
            if row[0] is not None:
                return _example(kind, item, row[0], 1.0)
        grams = _grams(item)
        places: dict[int, int] = {}
        shared = 0
        for gram in grams:
            row = self._database.execute(
                "SELECT position FROM grams WHERE gram = ?", (gram,)
            ).fetchone()
            if row is not None:
                shared += 1
                places[row[0]] = places.get(row[0], 0) + 1
        if not shared:
            return None
        place = max(places, key=lambda position: (places[position], -position))
        return _example("ngram", item, place, shared / len(grams))


def _example(kind: str, item: Item, position: int, containment: float) -> dict[str, Any]:
    """Return an example of the report. ``position``: in the dataset that is compared;
    ``dataset_position``: in the one to learn from."""
    return {
        "kind": kind,
        "position": item.position,
        "dataset_position": position,
        "containment": round(containment, 4),
    }


def _keys(item: Item) -> tuple[bytes, bytes]:
    question = question_of(item.example)
    learnt = texts_of_example(item.example)[1]
    return (
        digest("\x00".join(["exact", question, *learnt])),
        digest(f"same\x00{normalised([question])}"),
    )


def _grams(item: Item) -> set[int]:
    return set(map(hash, ngrams(words_of(question_of(item.example)), NGRAM)))


# --- what is known --------------------------------------------------------------------------------

SHOWN = 20


def overlaps_of(dataset: Dataset) -> list[Overlap]:
    """Return the overlaps that were computed for a model that learns from ``dataset``, the greatest
    first."""
    rows = Overlap.objects.filter(dataset=dataset).select_related("dataset", "other")
    rows = rows.defer("positions")
    return sorted(rows.order_by()[:1_000], key=lambda row: (-row.found, row.other.dataset_key))


def without_places(rows: list[Overlap], user: User) -> list[Overlap]:
    """Take the places of examples from overlaps with sealed datasets, unless ``user`` reads
    these."""
    for row in rows:
        is_sealed = row.dataset.sealed_at is not None or row.other.sealed_at is not None
        if is_sealed and not may_read_sealed(user):
            row.examples = []
    return rows


def sentence(overlap: Overlap) -> str:
    """Return a sentence about what was found."""
    other = overlap.other.dataset_key
    part = "held-out examples" if overlap.other.held_out_size else "examples"
    if not overlap.found:
        return f"None of the {overlap.compared:,} {part} of {other} stands in what is learnt."
    kinds = [
        (overlap.exact, "exactly"),
        (overlap.normalised, "but for case and punctuation"),
        (overlap.ngram, f"by {overlap.ngram_words} words in a row"),
    ]
    named = ", ".join(f"{count:,} {how}" for count, how in kinds if count)
    return (
        f"{overlap.found:,} of the {overlap.compared:,} {part} of {other} overlap with what is"
        f" learnt: {named} (greatest containment {overlap.containment:.2f})."
    )


def known_about(dataset: Dataset, rows: list[Overlap] | None = None) -> tuple[list[str], list[str]]:
    """Return what a run on ``dataset`` should know about overlaps: what was found, and what was not
    computed yet. Compute nothing. ``rows``: what ``overlaps_of`` returned, if it was called
    already."""
    rows = overlaps_of(dataset) if rows is None else rows
    found = [sentence(row) for row in rows[:SHOWN] if row.found]
    missing = []
    if dataset.held_out_size and not any(row.other_id == dataset.pk for row in rows):
        missing.append("Not computed yet: whether the held-out part overlaps with what is learnt.")
    elif not rows:
        missing.append("Not computed yet: whether sets for evaluation overlap with this dataset.")
    return found, missing
