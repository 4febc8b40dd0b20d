"""The query parameters of the API of runs."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Self

from django.contrib.auth.models import User
from pydantic import Field, model_validator

from runs.execution import looking
from runs.live.stream import Position
from runs.models import RunMode, RunStatus
from runs.queries import artifacts, filters, log_search, logs
from runs.queries.selection import Selection, parse_moment
from runs.services.measurements import NAME_MAX_LENGTH
from runs.spec.kinds import DEFAULT_KIND, KINDS, kind_names
from tunixrt.api.query import (
    CURSOR,
    OFFSET_MAX,
    choice,
    parse_choice,
    parse_text,
    read_by,
    text,
    whole,
)
from tunixrt.cursors import Cursor, decode_uuid_cursor
from tunixrt.reading import Model
from tunixrt.refusals import InvalidQuery
from tunixrt.terms import Term

PAGE_DEFAULT, PAGE_MAX = 20, 100
_LENGTH, _TOO_LONG, _STYLE = (
    KINDS[DEFAULT_KIND].parameters[name] for name in ("max_seq_length", "too_long", "prompt_style")
)
LOG_LIMIT_DEFAULT = 1 << 18
TAIL_LINES_MAX = 10_000
MATCHES_DEFAULT = 100
POINTS_DEFAULT, POINTS_MIN, POINTS_MAX = 500, 10, 5000
NAMES_MAX = 50
ARTIFACTS_DEFAULT = 1000
STEP_MAX = 2**31 - 1
MOMENT = "A date, or a date and time (UTC unless it says otherwise)."


class SubmitQuery(Model):
    mode: Annotated[str, choice(["async", "sync"])] = Field(
        "sync", description="async: queue the run and answer at once."
    )


def _parse_kind(given: str) -> str:
    return parse_choice(list(kind_names()))(given)


class RunListQuery(Model):
    limit: Annotated[int, whole(1, PAGE_MAX)] = Field(PAGE_DEFAULT, description="Rows of a page.")
    offset: Annotated[int, whole(0, OFFSET_MAX)] = Field(0, description="Rows to pass over.")
    cursor: Annotated[Cursor[uuid.UUID] | None, read_by(decode_uuid_cursor)] = Field(
        None, description=CURSOR
    )
    order: Annotated[str, choice(["newest", "oldest"])] = Field(
        "newest", description="By creation."
    )
    q: Annotated[
        list[Term], read_by(lambda given: filters.parse(parse_text(given)), maxLength=256)
    ] = Field([], description="Text in the filter language (docs/filters.md).")
    status: Annotated[str | None, choice(RunStatus.values)] = None
    kind: Annotated[str | None, read_by(_parse_kind, enum=list(kind_names()))] = Field(
        None, description="null: trainings of any kind."
    )
    mode: Annotated[str | None, choice(RunMode.values)] = None
    dataset_key: Annotated[str | None, text] = None
    model_id: Annotated[str | None, text] = None
    owner: Annotated[str | None, text] = Field(None, description="Name of an account.")
    tag: Annotated[str | None, text] = None
    after: Annotated[datetime | None, read_by(parse_moment, examples=["2026-11-01"])] = Field(
        None, description=f"Created then or later. {MOMENT}"
    )
    before: Annotated[datetime | None, read_by(parse_moment, examples=["2026-12-01"])] = Field(
        None, description=f"Created earlier. {MOMENT}"
    )

    def selection(self, *, by: User) -> Selection:
        return Selection(
            status=self.status,
            kind=self.kind,
            mode=self.mode,
            dataset_key=self.dataset_key,
            model_id=self.model_id,
            owner=self.owner,
            tag=self.tag,
            after=self.after,
            before=self.before,
            extra=filters.condition(self.q, by=by),
            reads_all=filters.reads_all(self.q),
            names_kind=filters.names_kind(self.q),
        )


def _parse_needle(given: str) -> str:
    if len(given) > log_search.NEEDLE_MAX_CHARACTERS:
        raise ValueError(f"must have at most {log_search.NEEDLE_MAX_CHARACTERS} characters.")
    if "\n" in given:
        raise ValueError("must not hold a line break: lines are searched one by one.")
    return given


NEEDLE = read_by(_parse_needle, maxLength=log_search.NEEDLE_MAX_CHARACTERS)
FLAG = choice(["0", "1"])


class LogPartQuery(Model):
    stream: Annotated[str, choice(logs.LOGS)] = Field("stdout", description="Which log.")
    offset: Annotated[int | None, whole(0, OFFSET_MAX)] = Field(
        None, description="Bytes to pass over."
    )
    limit: Annotated[int, whole(1, logs.CHUNK_MAX_BYTES)] = Field(
        LOG_LIMIT_DEFAULT, description="Bytes at most."
    )
    tail_lines: Annotated[int | None, whole(1, TAIL_LINES_MAX)] = Field(
        None, description="So many of the last lines instead."
    )
    before: Annotated[int | None, whole(0, OFFSET_MAX)] = Field(
        None, description="With tail_lines: the lines that end at this byte."
    )
    line_numbers: Annotated[str, FLAG] = Field("0", description="1: count lines.")

    @model_validator(mode="after")
    def fits(self) -> Self:
        errors = {}
        if self.tail_lines and self.offset is not None:
            errors["offset"] = ["does not go with tail_lines."]
        if self.before is not None and not self.tail_lines:
            errors["before"] = ["needs tail_lines."]
        if errors:
            raise InvalidQuery(errors)
        return self


class LogSearchQuery(Model):
    stream: Annotated[str, choice(logs.LOGS)] = Field("stdout", description="Which log.")
    search: Annotated[str, NEEDLE] = Field("", description="Text that lines hold.")
    offset: Annotated[int, whole(0, OFFSET_MAX)] = Field(0, description="Bytes to pass over.")
    matches: Annotated[int, whole(1, log_search.MATCHES_MAX)] = Field(
        MATCHES_DEFAULT, description="Lines at most."
    )
    line_numbers: Annotated[str, FLAG] = Field("0", description="1: count lines.")

    @model_validator(mode="after")
    def fits(self) -> Self:
        if not self.search:
            raise InvalidQuery({"search": ["must not be empty."]})
        return self


def _parse_names(values: Any) -> list[str]:
    names = list(dict.fromkeys(values))
    if len(names) > NAMES_MAX:
        raise ValueError(f"may be given {NAMES_MAX} times at most.")
    if any(len(name) > NAME_MAX_LENGTH for name in names):
        raise ValueError(f"must have at most {NAME_MAX_LENGTH} characters, none of them NUL.")
    return names


class MetricsQuery(Model):
    name: Annotated[
        list[str],
        read_by(
            _parse_names,
            type="array",
            maxItems=NAMES_MAX,
            items={"type": "string", "maxLength": NAME_MAX_LENGTH},
        ),
    ] = Field([], description="Series whose curves to give; none: which series there are.")
    points: Annotated[int, whole(POINTS_MIN, POINTS_MAX)] = Field(
        POINTS_DEFAULT, description="Points of a curve at most; no spike is lost."
    )
    from_step: Annotated[int | None, whole(0, STEP_MAX)] = None
    to_step: Annotated[int | None, whole(0, STEP_MAX)] = None
    chain: Annotated[str, FLAG] = Field(
        "0", description="1: with the runs that this one resumes from."
    )

    @model_validator(mode="after")
    def fits(self) -> Self:
        if (
            self.from_step is not None
            and self.to_step is not None
            and self.from_step > self.to_step
        ):
            raise InvalidQuery({"from_step": ["must not be greater than to_step."]})
        return self


class EventsQuery(Model):
    from_: Annotated[Position | None, read_by(Position.decode, examples=["o0.e0.m0"])] = Field(
        None, alias="from", description="Where to continue: the id of an event (docs/live.md)."
    )


class LengthsQuery(Model):
    """Which model's tokens, and what a training is asked about long examples."""

    model_id: Annotated[str, text] = Field(
        description="preset:<name>, or a folder inside TUNIX_MODEL_ROOTS."
    )
    max_seq_length: Annotated[int, whole(int(_LENGTH.minimum or 0), int(_LENGTH.maximum or 0))] = (
        Field(_LENGTH.default, description="Tokens of the longest sequence.")
    )
    prompt_style: Annotated[str, choice(_STYLE.choices)] = Field(
        _STYLE.default, description=_STYLE.help
    )


class RenderedQuery(LengthsQuery):
    too_long: Annotated[str, choice(_TOO_LONG.choices)] = Field(
        _TOO_LONG.default, description=_TOO_LONG.help
    )
    row: Annotated[int, whole(0, looking.ROWS_MAX)] = Field(
        0, description="Which row to show, where a conversation becomes several."
    )
    start: Annotated[int, whole(0, OFFSET_MAX)] = Field(0, description="Tokens to pass over.")
    count: Annotated[int, whole(1, looking.TOKENS_MAX)] = Field(
        looking.TOKENS_DEFAULT, description="Tokens to show at most."
    )


class ArtifactsQuery(Model):
    limit: Annotated[int, whole(1, artifacts.LISTED_MAX)] = Field(
        ARTIFACTS_DEFAULT, description="Files at most."
    )
