"""Erase the content of examples: from the database, from the files of runs, from what imports have
left out, and from the cache of tokenised data.

The database comes first: what starts afterwards never sees the content. Then the runs, one after
another; ``Erasure.run_cursor`` says which are done, so that an erasure that was interrupted
continues. Fingerprints, positions and content hashes stay.
"""

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.contrib.admin.models import DELETION
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from datasets.models import Dataset, Erasure
from datasets.services.erasing import (
    datasets_holding,
    derived_from,
    erase_contents,
    erase_skipped_lines,
    imports_with_files,
    known_traces,
    remove_old_versions,
    traces_only_in,
    twins_of,
)
from datasets.services.refusals import UnknownTraces
from runs.models import EXECUTING, Evaluation, Run, RunEvent, RunQuerySet, RunStatus
from runs.runfolder.erasing import InUse, erase_examples
from runs.runfolder.tree import remove_tree
from runs.services.output_root import root_away
from runs.services.outputs import is_intact, note_erasing
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from tunixrt.audit import write_log_entry
from tunixrt.refusals import Conflict, Missing, Refusal
from tunixrt.roles import May, require

TRACES_MAX = 10_000  # of one erasure
SHOWN = 100  # rows of each list
NAMED_RUNS = 20
SECONDS = 20.0  # that a request spends on the files of runs
ABANDONED_SECONDS = 24 * 3600  # of a cache entry that is being made
_RUN_BATCH = 50


@dataclass(frozen=True)
class Affected:
    """What an erasure would change. The lists hold the first SHOWN; counts are of all.

    Attributes:
        erased: examples among them whose content is gone already.
        twins: examples among them that were not named, but say the same as one that was.
        more: whether there are more examples than one erasure takes.
        executing: runs on the datasets that have to end first.
        derived: datasets made from the datasets, which may hold changed copies.
        skipped_files: imports whose left-out lines go as well.
    """

    trace_ids: list[uuid.UUID]
    erased: int
    twins: int
    more: bool
    datasets: list[Dataset]
    dataset_count: int
    runs: list[Run]
    run_count: int
    model_count: int
    executing: list[Run]
    derived: list[Dataset]
    derived_count: int
    skipped_files: int
    dataset_ids: list[int] = field(repr=False, default_factory=list)

    @property
    def count(self) -> int:
        return len(self.trace_ids)


def affected_by(*, trace_ids: Sequence[uuid.UUID], by: User) -> Affected:
    """Return what erasing these examples would change, and all others that say the same. Raise
    NotAllowed, UnknownTraces, Refusal for none or too many."""
    require(by, May.OPERATE)
    ids = list(dict.fromkeys(trace_ids))
    if not ids:
        raise Refusal(messages={"trace_ids": ["Name at least one example."]})
    if len(ids) > TRACES_MAX:
        raise Refusal(messages={"trace_ids": [f"At most {TRACES_MAX:,} at once."]})
    known = known_traces(ids)
    if unknown := [each for each in ids if each not in known]:
        raise UnknownTraces(unknown)
    erased = sum(moment is not None for moment in known.values())
    twins = twins_of(ids)
    if len(ids) + len(twins) > TRACES_MAX:
        raise Refusal(
            messages={
                "trace_ids": [
                    f"{len(twins):,} other examples say the same as these, and go with them: name"
                    f" fewer, since {TRACES_MAX:,} can be erased at once."
                ]
            }
        )
    return _affected([*ids, *twins], erased, twins=len(twins), more=False)


def affected_of_dataset(*, dataset: Dataset, by: User) -> Affected:
    """Return what erasing all examples that only ``dataset`` uses would change, which may be
    nothing. Raise NotAllowed."""
    require(by, May.OPERATE)
    ids = traces_only_in(dataset, limit=TRACES_MAX + 1)
    return _affected(ids[:TRACES_MAX], 0, twins=0, more=len(ids) > TRACES_MAX)


