"""Whether a model has learnt from the questions that it is evaluated on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from datasets.models import Dataset, DatasetItem, Overlap, unpack_positions
from runs.models import Evaluation, EvaluationSet, Run
from runs.models.evaluation import unpack_examples
from runs.services.run_requests import resolve_model

CHAIN_MAX = 50  # runs that resume each other, or train on each other's models


@dataclass(frozen=True)
class Contamination:
    """What is known of a model and a set of questions.

    Attributes:
        datasets: keys of those that the model was trained on, here; what its base model has seen
            is not known.
        found: questions that overlap with them.
        unknown: keys of those that were not compared yet, or have changed since.
        itself: the model was trained on the questions themselves.
        places: of the questions that overlap, in the order of the set.
    """

    datasets: tuple[str, ...] = ()
    found: int = 0
    unknown: tuple[str, ...] = ()
    itself: bool = False
    places: frozenset[int] = frozenset()

    @property
    def sentence(self) -> str:
        if not self.datasets:
            return "Not trained here."
        if self.itself:
            return "Trained on these very questions."
        if self.unknown:
            return f"Not compared yet: {', '.join(self.unknown)}."
        if not self.found:
            return "None of the questions stands in what was learnt."
        return f"{self.found:,} of the questions overlap with what was learnt."


def contamination_of(
    evaluations: Sequence[Evaluation], questions: EvaluationSet
) -> dict[UUID, Contamination]:
    """Return what is known of the models of evaluations of one set, by their ids."""
    learnt = {one.pk: datasets_learnt(one.subject) for one in evaluations}
    keys = {key for found in learnt.values() for key in found}
    asked = Dataset.objects.filter(dataset_key=questions.dataset_key).first()
    rows: dict[str, Overlap] = {}
    if asked is not None and keys:
        for row in Overlap.objects.filter(
            other=asked, dataset__dataset_key__in=keys
        ).select_related("dataset"):
            fresh = (
                row.dataset_fingerprint == row.dataset.fingerprint
                and row.other_fingerprint == questions.fingerprint == asked.fingerprint
                and row.positions is not None
            )
            if fresh:
                rows[row.dataset.dataset_key] = row
    places = _places(questions, asked, rows.values())
    return {pk: _of(tuple(found), questions, rows, places) for pk, found in learnt.items()}


def _of(
    datasets: tuple[str, ...],
    questions: EvaluationSet,
    rows: dict[str, Overlap],
    places: dict[int, frozenset[int]],
) -> Contamination:
    itself = questions.part == "all" and questions.dataset_key in datasets
    unknown = tuple(key for key in datasets if key not in rows and not itself)
    overlapping: frozenset[int] = frozenset()
    for key in datasets:
        if key in rows:
            overlapping |= places[rows[key].pk]
    return Contamination(datasets, len(overlapping), unknown, itself, overlapping)


def _places(
    questions: EvaluationSet, asked: Dataset | None, rows: Iterable[Overlap]
) -> dict[int, frozenset[int]]:
    """Return the places in the set of the questions that each overlap names by their places in the
    dataset."""
    if asked is None:
        return {}
    order = {pk: place for place, pk in enumerate(unpack_examples(questions.examples))}
    found = {}
    for row in rows:
        positions = unpack_positions(row.positions or b"")
        traces = DatasetItem.objects.filter(dataset=asked, position__in=positions).values_list(
            "trace", flat=True
        )
        found[row.pk] = frozenset(order[pk] for pk in traces if pk in order)
    return found


def datasets_learnt(run: Run | None) -> list[str]:
    """Return the keys of the datasets that the model of ``run`` was trained on, here: its own, and
    those of the runs that it resumed from or whose model it began with."""
    found: dict[str, None] = {}
    steps = 0
    while run is not None and steps < CHAIN_MAX:
        found[run.dataset_key] = None
        run = run.resume_from or _model_of(run)
        steps += 1
    return list(found)


def _model_of(run: Run) -> Run | None:
    if not run.model_id.startswith("run:"):
        return None
    try:
        reference = resolve_model(run.model_id)
    except ValueError:
        return None
    return Run.objects.filter(pk=reference.run_id).first() if reference.run_id else None
