"""What a stored run is started from: its request, its checks, its manifest."""

import re
from collections.abc import Callable

from datasets.models import Dataset
from runs.models import Run
from runs.runfolder import files, names
from runs.services.preflight import Preflight, check_request, part_of
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest, RunRequest, clean_request
from runs.services.scorer_files import paths_of
from runs.services.sources import problem_with_source
from runs.services.subjects import find_subject
from runs.spec.kinds import EVALUATE, KINDS
from runs.spec.manifest import (
    ManifestError,
    build_evaluation_manifest,
    build_manifest,
    dump_manifest,
    parse_manifest,
)
from tunixrt.compiled import Finder

MANIFEST_MAX_BYTES = 2**20  # of one that is read again: the training program may have written to it

_datasets = Finder(Dataset, "dataset_key", "")


def stored_request(run: Run) -> RunRequest:
    """Return the request that a run was made from. Raise InvalidRequest if today's rules refuse
    it."""
    return clean_request(run.config, of_run=True)


def run_manifest(
    run: Run, *, dataset: Dataset, request: RunRequest, outputs_from: dict[str, str] | None = None
) -> str:
    """Return the manifest as YAML. Paths are relative to the run's folder, except for the model and
    a checkpoint to resume from.

    Args:
        outputs_from: the outputs that an evaluation is to score (runs/services/outputs.py).

    Raises:
        InvalidRequest, OSError: the model of a run is not there.
    """
    section = {
        "key": dataset.dataset_key,
        "path": names.DATASET,
        "format": dataset.format,
        "fingerprint": dataset.fingerprint,
        "examples": dataset.train_left,
        "held_out": dataset.held_out_left,
    }
    subject = find_subject(request.model)
    if request.kind == EVALUATE.name:
        return dump_manifest(
            build_evaluation_manifest(
                run_id=str(run.run_id),
                dataset=section,
                model=subject.section() | _pinned(run),
                evaluation=request.training | {"part": part_of(request, dataset)},
                outputs_from=outputs_from,
                scorer_files=paths_of(request.training["scorers"]),
            )
        )
    kind = KINDS[request.kind]
    path = subject.path or request.model.path
    resume_from = str(run_folder(run.resume_from) / names.CHECKPOINTS) if run.resume_from else None
    return dump_manifest(
        build_manifest(
            run_id=str(run.run_id),
            kind=kind,
            dataset=section,
            model={
                "id": subject.base.model_id if subject.base.kind == "preset" else run.model_id,
                "path": str(path) if path else None,
                "revision": _pinned_revision(run),
            },
            training=request.training,
            resume_from=resume_from,
            extend_from_step=run.extend_from_step,
        )
    )


def _pinned(run: Run) -> dict[str, str]:
    revision = _pinned_revision(run)
    return {"revision": revision} if revision else {}


def _pinned_revision(run: Run) -> str | None:
    """Return the commit of the hub model that the previous run trained: the run whose checkpoint is
    resumed, or which is retried."""
    for before in (run.resume_from, run.retry_of):
        if before is None or before.model_id != run.model_id:
            continue
        try:
            with open(files.open_regular(run_folder(before) / names.MANIFEST), "rb") as file:
                section = parse_manifest(file.read(MANIFEST_MAX_BYTES).decode())["model"]
        except (OSError, files.BrokenFile, UnicodeDecodeError, ManifestError):
            continue
        if section["id"] == run.model_id and re.fullmatch(
            r"[0-9a-f]{40}", section["revision"] or ""
        ):
            return str(section["revision"])
    return None


def find_dataset(dataset_key: str) -> Dataset | None:
    return _datasets.find(dataset_key)


def run_preflight(
    run: Run, *, find: Callable[[str], Dataset | None] = find_dataset
) -> tuple[RunRequest | None, Dataset | None, Preflight]:
    """Check a stored run again, right before it is executed. ``find`` looks datasets up by key."""
    preflight = Preflight()
    try:
        request = stored_request(run)
    except InvalidRequest as error:
        preflight.problems.append(f"The request is no longer valid: {error}")
        return None, None, preflight
    dataset = find(run.dataset_key)
    if dataset is None:
        preflight.problems.append(f"Dataset not found: {run.dataset_key}")
        return request, None, preflight
    preflight = check_request(request, dataset)
    if problem := problem_with_source(run):
        preflight.problems.append(problem)
    return request, dataset, preflight
