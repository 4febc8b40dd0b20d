"""Outputs that an evaluation does not have to generate: those of an earlier one."""

import hashlib
import json
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from runs.models import Evaluation, Run
from runs.runfolder import files, names
from runs.runfolder.items import copy_lines
from runs.services.reservations import run_folder
from runs.services.run_requests import RunRequest
from runs.services.subjects import Subject, find_subject


class OutputsGone(Exception):
    """The outputs that were to be scored are not what was stored."""


def bring_outputs(run: Run, request: RunRequest, folder: Path) -> dict[str, str] | None:
    """Copy outputs into the folder of an evaluation that is about to start, and return what its
    manifest says of them.

    Outputs are those of the evaluation that the request names, or of an earlier one with the same
    model, questions and settings. A retry continues with the items of the run that it retries.

    Raises:
        OutputsGone: of the evaluation that was named.
        OSError: the folder cannot be written.
    """
    evaluation = Evaluation.objects.get(pk=run.pk)
    subject = find_subject(request.model)
    evaluation.model_key = model_key(subject)
    source = _source(evaluation, request)
    copied = ""
    if source is not None:
        with suppress(OSError):
            copied = copy_lines(run_folder(source.run) / names.ITEMS, folder / names.OUTPUTS)
        if copied != source.outputs:
            (folder / names.OUTPUTS).unlink(missing_ok=True)
            if request.outputs_from is not None:
                raise OutputsGone(
                    f"The outputs of evaluation {source.pk} are gone or were changed since it"
                    " ended. Evaluate the model again."
                )
            source = None
    evaluation.source = source
    evaluation.save(update_fields=["model_key", "source"])
    if source is not None:
        return {"path": names.OUTPUTS, "sha256": copied}
    if run.resume and run.resume_from is not None:
        before = run_folder(run.resume_from)
        copy_lines(before / names.EVALUATION, folder / names.EVALUATION)
        copy_lines(before / names.ITEMS, folder / names.ITEMS)
    return None


def _source(evaluation: Evaluation, request: RunRequest) -> Evaluation | None:
    """Return the evaluation whose outputs are scored; None: the model has to make its own."""
    known = Evaluation.objects.select_related("run").filter(run__trashed_at=None)
    if request.outputs_from is not None:
        named = known.filter(pk=UUID(request.outputs_from)).exclude(outputs="").first()
        if named is None:
            raise OutputsGone(f"Evaluation {request.outputs_from} has no outputs any more.")
        return named
    if not request.reuse or not evaluation.model_key:
        return None
    return (
        known.filter(
            model_key=evaluation.model_key,
            questions=evaluation.questions_id,
            settings_hash=evaluation.settings_hash,
            complete=True,
            source=None,
        )
        .exclude(pk=evaluation.pk)
        .order_by("created_at")
        .first()
    )


def model_key(subject: Subject) -> str:
    """Identify the model that is loaded, by the names, sizes and times of its files; empty where
    they are not known, as of a hub model without a revision."""
    base = subject.base
    if base.kind == "hub" and subject.path is None and subject.revision is None:
        return ""
    parts: list[Any] = [base.model_id, subject.revision, subject.seed, subject.step]
    checkpoint = subject.checkpoints and subject.checkpoints / str(subject.step)
    for folder in (subject.path or base.path, subject.adapter, checkpoint):
        parts.append(_files_of(folder) if folder else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _files_of(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, bytes and time of the last change (ns) of each file below ``folder``.

    Raises:
        OSError: a folder or file cannot be read.
    """
    found = []
    for place, folders, file_names in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted(file_names):
            status = os.stat(os.path.join(place, name))
            relative = os.path.relpath(os.path.join(place, name), folder)
            found.append((relative, status.st_size, status.st_mtime_ns))
    return found


def _raise(error: OSError) -> None:
    raise error


def is_intact(run: Run) -> bool | None:
    """Return whether the items of an ended evaluation are those that it was scored by; None where
    that is not known: it has not ended, or its files cannot be read."""
    if not run.evaluation.outputs:
        return None
    path = run_folder(run) / names.ITEMS
    try:
        status = os.stat(path, follow_symlinks=False)
        known = _sha256(str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    except (OSError, files.BrokenFile):
        return None
    return known == run.evaluation.outputs


def note_erasing(run: Run, *, intact: bool | None) -> None:
    """Take the items of an evaluation for those that were scored after examples were erased from
    them, if they were so before."""
    if intact:
        path = run_folder(run) / names.ITEMS
        with suppress(OSError, files.BrokenFile):
            status = os.stat(path, follow_symlinks=False)
            found = _sha256(str(path), status.st_ino, status.st_size, status.st_mtime_ns)
            Evaluation.objects.filter(pk=run.pk).update(outputs=found)


@lru_cache(maxsize=256)
def _sha256(path: str, inode: int, size: int, changed_ns: int) -> str:
    """Return the hash of a file, computed again when the file has changed."""
    digest = hashlib.sha256()
    with open(files.open_regular(Path(path)), "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