def _affected(ids: list[uuid.UUID], erased: int, *, twins: int, more: bool) -> Affected:
    dataset_ids = datasets_holding(ids)
    datasets = Dataset.objects.filter(pk__in=dataset_ids)
    runs = _runs_on(dataset_ids)
    derived = derived_from(dataset_ids)
    return Affected(
        trace_ids=ids,
        erased=erased,
        twins=twins,
        more=more,
        datasets=list(datasets[:SHOWN]),
        dataset_count=datasets.count(),
        runs=list(runs.newest_first()[:SHOWN]),
        run_count=runs.count(),
        model_count=runs.filter(status=RunStatus.COMPLETED, dry_run=False).count(),
        executing=list(runs.filter(status__in=EXECUTING)[:NAMED_RUNS]),
        derived=list(derived[:SHOWN]),
        derived_count=derived.count(),
        skipped_files=len(imports_with_files(dataset_ids)),
        dataset_ids=dataset_ids,
    )


def _runs_on(dataset_ids: Sequence[int]) -> RunQuerySet:
    """Return all runs on the datasets, including those in the trash, whose files are still
    there."""
    keys = Dataset.with_incomplete.filter(pk__in=dataset_ids).values("dataset_key")
    return Run.objects.filter(dataset_key__in=keys).order_by("pk")


def erase(*, affected: Affected, confirmed: int, by: User) -> Erasure:
    """Erase what ``affected`` lists: the content at once, files for as long as a request may take;
    ``continue_erasure`` does the rest.

    Args:
        confirmed: how many examples go, as it was shown.

    Raises:
        NotAllowed, Refusal if there is nothing to erase.
        Conflict: the number is another one now.
        StateConflict: runs on the datasets are executing.
    """
    require(by, May.OPERATE)
    if not affected.count:
        raise Refusal("No example is left that could be erased.")
    if confirmed != affected.count:
        raise Conflict(
            f"This erases {affected.count:,} examples, but {confirmed:,} were confirmed. Look at"
            " the list again."
        )
    if affected.executing:
        named = ", ".join(str(run.pk) for run in affected.executing)
        raise StateConflict(
            f"These runs on the datasets are executing and read the examples: {named}. Cancel them"
            " or wait for their end."
        )
    with transaction.atomic():
        erasure = Erasure.objects.create(
            trace_ids=[str(each) for each in affected.trace_ids], created_by=by
        )
        keys = ", ".join(dataset.dataset_key for dataset in affected.datasets[:NAMED_RUNS])
        write_log_entry(
            by=by,
            target=erasure,
            name=f"erasure {erasure.pk}",
            flag=DELETION,
            message=f"erases the content of {affected.count:,} examples, of the datasets {keys}",
        )
    return continue_erasure(erasure=erasure, by=by)


def get_erasure(user: User, erasure_id: uuid.UUID) -> Erasure:
    """Return the erasure. Raise NotAllowed, Missing."""
    require(user, May.OPERATE)
    erasure = Erasure.objects.filter(pk=erasure_id).select_related("created_by").first()
    if erasure is None:
        raise Missing(f"Erasure not found: {erasure_id}")
    return erasure


def continue_erasure(*, erasure: Erasure, by: User, seconds: float | None = SECONDS) -> Erasure:
    """Do what is left of an erasure, for ``seconds`` (None: to its end); ``problem`` says what is
    left then. Two at once do the same work twice, which does no harm."""
    require(by, May.OPERATE)
    if erasure.completed_at is not None:
        return erasure
    until = None if seconds is None else time.monotonic() + seconds
    ids = [uuid.UUID(each) for each in erasure.trace_ids]
    erase_contents(ids)
    dataset_ids = datasets_holding(ids)
    try:
        problem = root_away() or _erase_from_runs(erasure, _runs_on(dataset_ids), by, until)
        if not problem:
            erase_skipped_lines(dataset_ids)
            _remove_tokenised()
            problem = remove_old_versions()
    except OSError as error:
        problem = f"Files cannot be changed: {error.strerror or error}."
    erasure.problem = problem
    erasure.completed_at = None if problem else timezone.now()
    with transaction.atomic():
        erasure.save(update_fields=["problem", "completed_at"])
        if not problem:
            write_log_entry(
                by=by,
                target=erasure,
                name=f"erasure {erasure.pk}",
                flag=DELETION,
                message=f"erased the content of {len(ids):,} examples; {erasure.files_changed:,}"
                f" files of {erasure.runs_done:,} runs changed",
            )
    return erasure


