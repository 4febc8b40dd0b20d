"""The API of exports."""

from collections.abc import Iterable, Iterator
from itertools import islice

from django.http import StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from datasets.api.common import DATASET, caller, described
from datasets.api.requests import ExportQuery
from datasets.services.access import get_readable_dataset
from datasets.services.exports import export_lines, export_parquet
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import read_query
from tunixrt.api.schema import Content


class DatasetExport(APIView):
    """GET: the dataset as JSONL in its training format, streamed."""

    content_negotiation_class = OneForm

    @described(
        "exportDataset",
        summary="The lines that a training reads, or the examples in full",
        description="With form=examples, lines with everything that the examples say: what storing"
        " examples takes, and the part. Imported again, they are the same dataset.",
        path=DATASET,
        query=ExportQuery,
        answers={200: Content(("application/x-ndjson",))},
    )
    def get(self, request: Request, key: str) -> StreamingHttpResponse:
        query = read_query(ExportQuery, request)
        dataset = get_readable_dataset(caller(request), key)
        response = StreamingHttpResponse(
            in_pieces(export_lines(dataset, in_full=query.form == "examples")),
            content_type="application/x-ndjson; charset=utf-8",
        )
        response["Content-Disposition"] = f'attachment; filename="{dataset.dataset_key}.jsonl"'
        return response


class DatasetParquet(APIView):
    """GET: the dataset as Parquet, streamed while it is written."""

    content_negotiation_class = OneForm

    @described(
        "exportDatasetAsParquet",
        summary="The examples in full, as Parquet",
        path=DATASET,
        answers={200: Content(("application/vnd.apache.parquet",))},
        refused=(501,),
    )
    def get(self, request: Request, key: str) -> StreamingHttpResponse:
        dataset = get_readable_dataset(caller(request), key)
        response = StreamingHttpResponse(
            export_parquet(dataset), content_type="application/vnd.apache.parquet"
        )
        response["Content-Disposition"] = f'attachment; filename="{dataset.dataset_key}.parquet"'
        return response


def in_pieces(lines: Iterable[bytes], count: int = 100) -> Iterator[bytes]:
    """Yield lines a hundred at a time, since every piece costs the server a round of its own."""
    iterator = iter(lines)
    while piece := b"".join(islice(iterator, count)):
        yield piece
