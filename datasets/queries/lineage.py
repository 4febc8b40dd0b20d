"""Where the examples of a dataset come from, and what was made of it: files, imports and versions.

`runs` adds the runs (runs/queries/lineage.py).
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from django.db.models import Q

from datasets.models import Dataset, Import, ImportState

DATASETS_MAX = 200  # ancestors, and as many descendants
LEVELS_MAX = 20
IMPORTS_MAX = 200
_LABEL_MAX = 300

Direction = Literal["parents", "children"]


@dataclass(frozen=True)
class Node:
    """``id`` is unique in the graph; ``label`` is for people; ``detail`` depends on the type."""

    id: str
    type: str
    label: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """``target`` was made from ``source``."""

    source: str
    target: str
    type: str


@dataclass
class Graph:
    """``cut``: what the graph leaves out, in sentences."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)

    def add(self, node: Node) -> None:
        self.nodes.setdefault(node.id, node)

    def connect(self, source: str, target: str, type: str) -> None:
        self.edges[Edge(source, target, type)] = None


def dataset_id(key: str) -> str:
    """Return the id of a dataset in a graph."""
    return f"dataset:{key}"


def dataset_graph(dataset: Dataset) -> tuple[Graph, list[str]]:
    """Return the graph of a dataset, its ancestors and descendants with what they were imported
    from; and the keys of the dataset and its descendants."""
    graph = Graph()
    known: dict[int, Dataset] = {dataset.pk: dataset}
    ancestors = _walk(graph, dataset, "parents", known)
    descendants = _walk(graph, dataset, "children", known)
    for each in known.values():
        graph.add(
            Node(
                dataset_id(each.dataset_key),
                "dataset",
                each.dataset_key,
                {
                    "size": each.size,
                    "held_out_size": each.held_out_size,
                    "fingerprint": each.fingerprint,
                    "licence": each.licence,
                    "archived": each.archived_at is not None,
                },
            )
        )
    through = Dataset.parents.through.objects
    links = through.filter(from_dataset__in=list(known), to_dataset__in=list(known))
    for child, parent in links.order_by("pk").values_list("from_dataset_id", "to_dataset_id"):
        graph.connect(
            dataset_id(known[parent].dataset_key), dataset_id(known[child].dataset_key), "recipe"
        )
    _add_origins(graph, [dataset, *(known[pk] for pk in ancestors)])
    return graph, [dataset.dataset_key, *(known[pk].dataset_key for pk in descendants)]


def _walk(
    graph: Graph, dataset: Dataset, direction: Direction, known: dict[int, Dataset]
) -> list[int]:
    """Add the datasets in one direction to ``known``, the nearest first; return their keys."""
    near, far = ("from_dataset", "to_dataset")
    if direction == "children":
        near, far = far, near
    found: dict[int, None] = {}
    level = [dataset.pk]
    cut = False
    for _ in range(LEVELS_MAX):
        links = Dataset.parents.through.objects.filter(**{f"{near}__in": level}).order_by("pk")
        seen = {dataset.pk, *found}
        # one beyond the limit tells that there are more; those seen may be among them
        wanted = DATASETS_MAX - len(found) + 1
        further = links.exclude(**{f"{far}__in": seen}).values_list(f"{far}_id", flat=True)
        level = list(further.order_by(f"{far}_id").distinct()[:wanted])
        cut = len(level) == wanted
        level = level[: wanted - 1]
        complete = Dataset.objects.in_bulk(level)
        level = [pk for pk in level if pk in complete]
        known.update(complete)
        found.update(dict.fromkeys(level))
        if cut or not level:
            break
    else:
        cut = True
    if cut:
        graph.cut.append(
            f"Only the nearest {len(found):,} datasets that this one was made from are shown."
            if direction == "parents"
            else f"Only the nearest {len(found):,} datasets that were made from this one are shown."
        )
    return list(found)


def _add_origins(graph: Graph, datasets: Collection[Dataset]) -> None:
    """Add what datasets were imported from."""
    by_pk = {dataset.pk: dataset for dataset in datasets}
    rows = list(
        Import.objects.filter(
            # an import within a request names no type
            Q(source__type__isnull=True) | ~Q(source__type__in=("recipe", "overlap")),
            dataset__in=list(by_pk),
            state=ImportState.COMPLETED,
        ).order_by("created_at")[: IMPORTS_MAX + 1]
    )
    if len(rows) > IMPORTS_MAX:
        graph.cut.append(f"Only the first {IMPORTS_MAX:,} imports are shown.")
    imported = set()
    for row in rows[:IMPORTS_MAX]:
        assert row.dataset_id is not None
        imported.add(row.dataset_id)
        made = Node(
            f"import:{row.pk}",
            "import",
            f"Import of {row.created_at:%Y-%m-%d}",
            {"import_id": str(row.pk), "lines_skipped": row.lines_skipped},
        )
        origin = _origin(f"source:{row.pk}", row.source)
        graph.add(origin)
        graph.add(made)
        graph.connect(origin.id, made.id, "read")
        graph.connect(made.id, dataset_id(by_pk[row.dataset_id].dataset_key), "stored")
    for dataset in datasets:
        said = dataset.provenance.get("source")
        if dataset.pk in imported or said == "recipe":
            continue
        target = dataset_id(dataset.dataset_key)
        if "file" in dataset.provenance:  # imported before imports had rows
            origin = _origin(f"source:{target}", {"file": dataset.provenance["file"]})
        else:
            origin = Node(f"traces:{target}", "traces", "Stored examples", {"by": str(said or "")})
        graph.add(origin)
        graph.connect(origin.id, target, "stored")


def _origin(id: str, source: dict[str, Any]) -> Node:
    type = str(source.get("type") or "upload")
    detail = {"source": type}
    if type == "hub":
        commit = str(source.get("commit") or source.get("revision") or "")
        detail["commit"] = commit
        label = f"{source.get('hub', '')} at {commit[:12]}"
    else:
        label = str(source.get("path") or source.get("file") or "A file without a name")
    return Node(id, "hub" if type == "hub" else "file", label[:_LABEL_MAX], detail)
