"""The API of datasets."""

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.answers import DatasetPage, Manifest
from datasets.api.common import DATASET, GIVES_DATASET, caller, described, paged
from datasets.api.presentation import dataset_row, manifest
from datasets.api.requests import DatasetBody, DatasetEdit, DatasetListQuery
from datasets.examples.schema import NAMED_FIELDS
from datasets.queries.listing import search_datasets, take_page
from datasets.services.access import get_dataset_for
from datasets.services.curation import edit_dataset
from datasets.services.datasets import create_dataset
from tunixrt.api.query import read_query
from tunixrt.reading import read_body
from tunixrt.roles import May, require
from tunixrt.searches import search


class DatasetList(APIView):
    """GET: a page of datasets, newest first. POST: make a dataset of stored traces."""

    @described(
        "listDatasets",
        summary="A page of datasets, newest first",
        query=DatasetListQuery,
        answers={200: DatasetPage},
        example_query={"limit": 20, "q": "sums"},
        gives={"key": "/data/0/dataset_key"},
    )
    def get(self, request: Request) -> Response:
        query = read_query(DatasetListQuery, request)
        archived = query.archived == "true"
        with search(caller(request), "q", reads_all=bool(query.q) or archived):
            page = take_page(
                search_datasets(query.q, archived=archived),
                limit=query.limit,
                offset=query.offset,
                cursor=query.cursor,
            )
        return paged(
            [dataset_row(dataset) for dataset in page.rows], query.limit, query.offset, page
        )

    @described(
        "createDataset",
        summary="Make a dataset of stored traces",
        body=DatasetBody,
        answers={201: Manifest},
        refused=(409,),
        example={"name": "none", "version": "v1", "trace_ids": [], "description": "Nothing yet."},
        gives=GIVES_DATASET,
    )
    def post(self, request: Request) -> Response:
        require(caller(request), May.MAKE)
        body = read_body(DatasetBody, request.data, named=NAMED_FIELDS)
        dataset = create_dataset(
            **body.model_dump(), provenance={"source": "api"}, by=caller(request)
        )
        return Response(manifest(dataset), status=201)


class DatasetDetail(APIView):
    """GET: the manifest. PATCH: change what it says about the dataset."""

    @described(
        "readDataset", summary="The manifest of a dataset", path=DATASET, answers={200: Manifest}
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(manifest(get_dataset_for(caller(request), key, may=May.READ)))

    @described(
        "editDataset",
        summary="Change description, licence or source; none is part of the fingerprint",
        path=DATASET,
        body=DatasetEdit,
        answers={200: Manifest},
        example={"licence": "CC-BY-4.0"},
    )
    def patch(self, request: Request, key: str) -> Response:
        by = caller(request)
        dataset = get_dataset_for(by, key, may=May.ACT)
        changes = read_body(DatasetEdit, request.data).model_dump(exclude_unset=True)
        return Response(manifest(edit_dataset(dataset=dataset, changes=changes, by=by)))
