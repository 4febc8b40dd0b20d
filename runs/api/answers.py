"""What the API of runs answers. Tests compare every answer with them
(tunixrt/tests/answers.py); nothing is checked while serving."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from runs.models import RunMode, RunStatus
from tunixrt.api.schema import Answer, Pagination

NAME = "What people call the run; need not be unique."

# [from, to, examples]; a tuple would be `prefixItems`, which not every reader of schemas knows
Class = Annotated[list[int], Field(min_length=3, max_length=3)]


class Memory(Answer):
    needed_bytes: int | None
    available_bytes: int | None
    parts: dict[str, int]


class Smoke(Answer):
    loss: float | None
    grad_norm: float | None
    seconds: float | None
    memory_bytes: float | None


class Plan(Answer):
    """What the training would be, by a dry run with depth. Null is what was not said."""

    examples: int | None
    held_out: int | None
    tokens: int | None
    answer_tokens: int | None
    dropped: int | None
    split: int | None
    truncated: int | None
    truncated_share: float | None
    histogram: list[Class] = Field(description="[from, to, examples]; in tokens.")
    steps: int | None
    steps_per_epoch: int | None
    epochs: float | None
    rows_per_step: int | None
    row_lengths: list[int]
    padding_share: float | None
    parameters: int | None
    trainable_parameters: int | None
    dtype: str | None
    backend: str | None
    devices: int | None
    memory: Memory
    smoke: Smoke | None
    sentences: list[str]
    warnings: list[str]


class RunAnswer(Answer):
    """Everything about a run."""

    run_id: UUID
    name: str = Field(description=NAME)
    status: RunStatus
    kind: str
    mode: RunMode = Field(description="dry-run, or the engine that trains.")
    dataset_key: str
    model_id: str
    output_dir: str = Field(description="Relative to the output root.")
    exit_code: int | None = Field(description="null: never started, timed out, failed dry run.")
    stdout: str = Field(description="The end of it.")
    stderr: str = Field(description="The end of it.")
    duration_seconds: float | None
    started_at: datetime | None
    completed_at: datetime | None
    message: str
    created_at: datetime
    queued_at: datetime | None
    config: dict[str, Any] = Field(description="The whole request.")
    priority: int
    attempt: int = Field(description="Place in a chain of retries.")
    notes: str
    pinned: bool
    timeout_seconds: float | None
    resume: bool
    extend_from_step: int | None
    step: int | None
    total_steps: int | None
    last_loss: float | None
    summary: Any = Field(description="What the training program says at its end.")
    client_request_id: str | None
    retry_of: UUID | None
    resume_from: UUID | None = Field(description="The run whose checkpoint this one starts from.")
    owner: str | None
    tags: list[str]
    host: str | None
    warnings: list[str] = Field(description="What is allowed and worth knowing; sentences.")
    plan: Plan | None


class RunRow(Answer):
    """The essentials of a run."""

    run_id: UUID
    name: str = Field(description=NAME)
    dataset_key: str
    model_id: str
    kind: str
    mode: RunMode
    status: RunStatus
    started_at: datetime | None
    duration_seconds: float | None


class RunPage(Answer):
    data: list[RunRow]
    pagination: Pagination


class RunStatusAnswer(Answer):
    """What a poller needs."""

    run_id: UUID
    name: str = Field(description=NAME)
    status: RunStatus
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    exit_code: int | None


class Trashed(Answer):
    trashed: Literal[True]


class RuntimeAnswer(Answer):
    """Whether the training runtime is on the host that answers."""

    available: bool
    version: str | None
    runtime_required: bool
    message: str


class LogPart(Answer):
    """Part of a log. Give ``next_offset`` back as ``offset`` to read on."""

    stream: str
    offset: int
    next_offset: int
    size: int = Field(description="Of the whole log, in bytes.")
    complete: bool = Field(description="Nothing will be added.")
    text: str
    first_line: int | None = Field(None, description="Only with line_numbers=1.")


class LogMatch(Answer):
    offset: int
    line: int | None
    text: str


class LogMatches(Answer):
    """Lines of a log that hold a text."""

    stream: str
    search: str
    offset: int
    next_offset: int
    size: int
    complete: bool
    matches: list[LogMatch]


class Attempt(Answer):
    """One run of a chain of retries and extensions."""

    run_id: UUID
    name: str
    attempt: int
    status: RunStatus
    first_step: int | None
    to_step: int | None


class Series(Answer):
    """One series of a run, without its points."""

    name: str
    count: int
    first: float | None = Field(description="null: not a finite number")
    last: float | None = Field(description="null: not a finite number")
    minimum: float | None = Field(description="Of the finite values.")
    maximum: float | None = Field(description="Of the finite values.")
    last_step: int


class SeriesList(Answer):
    """Which series there are."""

    run_id: UUID
    name: str
    data: list[Series]
    metrics_offset: int
    attempts: list[Attempt] = Field([], description="Only with chain=1.")


class Curve(Answer):
    name: str
    count: int
    bucket: int = Field(description="Measured points in a bucket; 1: all are here.")
    steps: list[int]
    times: list[float]
    values: list[float | Literal["NaN", "Infinity", "-Infinity"]]


class Curves(Answer):
    """The curves of the series that were named."""

    run_id: UUID
    name: str
    data: list[Curve]
    metrics_offset: int
    attempts: list[Attempt] = Field([], description="Only with chain=1.")


class Artifact(Answer):
    path: str
    size: int
    modified: datetime
    kind: Literal["checkpoint", "model", "log", "manifest", "dataset", "other"]
    removable: bool


class ArtifactList(Answer):
    data: list[Artifact]
    truncated: bool


class Removed(Answer):
    removed: str
    bytes_freed: int


class RowTotals(Answer):
    """A row of a rendered example: all of it, or what stands up to some of its answers."""

    side: Literal["", "chosen", "rejected"] = Field(description="Of a pair.")
    tokens: int
    learnt: int = Field(description="Tokens that are learnt; 0 of a prompt.")
    kept: int = Field(description="Tokens that max_seq_length leaves.")
    kept_learnt: int
    sequences: int = Field(description="Sequences that a training makes of it.")


class ShownToken(Answer):
    id: int
    text: str = Field(description="What it adds to the text.")
    skipped: str = Field(description="Text before it that no token stands for.")
    control: bool = Field(description="A control token, not text that looks like one.")
    learnt: bool
    kept: bool = Field(description="Within max_seq_length.")


class ShownTokens(Answer):
    side: Literal["", "prompt", "chosen", "rejected"] = Field(
        description="Of a pair; prompt: what both answers begin with."
    )
    start: int
    more: int = Field(description="Tokens behind those that are shown.")
    tokens: list[ShownToken]


class RefusedSide(Answer):
    side: Literal["", "chosen", "rejected"]
    detail: str


class Rendered(Answer):
    """An example as the model will see it."""

    notes: list[str] = Field(description="What people should know of tokenizer and template.")
    problems: list[RefusedSide] = Field(description="Why a training refuses the example.")
    rows: list[RowTotals]
    blocks: list[ShownTokens] = Field(description="Tokens of the row that was asked for.")


class CountedLengths(Answer):
    """Lengths of examples in tokens."""

    size: int = Field(description="Examples of the dataset.")
    examples: int = Field(description="Examples that were counted, drawn at random.")
    refused: int = Field(description="Further examples that a training refuses.")
    reasons: list[str] = Field(description="Why it refuses some of them.")
    longer: int = Field(description="Examples that are longer than max_seq_length.")
    longest: int
    tokens: int
    learnt: int
    histogram: list[Class] = Field(description="[from, to, examples]; in tokens.")
    notes: list[str]
