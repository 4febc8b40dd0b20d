"""What the API of traces and datasets answers; tests compare every answer with them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field, RootModel

from datasets.models import ImportPhase, ImportState, Kind
from tunixrt.api.schema import Answer, Pagination


class Receipt(Answer):
    """What the sender of a trace needs to keep."""

    id: UUID
    created_at: datetime
    trace_version: str


class ReceiptList(RootModel[list[Receipt]]):
    """One for each trace, in their order."""


class Step(Answer):
    i: int
    type: str
    content: str


class TraceAnswer(Answer):
    id: UUID
    kind: Kind
    prompt: str
    steps: list[Step]
    final_answer: str
    meta: dict[str, Any]
    trace_version: str
    created_at: datetime
    content: dict[str, Any] | None = Field(
        description="Of an example that is no trace: its messages, or the sides of a pair."
    )
    erased_at: datetime | None = Field(
        description="Since when its content is gone; null: it is there."
    )
    archived_at: datetime | None = Field(description="Hidden from lists since; null: in use.")
    sealed_at: datetime | None = Field(
        description="In a sealed dataset since, and read by operators alone; null: in none."
    )


class TracePage(Answer):
    data: list[TraceAnswer]
    pagination: Pagination
    not_indexed: int | None = Field(
        description="About how many examples a search by words cannot find yet; null without one."
    )


class DatasetRow(Answer):
    dataset_key: str = Field(description="name-version")
    name: str
    version: str
    description: str
    kind: Kind = Field(description="Of its examples.")
    size: int = Field(description="Examples in all.")
    held_out_size: int = Field(description="Examples held out from training.")
    erased_size: int = Field(
        description="Examples whose content was erased; they are counted above."
    )
    format: str
    created_at: datetime
    fingerprint: str = Field(description="Of the content; equal datasets have the same.")
    archived_at: datetime | None = Field(description="Hidden from lists since; null: in use.")
    sealed_at: datetime | None = Field(
        description="Since then only operators read its examples; null: everybody does."
    )


class Manifest(DatasetRow):
    stats: dict[str, Any]
    provenance: dict[str, Any]
    licence: str
    source: str


class ImportAnswer(Answer):
    id: UUID
    dataset_key: str
    state: ImportState
    phase: ImportPhase
    source: dict[str, Any]
    request: dict[str, Any]
    bytes_total: int | None = Field(description="Of the source.")
    bytes_read: int
    examples_read: int
    examples_stored: int
    lines_skipped: int
    problem: str = Field(description="Why it failed.")
    detail: dict[str, Any] = Field(description="What a request in its place would have been told.")
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ImportPage(Answer):
    data: list[ImportAnswer]
    pagination: Pagination


class DatasetPage(Answer):
    data: list[DatasetRow]
    pagination: Pagination
