"""The files of the model that a request names, where they are those of a run.

``run:<id>`` is what a run exported: a whole model, or an adapter and the model that it was made
for. ``run:<id>@<step>`` is a checkpoint of it.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from runs.models import TERMINAL, Run
from runs.runfolder import files, names
from runs.runfolder.checkpoints import complete_steps
from runs.services.refusals import StateConflict
from runs.services.reservations import run_folder
from runs.services.run_requests import InvalidRequest, ModelReference, resolve_model
from runs.spec.manifest import ManifestError, parse_manifest

ADAPTER_CONFIG = "adapter_config.json"
CONFIG = "config.json"
MERGED = "merged"
CHAIN_MAX = 20  # runs that train on each other's models
MANIFEST_MAX_BYTES = 2**20


@dataclass(frozen=True)
class Subject:
    """A model as the training program loads it.

    Attributes:
        base: what is loaded first: a preset, a folder or a hub id.
        path: a folder to read instead of what ``base`` names, such as a model that was trained.
        adapter: a folder of an adapter for it.
        checkpoints, step: what a training saved of it.
        seed: of the random weights of a preset.
        revision: the commit of a hub model that was trained.
        runs: those whose files are read, the one that was named first.
    """

    base: ModelReference
    path: Path | None = None
    adapter: Path | None = None
    checkpoints: Path | None = None
    step: int | None = None
    seed: int | None = None
    revision: str | None = None
    runs: tuple[Run, ...] = field(default=())

    @property
    def lineage(self) -> str:
        """The model that everything was trained from."""
        return self.base.model_id

    def training_problem(self) -> str | None:
        """Say why no training can start from it; None where one can."""
        if self.checkpoints is not None:
            return "A training starts from an exported model: use run:<run id> without a step."
        if self.adapter is not None:
            return (
                "The model of that run is an adapter, which a training cannot start from. Train it"
                " with export_merged, or evaluate it as it is."
            )
        return None

    def section(self) -> dict[str, Any]:
        """Return the model's section of an evaluation's manifest."""
        path = self.path or self.base.path
        found = {
            "id": self.base.model_id,
            "path": str(path) if path else None,
            "revision": self.revision,
            "adapter": str(self.adapter) if self.adapter else None,
            "checkpoints": str(self.checkpoints) if self.checkpoints else None,
            "step": self.step,
            "seed": self.seed,
        }
        optional = ("adapter", "checkpoints", "step", "seed")
        return {
            name: value
            for name, value in found.items()
            if value is not None or name not in optional
        }


def find_subject(model: ModelReference) -> Subject:
    """Return the files of a model.

    Raises:
        InvalidRequest: it is a run's, and not there.
        OSError: the folder of the run cannot be read.
    """
    if model.kind != "run":
        return Subject(model)
    return _of_run(model, CHAIN_MAX)


def require_subject(model: ModelReference) -> Subject:
    """Return the files of a model. Raise InvalidRequest, and StateConflict where they cannot be
    read right now."""
    try:
        return find_subject(model)
    except OSError as error:
        raise StateConflict(
            f"The files of {model.model_id} cannot be read right now ({error.strerror or error})."
            " Try again in a moment."
        ) from error


def hold_subject(model: ModelReference) -> Subject:
    """Return what ``require_subject`` returns, and keep trash and removals away from the runs whose
    files they are until the transaction ends."""
    keys = [run.pk for run in require_subject(model).runs]
    list(Run.objects.select_for_update().filter(pk__in=keys).order_by("pk").values_list("pk"))
    return require_subject(model)


def _of_run(model: ModelReference, depth: int) -> Subject:
    assert model.run_id is not None
    run = _find_run(model.run_id)
    if depth == 0:
        raise _refusal(f"Too many runs trained on each other's models before run {run.run_id}.")
    folder = run_folder(run)
    if model.step is not None:
        steps = complete_steps(folder / names.CHECKPOINTS)
        if model.step not in steps:
            kept = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
            raise _refusal(f"Run {run.run_id} has no checkpoint of step {model.step}; {kept}.")
        before = _before(run, depth)
        return replace(before, checkpoints=folder / names.CHECKPOINTS, step=model.step)
    exported = folder / names.MODEL
    if not exported.is_dir():
        raise _refusal(_no_model(run, folder))
    before = _before(run, depth)
    if (exported / CONFIG).is_file():
        return replace(before, path=exported, adapter=None)
    if (exported / MERGED / CONFIG).is_file():
        return replace(before, path=exported / MERGED, adapter=None)
    if (exported / ADAPTER_CONFIG).is_file():
        return replace(before, adapter=exported)
    raise _refusal(_no_model(run, folder))


def _find_run(run_id: UUID) -> Run:
    run = Run.objects.visible().filter(pk=run_id).first()
    if run is None:
        raise _refusal(f"Run not found: {run_id}.")
    if run.dry_run or not run.trains:
        raise _refusal(f"Run {run_id} trained nothing, so it has no model.")
    return run


def _before(run: Run, depth: int) -> Subject:
    """Return the model that a run was trained from, with the run."""
    try:
        base = resolve_model(run.model_id)
    except ValueError as error:
        raise _refusal(f"The model that run {run.run_id} was trained from: {error}") from error
    if base.kind == "run":
        found = _of_run(base, depth - 1)
        return replace(found, runs=(run, *found.runs))
    return Subject(
        base,
        seed=run.config.get("seed", 0) if base.kind == "preset" else None,
        revision=_revision(run) if base.kind == "hub" else None,
        runs=(run,),
    )


def _revision(run: Run) -> str | None:
    """Return the commit that the training program wrote into the manifest."""
    try:
        with open(files.open_regular(run_folder(run) / names.MANIFEST), "rb") as file:
            section = parse_manifest(file.read(MANIFEST_MAX_BYTES).decode())["model"]
    except (OSError, files.BrokenFile, UnicodeDecodeError, ManifestError):
        return None
    return section["revision"]


def _no_model(run: Run, folder: Path) -> str:
    if run.status not in TERMINAL:
        return (
            f"Run {run.run_id} is {run.status}: its model is there once it has ended. A checkpoint"
            f" is run:{run.run_id}@<step>."
        )
    steps = complete_steps(folder / names.CHECKPOINTS)
    if steps:
        return (
            f"Run {run.run_id} has no exported model. Its last checkpoint is"
            f" run:{run.run_id}@{steps[-1]}."
        )
    return f"Run {run.run_id} has no model: neither an exported one nor a checkpoint is there."


def _refusal(sentence: str) -> InvalidRequest:
    return InvalidRequest({"model_id": [sentence]})
