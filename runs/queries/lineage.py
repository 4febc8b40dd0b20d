"""Which runs and models come of a dataset, and which datasets, runs and models hold an example."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db.models import Count, QuerySet

from datasets.models import Dataset, DatasetItem, Split
from datasets.queries.lineage import Graph, Node, dataset_graph, dataset_id
from runs.models import Run, RunQuerySet, RunStatus

RUNS_MAX = 100  # of a graph
PAGE = 20
DEPTH_MAX = 30  # lists inside each other: more than a graph has, but for runs that resume runs


def lineage(dataset: Dataset) -> Graph:
    """Return the graph of a dataset, with the newest runs on it and on what was made from it, and
    the models of those that completed."""
    graph, keys = dataset_graph(dataset)
    runs = list(
        Run.objects.visible()
        .listed()
        .filter(dataset_key__in=keys)
        .newest_first()
        .only("run_id", "name", "dataset_key", "model_id", "status", "dry_run", "engine", "kind",
              "mode", "resume_from")[: RUNS_MAX + 1]
    )  # fmt: skip
    if len(runs) > RUNS_MAX:
        graph.cut.append(f"Only the newest {RUNS_MAX:,} runs are shown.")
    shown = {run.pk for run in runs[:RUNS_MAX]}
    for run in runs[:RUNS_MAX]:
        node = Node(
            f"run:{run.pk}",
            "run",
            run.name,
            {
                "run_id": str(run.pk),
                "status": run.status,
                "mode": run.mode,
                "kind": run.kind,
                "model_id": run.model_id,
            },
        )
        graph.add(node)
        graph.connect(dataset_id(run.dataset_key), node.id, "trained on")
        if run.resume_from_id in shown:
            graph.connect(f"run:{run.resume_from_id}", node.id, "resumed from")
        if _has_model(run):
            model = Node(f"model:{run.pk}", "model", f"run:{run.pk}", {"run_id": str(run.pk)})
            graph.add(model)
            graph.connect(node.id, model.id, "resulted in")
    return graph


def _has_model(run: Run) -> bool:
    return not run.dry_run and run.status == RunStatus.COMPLETED


def graph_answer(dataset: Dataset, graph: Graph) -> dict[str, Any]:
    return {
        "dataset_key": dataset.dataset_key,
        "nodes": [asdict(node) for node in graph.nodes.values()],
        "edges": [asdict(edge) for edge in graph.edges],
        "cut": graph.cut,
    }


@dataclass
class Branch:
    """A node on a page, with those it leads to. ``again``: shown further up with them."""

    node: Node
    again: bool
    branches: list["Branch"]


def branches_of(graph: Graph, start: str, *, up: bool) -> list[Branch]:
    """Return what ``start`` was made from (``up``) or what came of it, nested."""
    next_to: dict[str, list[str]] = {}
    for edge in graph.edges:
        near, far = (edge.target, edge.source) if up else (edge.source, edge.target)
        next_to.setdefault(near, []).append(far)
    seen = {start}

    def below(id: str, depth: int = 0) -> list[Branch]:
        branches: list[Branch] = []
        if depth == DEPTH_MAX:
            return branches
        for other in dict.fromkeys(next_to.get(id, ())):
            again = other in seen
            seen.add(other)
            branches.append(
                Branch(graph.nodes[other], again, [] if again else below(other, depth + 1))
            )
        return branches

    return below(start)


# --- uses of an example ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One page of a list. ``next_offset``: None on the last page."""

    data: list[dict[str, Any]]
    next_offset: int | None


def datasets_with(trace_id: UUID, *, offset: int = 0, limit: int = PAGE) -> Part:
    """Return datasets that hold an example, the newest first, with the parts it stands in."""
    rows, following = _page(_datasets(trace_id).order_by("-created_at", "-pk"), offset, limit)
    counts = _counts(trace_id, [dataset.dataset_key for dataset in rows])
    return Part(
        [
            {
                "dataset_key": dataset.dataset_key,
                "archived": dataset.archived_at is not None,
                "splits": counts.get(dataset.dataset_key, {}),
            }
            for dataset in rows
        ],
        following,
    )


def runs_with(
    trace_id: UUID, *, offset: int = 0, limit: int = PAGE, with_model: bool = False
) -> Part:
    """Return runs on those datasets, the newest first, with the parts that the example stands in
    there; ``with_model``: only those whose training completed."""
    rows, following = _page(
        runs_on(_datasets(trace_id), with_model=with_model).newest_first(), offset, limit
    )
    counts = _counts(trace_id, [run.dataset_key for run in rows])
    return Part(
        [
            {
                "run_id": str(run.pk),
                "name": run.name,
                "dataset_key": run.dataset_key,
                "model_id": run.model_id,
                "mode": run.mode,
                "status": run.status,
                "splits": counts.get(run.dataset_key, {}),
                "learnt": Split.TRAIN.value in counts.get(run.dataset_key, {}) and not run.dry_run,
                "model": f"run:{run.pk}" if _has_model(run) else None,
            }
            for run in rows
        ],
        following,
    )


def runs_on(datasets: QuerySet[Dataset], *, with_model: bool = False) -> RunQuerySet:
    """Return runs on any of ``datasets`` that are not in the trash."""
    runs = Run.objects.visible().filter(dataset_key__in=datasets.values("dataset_key"))
    return runs.filter(status=RunStatus.COMPLETED, dry_run=False) if with_model else runs


def _datasets(trace_id: UUID) -> QuerySet[Dataset]:
    places = DatasetItem.objects.filter(trace=trace_id).order_by().values("dataset")
    return Dataset.objects.filter(pk__in=places).order_by()


def _page(rows: Any, offset: int, limit: int) -> tuple[list[Any], int | None]:
    found = list(rows[offset : offset + limit + 1])
    return found[:limit], offset + limit if len(found) > limit else None


def _counts(trace_id: UUID, keys: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how often the example stands in which part of datasets."""
    found: dict[str, dict[str, int]] = {}
    rows = (
        DatasetItem.objects.filter(trace=trace_id, dataset__dataset_key__in=set(keys))
        .order_by()
        .values_list("dataset__dataset_key", "split")
        .annotate(places=Count("pk"))
    )
    for key, split, places in rows:
        found.setdefault(key, {})[split] = places
    return found