def _remove_tokenised() -> None:
    """Empty this host's cache of tokenised data, whose entries do not tell which examples they
    hold; trainings make it again. Data that a training is making now stays: it was read after the
    erasure, or is of another dataset."""
    cache = settings.TUNIXRT_VAR_DIR / "cache" / "tokens"
    try:
        entries = list(os.scandir(cache))
    except FileNotFoundError:
        return
    for entry in entries:
        with suppress(FileNotFoundError):
            modified = entry.stat(follow_symlinks=False).st_mtime
            if entry.is_dir(follow_symlinks=False) and (
                not entry.name.startswith(".") or modified < time.time() - ABANDONED_SECONDS
            ):
                remove_tree(entry.path)


def _erase_from_runs(erasure: Erasure, runs: RunQuerySet, by: User, until: float | None) -> str:
    """Erase from the files of all runs that are left; return what keeps it from that."""
    ids = frozenset(erasure.trace_ids)
    waiting: list[str] = []
    reasons: list[str] = []
    for run in Run.objects.filter(pk__in=erasure.waiting).order_by("pk"):
        if reason := _erase_from_run(erasure, run, ids, by):
            waiting.append(str(run.pk))
            reasons.append(reason)
    _note(erasure, waiting=waiting)
    while True:
        left = runs if erasure.run_cursor is None else runs.filter(pk__gt=erasure.run_cursor)
        batch = list(left[:_RUN_BATCH])
        if not batch:
            break
        for run in batch:
            if until is not None and time.monotonic() >= until:
                return f"Files of {left.count():,} runs are left: continue."
            if reason := _erase_from_run(erasure, run, ids, by):
                waiting.append(str(run.pk))
                reasons.append(reason)
            _note(erasure, run_cursor=run.pk, waiting=waiting)
    if len(reasons) > NAMED_RUNS:
        reasons[NAMED_RUNS:] = [f"And {len(reasons) - NAMED_RUNS:,} more runs."]
    return " ".join(reasons)


def _note(erasure: Erasure, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(erasure, name, value)
    Erasure.objects.filter(pk=erasure.pk).update(**changes)


def _erase_from_run(erasure: Erasure, run: Run, ids: frozenset[str], by: User) -> str:
    """Erase examples from the files of a run, then from its row; return why it has to wait."""
    if run.status in EXECUTING:
        return f"Run {run.pk} is executing."
    folder = run_folder(run)
    # a symbolic link leads to what is not the run's
    if folder.is_symlink() or folder.resolve() != folder:
        return f"The folder of run {run.pk} is a symbolic link; look into it yourself."
    evaluation = Evaluation.objects.filter(pk=run.pk).first()
    intact = None if evaluation is None else is_intact(run)
    try:
        changed = erase_examples(folder, ids)
    except InUse:
        return f"A process of run {run.pk} still has its folder."
    except OSError as error:
        return f"Files of run {run.pk} cannot be changed: {error.strerror or error}."
    note_erasing(run, intact=intact)
    with transaction.atomic():
        locked = Run.objects.select_for_update().filter(pk=run.pk).only("summary").first()
        summary = locked.summary if locked is not None else None
        if isinstance(summary, dict) and summary.get("samples"):
            Run.objects.filter(pk=run.pk).update(summary=summary | {"samples": []})
            changed += 1
        if changed and locked is not None:
            RunEvent.objects.create(
                run=run,
                reason=f"examples erased ({changed:,} files)",
                by=by.get_username(),
                at=timezone.now(),
            )
        Erasure.objects.filter(pk=erasure.pk).update(
            runs_done=F("runs_done") + 1, files_changed=F("files_changed") + changed
        )
    erasure.runs_done += 1
    erasure.files_changed += changed
    return ""
