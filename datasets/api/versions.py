"""The API of new versions of datasets: made by recipes, compared with each other, and compared with
sets for evaluation."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import StreamingHttpResponse
from pydantic import Field, PlainValidator, WithJsonSchema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from datasets.api.common import DATASET, caller, described
from datasets.api.exports import in_pieces
from datasets.api.requests import Description, Name, Version
from datasets.cleaning.derivation import dry_run
from datasets.cleaning.recipe import OPERATIONS, parse_recipe
from datasets.comparison.differences import (
    CHANGES,
    After,
    change_fields,
    change_lines,
    compare,
    decode_after,
)
from datasets.comparison.overlaps import (
    compute_overlap,
    is_small,
    known_about,
    overlaps_of,
    without_places,
)
from datasets.examples.schema import json_kind
from datasets.imports.importing import submit_derivation, submit_overlap
from datasets.models import Dataset, ImportState, Overlap
from datasets.services.access import get_dataset_for, get_readable_dataset
from tunixrt.api.negotiation import OneForm
from tunixrt.api.query import choice, read_by, read_query, text, whole
from tunixrt.api.schema import Answer, Content
from tunixrt.reading import Model, read_body
from tunixrt.roles import May, require
from tunixrt.searches import deadline, search, searches

# --- recipes --------------------------------------------------------------------------------------


def _recipe_schema() -> dict[str, Any]:
    def step(model: Any) -> dict[str, Any]:
        schema = model.model_json_schema()
        return {
            "type": "object",
            "description": " ".join((model.__doc__ or "").split()),
            "additionalProperties": False,
            "required": ["operation", *schema.get("required", [])],
            "properties": {
                name: {key: value for key, value in field.items() if key != "title"}
                for name, field in schema["properties"].items()
            },
        }

    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["steps"],
        "properties": {
            "steps": {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [step(model) for model in OPERATIONS.values()]},
            }
        },
    }


def _any(value: Any) -> Any:
    return value  # parse_recipe checks it


def _keys(value: Any) -> list[str]:
    if not isinstance(value, list) or any(not isinstance(key, str) for key in value):
        raise ValueError(f"Must be a list of dataset keys, not {json_kind(value)}.")
    return value


class CleanQuery(Model):
    dry_run: Annotated[str, choice(["true", "false"])] = Field(
        "false", description="true: say what the recipe would do, and store nothing."
    )


class CleanBody(Model):
    """A new version of a dataset, or of several."""

    recipe: Annotated[Any, PlainValidator(_any), WithJsonSchema(_recipe_schema())] = Field(
        description="The operations, one after another."
    )
    parents: Annotated[
        list[str],
        PlainValidator(_keys),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(
        [], description="Keys of further datasets, for a recipe that begins with merge or mix."
    )
    name: Name = Field("", description="Of the new dataset; needed unless it is a dry run.")
    version: Version = Field("", description="Of the new dataset; needed unless it is a dry run.")
    description: Description = ""


class StepAnswer(Answer):
    operation: str
    parameters: dict[str, Any]
    came: int = Field(description="Examples that came to this step.")
    left_out: int
    changed: int
    went: int = Field(description="Examples that are left after it.")
    reasons: dict[str, int]
    notes: dict[str, Any]
    examples: list[dict[str, Any]] = Field(description="The first that it left out or changed.")


class DryRunAnswer(Answer):
    """What a recipe would do."""

    recipe: dict[str, Any] = Field(description="With every parameter.")
    sampled: bool = Field(description="Whether only some of the examples were read.")
    examples: int = Field(description="Of all parents.")
    examples_read: int
    erased: int = Field(description="Examples whose content was erased; they are left out.")
    archived: int = Field(description="Examples in the archive; they are left out.")
    left: int = Field(description="Examples of the new version, or of the sample.")
    left_held_out: int
    first: list[dict[str, Any]] = Field(description="The first of them.")
    steps: list[StepAnswer]
    warnings: list[str]


class Submitted(Answer):
    """Work that a process of its own does."""

    id: UUID
    state: ImportState
    dataset_key: str
    created_at: datetime


def submitted(work: Any) -> Response:
    fields = {name: getattr(work, name) for name in ("id", "state", "dataset_key", "created_at")}
    return Response(fields, status=202)


class DatasetClean(APIView):
    """POST: make a new version by a recipe, or say what it would do."""

    @described(
        "cleanDataset",
        summary="Make a new version by a recipe, or say what that would do",
        path=DATASET,
        query=CleanQuery,
        body=CleanBody,
        answers={200: DryRunAnswer, 202: Submitted},
        refused=(409, 507),
        example_query={"dry_run": "true"},
        example={"recipe": {"steps": [{"operation": "exact_duplicates"}]}},
    )
    def post(self, request: Request, key: str) -> Response:
        by = caller(request)
        require(by, May.MAKE)
        query = read_query(CleanQuery, request)
        dataset = get_dataset_for(by, key, may=May.READ)
        body = read_body(CleanBody, request.data)
        recipe = parse_recipe(body.recipe)
        parents = [dataset, *(get_dataset_for(by, other, may=May.READ) for other in body.parents)]
        if query.dry_run == "true":
            with searches.one_of(by.pk):
                return Response(dry_run(recipe, parents))
        return submitted(
            submit_derivation(
                recipe=recipe,
                parents=parents,
                name=body.name,
                version=body.version,
                description=body.description,
                by=by,
            )
        )


# --- overlaps -------------------------------------------------------------------------------------


class OverlapAnswer(Answer):
    other: str = Field(description="Key of the dataset that was compared.")
    learnt: int
    compared: int
    exact: int
    normalised: int
    ngram: int
    ngram_words: int
    containment: float
    examples: list[dict[str, Any]]
    dataset_fingerprint: str
    other_fingerprint: str
    computed_at: datetime


class OverlapList(Answer):
    data: list[OverlapAnswer]
    not_computed: list[str] = Field(description="What is worth knowing and not computed yet.")


class OverlapBody(Model):
    other: Name = Field(description="Key of the dataset to compare: its held-out part, or all.")


def overlap_answer(overlap: Overlap, reader: User) -> dict[str, Any]:
    without_places([overlap], reader)
    names = OverlapAnswer.model_fields.keys() - {"other"}
    return {name: getattr(overlap, name) for name in names} | {"other": overlap.other.dataset_key}


class DatasetOverlaps(APIView):
    """GET: which sets for evaluation overlap with what is learnt from a dataset, as far as it was
    computed. POST: have it computed."""

    @described(
        "listOverlaps",
        summary="Overlaps of other datasets with what is learnt from this one",
        description="Only what was computed; the greatest first, at most 1,000.",
        path=DATASET,
        answers={200: OverlapList},
    )
    def get(self, request: Request, key: str) -> Response:
        dataset = get_dataset_for(caller(request), key, may=May.READ)
        overlaps = overlaps_of(dataset)
        reader = caller(request)
        return Response(
            {
                "data": [overlap_answer(overlap, reader) for overlap in overlaps],
                "not_computed": known_about(dataset, overlaps)[1],
            }
        )

    @described(
        "computeOverlap",
        summary="Have the overlap with another dataset computed",
        description="Small datasets are compared at once (200), others by a process of its own.",
        path=DATASET,
        body=OverlapBody,
        answers={200: OverlapAnswer, 202: Submitted},
        refused=(409, 507),
        example={"other": "evals-v1"},
    )
    def post(self, request: Request, key: str) -> Response:
        by = caller(request)
        require(by, May.MAKE)
        dataset: Dataset = get_dataset_for(by, key, may=May.READ)
        body = read_body(OverlapBody, request.data)
        other = get_dataset_for(by, body.other, may=May.READ)
        if is_small(dataset, other):
            with searches.one_of(by.pk):
                return Response(overlap_answer(compute_overlap(dataset, other, by=by), by))
        return submitted(submit_overlap(dataset=dataset, other=other, by=by))


# --- differences ----------------------------------------------------------------------------------

CHANGES_MAX = 100


class DiffQuery(Model):
    to: Annotated[str, text] = Field(description="Key of the newer dataset.")


class DiffPageQuery(DiffQuery):
    change: Annotated[str | None, choice(CHANGES)] = Field(
        None, description="Only changes of this kind."
    )
    limit: Annotated[int, whole(1, CHANGES_MAX)] = Field(20, description="Changes of a page.")
    cursor: Annotated[After | None, read_by(decode_after)] = Field(
        None, description="``next_cursor`` of the page before."
    )


class CountsAnswer(Answer):
    changed: int = Field(description="The same question, or id in meta, with another content.")
    removed: int
    added: int
    moved: int = Field(description="The same example in the other part.")
    same: int


class ChangeAnswer(Answer):
    change: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


class DiffPagination(Answer):
    limit: int
    next_cursor: str | None = Field(description="null on the last page")


class DiffAnswer(Answer):
    old: str
    new: str
    counts: CountsAnswer
    data: list[ChangeAnswer]
    pagination: DiffPagination


class DatasetDiff(APIView):
    """GET: what differs between a dataset and a newer one."""

    @described(
        "diffDatasets",
        summary="What was added, removed, changed and moved between two datasets",
        description="By kind and position.",
        path=DATASET,
        query=DiffPageQuery,
        answers={200: DiffAnswer},
        example_query={"to": "evals-v1"},
    )
    def get(self, request: Request, key: str) -> Response:
        query = read_query(DiffPageQuery, request)
        old = get_readable_dataset(caller(request), key)
        new = get_readable_dataset(caller(request), query.to)
        with search(caller(request), "to"):
            found = compare(old, new, check=deadline("to"))
            changes, next_cursor = found.page(
                limit=query.limit, change=query.change, after=query.cursor
            )
        return Response(
            {
                "old": old.dataset_key,
                "new": new.dataset_key,
                "counts": asdict(found.counts),
                "data": [change_fields(change) for change in changes],
                "pagination": {"limit": query.limit, "next_cursor": next_cursor},
            }
        )


class DatasetDiffLines(APIView):
    """GET: all of what differs, as JSONL, streamed."""

    content_negotiation_class = OneForm

    @described(
        "downloadDiff",
        summary="All changes between two datasets, one JSON object a line",
        path=DATASET,
        query=DiffQuery,
        answers={200: Content(("application/x-ndjson",))},
        example_query={"to": "evals-v1"},
    )
    def get(self, request: Request, key: str) -> StreamingHttpResponse:
        query = read_query(DiffQuery, request)
        old = get_readable_dataset(caller(request), key)
        new = get_readable_dataset(caller(request), query.to)
        response = StreamingHttpResponse(
            in_pieces(change_lines(old, new)), content_type="application/x-ndjson; charset=utf-8"
        )
        name = f"{old.dataset_key}..{new.dataset_key}.jsonl"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response
