"""The API of what may change about a dataset, and of its data card."""

from functools import partial

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.access import get_dataset_for
from datasets.api.answers import Manifest
from datasets.api.presentation import manifest
from datasets.api.views import DATASET, caller
from datasets.card import data_card
from datasets.curation import archive_dataset, restore_dataset
from tunixrt.api.negotiation import OneForm
from tunixrt.api.schema import Content, operation
from tunixrt.roles import May

described = partial(operation, tag="Datasets")


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
