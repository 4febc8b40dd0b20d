"""What can be said about a request before anything is started, without the training runtime and
without a network."""

from dataclasses import dataclass, field
from typing import Any

from datasets.comparison.overlaps import known_about
from datasets.models import Dataset
from runs.services.refusals import SEALED
from runs.services.run_requests import InvalidRequest, ModelReference, RunRequest
from runs.services.subjects import find_subject
from runs.spec.families import PRESETS
from runs.spec.kinds import EVALUATE, KINDS, Kind
from runs.spec.manifest import training_warnings
from runs.spec.model_folder import FolderProblem, check_model_folder, open_model_folder
from runs.spec.statistics import RANKED_MIN
from tunixrt.refusals import shorten

TEXTS_MAX = 50  # warnings, or sentences, of a training command


@dataclass
class Preflight:
    """``problems`` make a run impossible, ``warnings`` are worth knowing; one sentence each.
    ``open``: those warnings that a check with depth answers."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def lasting_warnings(self) -> list[str]:
        """The warnings that a check with depth does not answer."""
        return [warning for warning in self.warnings if warning not in self.open]

    def leave_open(self, warning: str) -> None:
        self.warnings.append(warning)
        self.open.add(warning)


def check_request(request: RunRequest, dataset: Dataset) -> Preflight:
    preflight = Preflight()
    if request.kind == EVALUATE.name:
        _check_questions(request, dataset, preflight)
        _check_model(request.model, preflight, trains=False)
        return preflight
    _check_dataset(request, dataset, preflight)
    if preflight.passed:
        found, missing = known_about(dataset)
        preflight.warnings.extend([*found, *missing])
    _check_model(request.model, preflight, trains=True)
    preflight.warnings.extend(training_warnings(request.training))
    _check_positions(request, dataset, preflight)
    return preflight


def part_of(request: RunRequest, dataset: Dataset) -> str:
    """Return the part of a dataset that an evaluation asks: the held-out one if there is one,
    unless the request says otherwise."""
    part = str(request.training["part"])
    if part != "auto":
        return part
    return "held_out" if dataset.held_out_left else "all"


def _check_questions(request: RunRequest, dataset: Dataset, preflight: Preflight) -> None:
    if not _is_of_format(EVALUATE, dataset, preflight):
        return
    held_out = part_of(request, dataset) == "held_out"
    questions = dataset.held_out_left if held_out else dataset.size - dataset.erased_size
    if questions == 0:
        what = "no held-out example. Ask for part: all" if held_out else "no example to ask"
        preflight.problems.append(f"Dataset {dataset.dataset_key} has {what}.")
    elif questions < RANKED_MIN or (request.training["limit"] or questions) < RANKED_MIN:
        preflight.warnings.append(
            f"With fewer than {RANKED_MIN} questions no leaderboard ranks the score."
        )
    _check_bytes(request, dataset, preflight)


def _is_of_format(kind: Kind, dataset: Dataset, preflight: Preflight) -> bool:
    if dataset.format in kind.dataset_formats:
        return True
    preflight.problems.append(
        f"Dataset {dataset.dataset_key} holds examples of kind {dataset.kind}"
        f" ({dataset.format}); {kind.label.lower()} reads {' or '.join(kind.dataset_formats)}."
    )
    return False


def _check_bytes(request: RunRequest, dataset: Dataset, preflight: Preflight) -> None:
    """Say that the built-in presets, which read bytes, cannot write some examples."""
    if request.model.kind != "preset":
        return
    for name in ("tools", "reasoning"):
        if count := dataset.stats.get(f"with_{name}"):
            way_out = ", or make it part of the answers (the recipe step inline_reasoning)"
            # which of them were erased is not counted
            found = preflight.warnings if dataset.erased_size else preflight.problems
            found.append(
                f"{count:,} of the examples have {name}, which the built-in presets cannot"
                " write: they read bytes. Train a model with a chat template"
                f"{way_out if name == 'reasoning' else ''}."
            )


def _check_dataset(request: RunRequest, dataset: Dataset, preflight: Preflight) -> None:
    training: dict[str, Any] = request.training
    if dataset.sealed_at is not None:  # since the run was submitted
        preflight.problems.append(SEALED.format(dataset.dataset_key))
        return
    if not _is_of_format(KINDS[request.kind], dataset, preflight):
        return
    examples = dataset.train_left
    if examples == 0:
        part = (
            "no example"
            if dataset.size == 0
            else f"{dataset.held_out_left} held-out examples and none to train on"
        )
        if dataset.erased_size:
            part += f" ({dataset.erased_size:,} were erased)"
        preflight.problems.append(
            f"Dataset {dataset.dataset_key} is empty: it has {part}. Add traces in a new version"
            " of it."
        )
        return
    if dataset.erased_size:
        preflight.warnings.append(
            f"{dataset.erased_size:,} of the {dataset.size:,} examples of {dataset.dataset_key}"
            " were erased and are left out; the fingerprint is that of all of them."
        )
    if not training["packing"] and training["batch_size"] > examples:
        preflight.warnings.append(
            f"batch_size {training['batch_size']} is larger than the {examples} training examples;"
            " each step sees all of them."
        )
    _check_bytes(request, dataset, preflight)
    limit = training["max_seq_length"]
    shortest = dataset.stats.get("shortest_example_bytes")
    # Bytes bound byte tokens from below: for the presets this is exact enough to refuse.
    if (
        request.model.kind == "preset"
        and training["too_long"] == "drop"
        and shortest is not None
        and shortest > limit
    ):
        preflight.problems.append(
            f"Every example is longer than max_seq_length {limit}: the shortest has {shortest}"
            " tokens. Raise max_seq_length, or set too_long to truncate or split."
        )
    elif request.model.kind != "preset":
        preflight.leave_open(
            "Lengths in tokens are known once the training program has read the tokenizer."
        )


def _check_model(model: ModelReference, preflight: Preflight, *, trains: bool) -> None:
    if model.kind == "preset":
        family = PRESETS[model.model_id.removeprefix("preset:")]["model_type"]
        preflight.warnings.append(f"{model.model_id} starts from random weights ({family}).")
        return
    if model.kind == "folder":
        assert model.path is not None
        problems, warnings = check_model_folder(model.path)
        preflight.problems.extend(problems)
        preflight.warnings.extend(warnings)
        return
    if model.kind == "run":
        _check_model_of_run(model, preflight, trains=trains)
        return
    if model.problem:
        preflight.problems.append(model.problem)
        return
    if model.warning:
        preflight.warnings.append(model.warning)
    if model.family is None:
        preflight.leave_open(
            f"The name {model.model_id} does not tell the model's family; whether it can be trained"
            " shows when it is loaded."
        )
    else:
        preflight.leave_open(
            f"{model.model_id} was not fetched: its files are checked when the training starts."
        )


def _check_model_of_run(model: ModelReference, preflight: Preflight, *, trains: bool) -> None:
    try:
        subject = find_subject(model)
    except InvalidRequest as error:
        preflight.problems.extend(error.errors["model_id"])
        return
    except OSError as error:
        preflight.problems.append(
            f"The files of {model.model_id} cannot be read: {error.strerror or error}."
        )
        return
    if trains and (problem := subject.training_problem()):
        preflight.problems.append(problem)
    if subject.base.kind == "preset":  # what was trained of it has no tokenizer to check
        return
    if subject.path is not None:
        problems, warnings = check_model_folder(subject.path)
        preflight.problems.extend(problems)
        preflight.warnings.extend(warnings)
    else:
        _check_model(subject.base, preflight, trains=trains)


def warnings_in(summary: Any) -> list[str]:
    """Return the warnings of a dry run, by its summary: of what was checked here, and of the report
    of one with depth."""
    summary = summary if isinstance(summary, dict) else {}
    report = summary.get("preflight")
    reported = report.get("warnings") if isinstance(report, dict) else None
    return list(dict.fromkeys(text_list(summary.get("warnings")) + text_list(reported)))


def text_list(value: Any) -> list[str]:
    """Return the texts in a list that a training command wrote: so many, each so long, and the last
    says how many more there are.

    Applied to its own answer it changes nothing.
    """
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    if len(texts) > TEXTS_MAX:
        texts[TEXTS_MAX - 1 :] = [f"And {len(texts) - TEXTS_MAX + 1:,} more."]
    return [shorten(text) for text in texts]


def _check_positions(request: RunRequest, dataset: Dataset, preflight: Preflight) -> None:
    """Warn if examples may reach beyond the positions that a model in a folder was made for."""
    limit, longest = request.training["max_seq_length"], dataset.stats.get("longest_example_bytes")
    if request.model.kind != "folder" or preflight.problems or longest is None:
        return
    assert request.model.path is not None
    try:
        positions = open_model_folder(request.model.path).architecture.positions
    except FolderProblem:  # changed since it was checked
        return
    # A tokenizer rarely makes more tokens of a text than it has bytes.
    if positions < min(limit, longest):
        preflight.leave_open(
            f"The model was made for {positions:,} positions (max_position_embeddings in"
            f" config.json) and examples may be longer; max_seq_length {positions} keeps them"
            " within."
        )
