"""The API of provenance: the graph of a dataset, and where an example is used."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.common import DATASET
from datasets.services.access import get_dataset_for, get_trace_for
from runs.api.look import TRACE
from runs.api.views import actor, described
from runs.queries.lineage import PAGE, datasets_with, graph_answer, lineage, runs_with
from tunixrt.api.query import parse_uuid, read_query, whole
from tunixrt.api.schema import Answer
from tunixrt.reading import Model
from tunixrt.roles import May

OFFSET_MAX = 100_000


class NodeAnswer(Answer):
    id: str
    type: str = Field(description="file, hub, traces, import, dataset, run or model")
    label: str
    detail: dict[str, Any]


class EdgeAnswer(Answer):
    """target was made from source."""

    source: str
    target: str
    type: str


class LineageAnswer(Answer):
    dataset_key: str
    nodes: list[NodeAnswer]
    edges: list[EdgeAnswer]
    cut: list[str] = Field(description="What is left out, in sentences.")


class DatasetLineage(APIView):
    """GET: where a dataset comes from, and what came of it."""

    @described(
        "readLineage",
        tag="Datasets",
        summary="Where a dataset comes from, and what came of it, as a graph",
        description="Files, imports and versions, with the newest runs and their models.",
        path=DATASET,
        answers={200: LineageAnswer},
    )
    def get(self, request: Request, key: str) -> Response:
        dataset = get_dataset_for(actor(request), key, may=May.READ)
        return Response(graph_answer(dataset, lineage(dataset)))


_OFFSET = whole(0, OFFSET_MAX)


class UsesQuery(Model):
    limit: Annotated[int, whole(1, 100)] = Field(PAGE, description="Rows of each list.")
    datasets_offset: Annotated[int, _OFFSET] = Field(0, description="Datasets to pass over.")
    runs_offset: Annotated[int, _OFFSET] = Field(0, description="Runs to pass over.")
    models_offset: Annotated[int, _OFFSET] = Field(0, description="Models to pass over.")


class UsingDataset(Answer):
    dataset_key: str
    archived: bool
    splits: dict[str, int] = Field(description="How often it stands in which part.")


class UsingRun(Answer):
    run_id: UUID
    name: str
    dataset_key: str
    model_id: str
    mode: str
    status: str
    splits: dict[str, int] = Field(description="How often it stands in which part.")
    learnt: bool = Field(description="Whether it is in the part that the run learns from.")
    model: str | None = Field(description="run:<id> if the training completed.")


class UsingDatasets(Answer):
    data: list[UsingDataset]
    next_offset: int | None


class UsingRuns(Answer):
    data: list[UsingRun]
    next_offset: int | None


class UsesAnswer(Answer):
    datasets: UsingDatasets
    runs: UsingRuns
    models: UsingRuns = Field(description="The runs among them whose training completed.")


class TraceUses(APIView):
    """GET: the datasets, runs and models that hold an example."""

    @described(
        "readUses",
        tag="Traces",
        summary="The datasets, runs and models that an example is in",
        path=TRACE,
        query=UsesQuery,
        answers={200: UsesAnswer},
        example_query={"limit": 20},
    )
    def get(self, request: Request, trace_id: str) -> Response:
        parsed = parse_uuid(trace_id, "trace_id")
        query = read_query(UsesQuery, request)
        get_trace_for(actor(request), parsed, may=May.READ)
        parts = {
            "datasets": datasets_with(parsed, offset=query.datasets_offset, limit=query.limit),
            "runs": runs_with(parsed, offset=query.runs_offset, limit=query.limit),
            "models": runs_with(
                parsed, offset=query.models_offset, limit=query.limit, with_model=True
            ),
        }
        return Response(
            {
                name: {"data": part.data, "next_offset": part.next_offset}
                for name, part in parts.items()
            }
        )
