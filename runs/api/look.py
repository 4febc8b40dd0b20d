"""The API of examples in tokens (docs/datasets.md)."""

from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.common import DATASET
from datasets.examples.kinds import training_line
from datasets.models import Split
from datasets.services.access import get_readable_dataset, get_trace_for
from runs.api.answers import CountedLengths, Rendered
from runs.api.queries import LengthsQuery, RenderedQuery
from runs.api.views import actor, described
from runs.execution import looking
from runs.execution.lengths import measure_lengths
from tunixrt.api.query import parse_uuid, read_query
from tunixrt.api.schema import Path
from tunixrt.roles import May

TRACE = {
    "trace_id": Path(
        "Id of an example.",
        {"type": "string", "format": "uuid"},
        "5b0c2c3e-8b1d-4c39-9a55-5d0c7a1f2e10",
    )
}
EXAMPLE = {"model_id": "preset:tiny-llama"}


class RenderedExample(APIView):
    @described(
        "renderExample",
        tag="Traces",
        summary="An example as the model will see it, token by token",
        path=TRACE,
        query=RenderedQuery,
        answers={200: Rendered},
        refused=(507,),
        example_query=EXAMPLE,
    )
    def get(self, request: Request, trace_id: str) -> Response:
        parsed = parse_uuid(trace_id, "trace_id")
        query = read_query(RenderedQuery, request)
        trace = get_trace_for(actor(request), parsed, may=May.READ)
        if trace.erased_at is not None:
            raise NotFound(f"The content of trace {parsed} was erased.")
        line = training_line(trace.pk, trace, Split.TRAIN)
        return Response(looking.view_example(line=line, **query.model_dump()))


class TokenLengths(APIView):
    @described(
        "countLengths",
        tag="Datasets",
        summary="Lengths of a dataset's examples in the tokens of a model",
        path=DATASET,
        query=LengthsQuery,
        answers={200: CountedLengths},
        refused=(507,),
        example_query=EXAMPLE,
    )
    def get(self, request: Request, key: str) -> Response:
        query = read_query(LengthsQuery, request)
        dataset = get_readable_dataset(actor(request), key)
        return Response(measure_lengths(dataset, **query.model_dump()))
