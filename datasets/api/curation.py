"""The API of what may change about a dataset or an example, and of the data card."""

from typing import Annotated

from django.http import HttpResponse
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import Manifest, TraceAnswer
from datasets.api.common import DATASET, TRACE, caller, described
from datasets.api.presentation import full_trace, manifest
from datasets.models import Dataset
from datasets.queries.card import data_card
from datasets.services.access import get_dataset_for, get_trace_for
from datasets.services.curation import (
    archive_dataset,
    archive_trace,
    restore_dataset,
    restore_trace,
)
from datasets.services.sealing import seal_datasets, unseal_datasets
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import parse_uuid, read_query, text
from tunixrt.api.schema import Content
from tunixrt.reading import Model
from tunixrt.roles import May


class DatasetArchive(APIView):
    """POST: put a dataset into the archive. DELETE: take it out."""

    @described(
        "archiveDataset",
        summary="Hide a dataset from lists, and refuse new runs on it",
        path=DATASET,
        answers={200: Manifest},
    )
    def post(self, request: Request, key: str) -> Response:
        by = caller(request)
        dataset = get_dataset_for(by, key, may=May.ACT)
        return Response(manifest(archive_dataset(dataset=dataset, by=by)))

    @described(
        "restoreDataset",
        summary="Take a dataset out of the archive",
        path=DATASET,
        answers={200: Manifest},
    )
    def delete(self, request: Request, key: str) -> Response:
        by = caller(request)
        dataset = get_dataset_for(by, key, may=May.ACT)
        return Response(manifest(restore_dataset(dataset=dataset, by=by)))


class SealQuery(Model):
    also: Annotated[str | None, text] = Field(
        None,
        description="Keys of further datasets, with commas: those that share examples with it.",
    )


class DatasetSeal(APIView):
    """POST: seal a dataset. DELETE: unseal it."""

    @described(
        "sealDataset",
        summary="Let only operators read the examples of a dataset, and no run train on them",
        description="Evaluations on it stay possible. Every look of an operator is in the audit"
        " log.",
        path=DATASET,
        query=SealQuery,
        answers={200: Manifest},
        refused=(409,),
        example_query={"also": "evals-v1"},
    )
    def post(self, request: Request, key: str) -> Response:
        datasets = self._named(request, key)
        seal_datasets(datasets=datasets, by=caller(request))
        return Response(manifest(datasets[0]))

    @described(
        "unsealDataset",
        summary="Let everybody read the examples of a dataset again; for operators",
        path=DATASET,
        query=SealQuery,
        answers={200: Manifest},
        refused=(409,),
        example_query={"also": "evals-v1"},
    )
    def delete(self, request: Request, key: str) -> Response:
        datasets = self._named(request, key)
        unseal_datasets(datasets=datasets, by=caller(request))
        return Response(manifest(datasets[0]))

    @staticmethod
    def _named(request: Request, key: str) -> list[Dataset]:
        also = read_query(SealQuery, request).also or ""
        keys = [key, *(one.strip() for one in also.split(",") if one.strip())]
        by = caller(request)
        return [get_dataset_for(by, one, may=May.READ) for one in dict.fromkeys(keys)]


class TraceArchive(APIView):
    """POST: put an example into the archive. DELETE: take it out."""

    @described(
        "archiveTrace",
        tag="Traces",
        summary="Hide an example from lists, and leave it out of new versions",
        description="Datasets and runs that contain it do not change.",
        path=TRACE,
        answers={200: TraceAnswer},
        refused=(409,),
    )
    def post(self, request: Request, trace_id: str) -> Response:
        by = caller(request)
        trace = get_trace_for(by, parse_uuid(trace_id, "trace_id"), may=May.ACT)
        return Response(full_trace(archive_trace(trace=trace, by=by)))

    @described(
        "restoreTrace",
        tag="Traces",
        summary="Take an example out of the archive",
        path=TRACE,
        answers={200: TraceAnswer},
    )
    def delete(self, request: Request, trace_id: str) -> Response:
        by = caller(request)
        trace = get_trace_for(by, parse_uuid(trace_id, "trace_id"), may=May.ACT)
        return Response(full_trace(restore_trace(trace=trace, by=by)))


class DatasetCard(APIView):
    """GET: the data card."""

    content_negotiation_class = OneForm

    @described(
        "readDatasetCard",
        summary="The data card: Markdown with the front matter of Hugging Face's cards",
        path=DATASET,
        answers={200: Content(("text/markdown",))},
    )
    def get(self, request: Request, key: str) -> HttpResponse:
        dataset = get_dataset_for(caller(request), key, may=May.READ)
        response = HttpResponse(data_card(dataset), content_type="text/markdown; charset=utf-8")
        response["Content-Disposition"] = f'inline; filename="{dataset.dataset_key}.md"'
        return response
