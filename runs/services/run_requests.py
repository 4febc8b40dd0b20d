"""The fields of a run request, validated strictly. API, form, command line,
retry and clone use it."""

import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import ErrorDetails

from runs.services.scorer_files import with_hashes
from runs.spec.evaluation import GENERATE, settings_problems
from runs.spec.families import PRESETS, bare_name_problem, family_of_hub_id, preset_names
from runs.spec.kinds import DEFAULT_KIND, EVALUATE, KINDS, Kind, kind_named, kind_names
from runs.spec.naming import NAME_MAX_LENGTH
from runs.spec.parameters import SHARED, Parameter
from runs.spec.scorers import choose
from runs.spec.wording import not_a_number
from tunixrt.addresses import problem_with
from tunixrt.readable import name_problem
from tunixrt.reading import NOT_AN_OBJECT, UNKNOWN, UNSTORABLE_TEXT, Model, storable, try_body
from tunixrt.refusals import Refusal

KEY_MAX_LENGTH = 256
TAG_MAX_LENGTH = 64
TAGS_MAX = 20
NOTES_MAX_LENGTH = 20_000
CLIENT_REQUEST_ID_MAX_LENGTH = 255
PRIORITY_RANGE = (-100, 100)
TIMEOUT_RANGE = (1, 31_536_000)  # seconds: up to a year
AUTO_RETRY_MAX = 10
HIDDEN_PREFIX = "."
OUTPUT_DIR_MAX_BYTES = 1000  # its unique index takes some 2,700 bytes on PostgreSQL

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_STEP = re.compile(r"[1-9][0-9]{0,8}")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class InvalidRequest(Refusal):
    """A request that cannot be taken. ``errors`` maps each field to its messages."""

    def __init__(self, errors: dict[str, list[str]]):
        self.errors = errors
        super().__init__(messages=errors)


@dataclass(frozen=True)
class ModelReference:
    """What a ``model_id`` names. ``kind``: preset, folder, hub or run; ``path`` of a folder is
    resolved. ``run_id`` and ``step``: of the run whose model it is, and of its checkpoint; which
    files those are, runs/services/subjects.py says."""

    model_id: str
    kind: str
    path: Path | None = None
    family: str | None = None
    problem: str | None = None
    warning: str | None = None
    run_id: uuid.UUID | None = None
    step: int | None = None


@dataclass(frozen=True)
class RunRequest:
    """A request whose every field is of its type and in its range."""

    dataset_key: str
    model: ModelReference
    output_dir: str | None = None
    kind: str = DEFAULT_KIND
    dry_run: bool = True
    training: dict[str, Any] = field(default_factory=KINDS[DEFAULT_KIND].defaults)
    smoke: bool = False
    preflight: str = "quick"
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str = ""
    priority: int = 0
    timeout_seconds: float | None = None
    auto_retry: int = 0
    webhook_url: str = ""
    client_request_id: str | None = None
    evaluate_on: tuple[dict[str, Any], ...] = ()
    # of an evaluation: ids of others
    baseline: str | None = None
    outputs_from: str | None = None
    reuse: bool = True

    def as_config(self) -> dict[str, Any]:
        """Return the whole request as JSON, enough to run it again; ``clean_request`` takes it
        back. Leave out the name where none was given, and the kind where it is the default: a
        repeated request is recognised by this, including one that was stored before there were
        kinds."""
        return {
            **({} if self.name is None else {"name": self.name}),
            **({} if self.kind == DEFAULT_KIND else {"kind": self.kind}),
            "dataset_key": self.dataset_key,
            "model_id": self.model.model_id,
            "output_dir": self.output_dir,
            "dry_run": self.dry_run,
            **self.training,
            "smoke": self.smoke,
            "preflight": self.preflight,
            "tags": list(self.tags),
            "notes": self.notes,
            "priority": self.priority,
            "timeout_seconds": self.timeout_seconds,
            "auto_retry": self.auto_retry,
            "webhook_url": self.webhook_url,
            **({"evaluate_on": list(self.evaluate_on)} if self.evaluate_on else {}),
            **(
                {name: getattr(self, name) for name in ("baseline", "outputs_from", "reuse")}
                if self.kind == EVALUATE.name
                else {}
            ),
        }


def resolve_model(model_id: Any) -> ModelReference:
    """Return what ``model_id`` names, if it may be named. Read the file system for folders, never a
    network.

    Raises:
        ValueError: not a preset, not a run, not a folder inside TUNIX_MODEL_ROOTS, not a hub id.
    """
    if not isinstance(model_id, str):
        raise ValueError("This field must be text.")
    if not 1 <= len(model_id) <= KEY_MAX_LENGTH:
        raise ValueError(f"This field must have 1 to {KEY_MAX_LENGTH} characters.")
    if _CONTROL.search(model_id):
        raise ValueError("This field must not hold control characters.")
    if model_id.startswith("preset:"):
        name = model_id.removeprefix("preset:")
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; presets: {', '.join(preset_names())}.")
        return ModelReference(model_id, "preset", family=PRESETS[name]["model_type"])
    if model_id.startswith("run:"):
        return _model_of_run(model_id)
    if model_id.startswith(("/", "./")):
        path = _resolved(settings.BASE_DIR / model_id)
        if path is None or not any(
            path.is_relative_to(root) and path != root for root in settings.TUNIX_MODEL_ROOTS
        ):
            raise ValueError(
                "A model folder must lie inside one of the folders that TUNIX_MODEL_ROOTS names."
            )
        return ModelReference(model_id, "folder", path=path)
    if ".." in model_id or not _HUB_ID.fullmatch(model_id):
        raise ValueError(
            "This field must be preset:<name>, run:<run id>, a folder inside TUNIX_MODEL_ROOTS"
            " (absolute or starting with ./), or a hub id such as google/gemma-2b-it."
        )
    family, problem = family_of_hub_id(model_id)
    problem = problem or bare_name_problem(model_id)
    warning = None
    if folder := _folder_of_that_name(model_id):
        if problem or folder == f"./{model_id}":
            problem = (
                f"{problem or f'{model_id} is read as a hub id'}. Did you mean the folder {folder}?"
            )
        else:
            warning = f"{model_id} is read as a hub id; the folder of that name is {folder}."
    return ModelReference(model_id, "hub", family=family, problem=problem, warning=warning)


def _model_of_run(model_id: str) -> ModelReference:
    run_id, at, step = model_id.removeprefix("run:").partition("@")
    if not _is_uuid(run_id) or (at and not _STEP.fullmatch(step)):
        raise ValueError(
            "The model of a run is run:<run id>, and that of a checkpoint run:<run id>@<step>."
        )
    model_id = model_id.lower()
    return ModelReference(model_id, "run", run_id=uuid.UUID(run_id), step=int(step) if at else None)


def _folder_of_that_name(name: str) -> str | None:
    """Return the ``model_id`` of the folder that a bare name probably refers to."""
    for folder in (settings.BASE_DIR / name, *(root / name for root in settings.TUNIX_MODEL_ROOTS)):
        if os.path.isdir(folder) and any(
            folder.is_relative_to(root) and folder != root for root in settings.TUNIX_MODEL_ROOTS
        ):
            return (
                f"./{folder.relative_to(settings.BASE_DIR)}"
                if folder.is_relative_to(settings.BASE_DIR)
                else str(folder)
            )
    return None


def clean_output_dir(value: Any, *, kept: Any = None) -> str | None:
    """Return a folder relative to the output root, normalised; None where the run id is to name it.

    Raises:
        ValueError: outside the root, hidden, or not a name a file system takes.
    """
    if not isinstance(value, str):
        raise ValueError("This field must be text.")
    if _CONTROL.search(value) or "\\" in value:
        raise ValueError("A folder name must not hold control characters or backslashes.")
    path = PurePosixPath(value.strip().removeprefix("./output/"))
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == ("~",):
        raise ValueError(
            "The folder must lie inside the output root: a relative path without '..'."
        )
    if any(
        name.startswith(HIDDEN_PREFIX)
        for part in path.parts
        for name in (part, comparable_name(part))
    ):
        raise ValueError("Folder names must not start with a dot.")
    if (
        any(len(part.encode()) > 255 for part in path.parts)
        or len(str(path).encode()) > OUTPUT_DIR_MAX_BYTES
    ):
        raise ValueError(
            f"The path is too long: at most 255 bytes a name and {OUTPUT_DIR_MAX_BYTES} bytes in"
            " all."
        )
    if value != kept and (problem := name_problem("".join(path.parts))):
        raise ValueError(f"A folder name {problem}.")
    if not path.parts:
        return None
    folder = settings.TUNIX_OUTPUT_ROOT / path
    # outside the root, or into the folder of another run under a second name
    if _resolved(folder) != folder:
        raise ValueError(
            "The folder must lie inside the output root, and no part of it may be a symbolic link."
        )
    if _is_uuid(comparable_name(path.parts[0])):
        raise ValueError(
            "A run id cannot be used as a folder name: those folders belong to their runs."
        )
    return str(path)


def comparable_name(name: str) -> str:
    """Return ``name`` in a form that is equal for names that some file system takes for the same.

    That is Unicode's canonical caseless matching (The Unicode Standard, D145), without characters
    that are not shown, which a case-insensitive ext4 ignores, and without trailing dots and blanks,
    which SMB ignores.
    """
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return "".join(
        character for character in folded if unicodedata.category(character) != "Cf"
    ).rstrip(". ")


def _resolved(path: Path) -> Path | None:
    """Return ``path`` without symbolic links; None if they lead in a circle."""
    try:
        return path.resolve()
    except (RuntimeError, OSError):  # before Python 3.13 a circle is a RuntimeError
        return None


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def clean_tags(value: Any, *, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Return tags without repeats, in their order; those that are ``kept`` may be unreadable. Raise
    ValueError."""
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise ValueError("Tags must be a list of texts.")
    tags = tuple(dict.fromkeys(tag.strip() for tag in value))
    if len(tags) > TAGS_MAX:
        raise ValueError(f"A run has at most {TAGS_MAX} tags, not {len(tags)}.")
    for tag in tags:
        if not 1 <= len(tag) <= TAG_MAX_LENGTH or _CONTROL.search(tag):
            raise ValueError(
                f"A tag has 1 to {TAG_MAX_LENGTH} characters and no control characters."
            )
        if tag not in kept and (problem := name_problem(tag)):
            raise ValueError(f"A tag {problem}.")
    return tags


def clean_name(value: Any, *, kept: Collection[str] = ()) -> str:
    """Return a run's name without blanks around it; one that is ``kept`` may be unreadable. Raise
    ValueError."""
    name = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(name) <= NAME_MAX_LENGTH or _CONTROL.search(name):
        raise ValueError(
            f"A name is text of 1 to {NAME_MAX_LENGTH} characters without control characters."
        )
    if name not in kept and (problem := name_problem(name)):
        raise ValueError(f"A name {problem}.")
    return name


def clean_notes(value: Any) -> str:
    if not isinstance(value, str) or len(value) > NOTES_MAX_LENGTH or UNSTORABLE_TEXT.search(value):
        raise ValueError(f"Notes must be text of at most {NOTES_MAX_LENGTH:,} characters.")
    return value


def clean_client_request_id(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= CLIENT_REQUEST_ID_MAX_LENGTH
        or _CONTROL.search(value)
    ):
        raise ValueError(
            f"This field must be text of 1 to {CLIENT_REQUEST_ID_MAX_LENGTH} characters."
        )
    return value


def clean_webhook_url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("This field must be text.")
    if not value:
        return ""
    try:
        URLValidator(schemes=["http", "https"])(value)
    except ValidationError as error:
        raise ValueError(_what_is_wrong_with(value)) from error
    return value


def _what_is_wrong_with(address: str) -> str:
    sentence = "This field must be an http or https address."
    try:
        parts = urlsplit(address)
    except ValueError:
        return sentence
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return sentence
    host = f"Its host {parts.hostname!r} is neither a full name nor an address in full."
    return f"{sentence} {problem_with(address, allow_private=True) or host}"


# --- the bodies -----------------------------------------------------------------------------------

# The context of a validation: what stays as it is although it would be refused now.
NOTHING_KEPT: dict[str, Any] = {"names": (), "output_dir": None}
_NUMBERS = ("int_type", "int_from_float", "float_type")


def _keeping(clean: Callable[..., Any]) -> PlainValidator:
    """Return a validator that hands ``clean`` the names that a run has already."""

    def read(value: Any, info: ValidationInfo) -> Any:
        return clean(value, kept=(info.context or NOTHING_KEPT)["names"])

    return PlainValidator(read)


def _read_output_dir(value: Any, info: ValidationInfo) -> Any:
    return clean_output_dir(value, kept=(info.context or NOTHING_KEPT)["output_dir"])


EVALUATE_ON_MAX = 10
_EVALUATE_ON = {
    "type": "array",
    "maxItems": EVALUATE_ON_MAX,
    "items": {"anyOf": [{"type": "string"}, {"type": "object"}]},
}


def _read_evaluate_on(value: Any) -> tuple[dict[str, Any], ...]:
    """Return the requests for evaluations; each is checked as one for some model."""
    if not isinstance(value, list | tuple) or len(value) > EVALUATE_ON_MAX:
        raise ValueError(
            f"This field must be a list of at most {EVALUATE_ON_MAX} dataset keys or requests."
        )
    asked = [{"dataset_key": one} if isinstance(one, str) else one for one in value]
    for number, one in enumerate(asked, 1):
        given = {"kind": EVALUATE.name, "dry_run": False, "model_id": "preset:tiny-llama"}
        if not isinstance(one, dict) or given.keys() & one.keys():
            raise ValueError(
                f"Evaluation {number}: must be a dataset key, or an object without kind, dry_run"
                " and model_id."
            )
        try:
            clean_request(given | one)
        except InvalidRequest as error:
            name, (problem, *_) = next(iter(error.errors.items()))
            raise ValueError(f"Evaluation {number}: {name}: {problem}") from error
    return tuple(asked)


def _read_id(value: Any) -> str:
    if not isinstance(value, str) or not _is_uuid(value):
        raise ValueError("This field must be the id of an evaluation.")
    return value.lower()


def _text(longest: int, shortest: int = 0) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": shortest, "maxLength": longest})


Name = Annotated[Any, _keeping(clean_name), _text(NAME_MAX_LENGTH, 1)]
Tags = Annotated[
    Any,
    _keeping(clean_tags),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": TAGS_MAX,
            "items": {"type": "string", "minLength": 1, "maxLength": TAG_MAX_LENGTH},
        }
    ),
]
EvaluationId = Annotated[
    Any, PlainValidator(_read_id), WithJsonSchema({"type": "string", "format": "uuid"})
]
Notes = Annotated[Any, PlainValidator(clean_notes), _text(NOTES_MAX_LENGTH)]


class RunBody(Model):
    """What may be asked of a run of any kind; ``run_body`` adds the parameters of one."""

    dataset_key: Annotated[
        str, Field(min_length=1, max_length=KEY_MAX_LENGTH), AfterValidator(storable)
    ] = Field(description="Key of a dataset.")
    model_id: Annotated[Any, PlainValidator(resolve_model), _text(KEY_MAX_LENGTH, 1)] = Field(
        description="preset:<name>, run:<run id> or run:<run id>@<step>, a folder inside"
        " TUNIX_MODEL_ROOTS (absolute or starting with ./), or a hub id such as google/gemma-2b-it."
    )
    output_dir: (
        Annotated[Any, PlainValidator(_read_output_dir), WithJsonSchema({"type": "string"})] | None
    ) = Field(None, description="Folder below the output root; null: named by the run id.")
    kind: str = Field(DEFAULT_KIND, description="The kind of run.")
    dry_run: bool = Field(True, description="Check everything and start nothing.")
    smoke: bool = Field(False, description="A dry run also trains one step, and keeps nothing.")
    preflight: Literal["quick", "full"] = Field(
        "quick", description="How deep a dry run looks; full: tokens, steps and memory."
    )
    name: Name | None = Field(None, description="What people call the run; null: one is made.")
    tags: Tags | None = Field(None, description="Names to find the run by.")
    notes: Notes | None = Field(None, description="Markdown.")
    priority: Annotated[int, Field(ge=PRIORITY_RANGE[0], le=PRIORITY_RANGE[1])] = Field(
        0, description="Higher starts earlier."
    )
    timeout_seconds: (
        Annotated[float, Field(ge=TIMEOUT_RANGE[0], le=TIMEOUT_RANGE[1], allow_inf_nan=False)]
        | None
    ) = Field(None, description="Seconds of training; null: only the system's limit.")
    auto_retry: Annotated[int, Field(ge=0, le=AUTO_RETRY_MAX)] = Field(
        0, description="Tries after a training was lost with its process or its host."
    )
    webhook_url: (
        Annotated[
            Any,
            PlainValidator(clean_webhook_url),
            WithJsonSchema({"type": "string", "maxLength": 2048}),
        ]
        | None
    ) = Field(None, description="Is told when the run ends.")
    client_request_id: (
        Annotated[
            Any,
            PlainValidator(clean_client_request_id),
            _text(CLIENT_REQUEST_ID_MAX_LENGTH, 1),
        ]
        | None
    ) = Field(None, description="The same id again is answered with the first run.")


class TrainingBody(RunBody):
    """What may be asked of a training besides."""

    evaluate_on: (
        Annotated[Any, PlainValidator(_read_evaluate_on), WithJsonSchema(_EVALUATE_ON)] | None
    ) = Field(
        None,
        description="Evaluations of its model, queued when the training has completed: keys of"
        " datasets, or requests for evaluations without model_id.",
    )


class EvaluationBody(RunBody):
    """What may be asked of an evaluation besides."""

    baseline: EvaluationId | None = Field(
        None, description="The evaluation of the same questions that it is compared with."
    )
    outputs_from: EvaluationId | None = Field(
        None,
        description="Score the stored outputs of that evaluation; everything but scorers is its.",
    )
    reuse: bool = Field(
        True,
        description="Take the outputs of an earlier evaluation with equal model, questions and"
        " settings, where there is one.",
    )


_bodies: dict[str, tuple[Kind, type[RunBody]]] = {}


def run_body(kind: Kind) -> type[RunBody]:
    """Return the model of a request for a run of one kind, made of the table of its parameters."""
    made = _bodies.get(kind.name)
    if made is None or made[0] is not kind:
        fields: dict[str, Any] = {
            name: (parameter_type(parameter), Field(parameter.default, description=parameter.help))
            for name, parameter in kind.parameters.items()
        }
        fields["kind"] = (
            Literal[kind.name],
            Field(kind.name, description=RunBody.model_fields["kind"].description),
        )
        title = f"{kind.name.capitalize()}Run"
        base = EvaluationBody if kind is EVALUATE else TrainingBody
        made = kind, create_model(title, __base__=base, **fields)
        _bodies[kind.name] = made
    return made[1]


def parameter_type(parameter: Parameter) -> Any:
    """Return a parameter's type with its bounds, as pydantic checks and describes it."""
    found: Any = parameter.type
    if parameter.choices:
        found = Literal[parameter.choices]
    if parameter.check is not None:
        found = Annotated[
            Any, PlainValidator(_checked_by(parameter)), WithJsonSchema(parameter.schema or {})
        ]
    elif parameter.type is list:
        found = Annotated[
            list[found],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
            AfterValidator(_without_repeats),
        ]
    elif parameter.type in (int, float):
        least = "gt" if parameter.exclusive_minimum else "ge"
        bounds: dict[str, Any] = {least: parameter.minimum, "le": parameter.maximum}
        if parameter.type is float:
            bounds["allow_inf_nan"] = False
        found = Annotated[found, Field(**bounds)]
    return found | None if parameter.nullable else found


def _checked_by(parameter: Parameter) -> Callable[[Any], Any]:
    """Return a validator of a value that has a check of its own, and must be storable as well."""

    def read(value: Any) -> Any:
        if problem := parameter.problem(value):
            raise ValueError(f"This field {problem}.")
        for text in _texts_in(value):
            storable(text)
        return value

    return read


def _texts_in(value: Any) -> Iterator[str]:
    """Yield texts and names within a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts_in(part)


def _without_repeats(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("must not name anything twice")
    return names


def clean_request(data: Any, *, of_run: bool = False) -> RunRequest:
    """Check a request as it came. Types are strict: ``"3"`` is not a number, ``1`` is not a
    boolean.

    Args:
        data: the request.
        of_run: it is that of a run that exists, which keeps its name and tags although new ones
            would be refused.

    Raises:
        InvalidRequest: every field that is wrong, missing or unknown.
    """
    if not isinstance(data, dict):
        raise InvalidRequest({"non_field_errors": [NOT_AN_OBJECT]})
    # Of a kind that there is not, the parameters are checked by the default's.
    asked = data.get("kind", DEFAULT_KIND)
    kind = (kind_named(asked) if isinstance(asked, str) else None) or KINDS[DEFAULT_KIND]
    context = None
    if of_run:
        names = (data.get("name"), *(data.get("tags") or ()))
        context = {"names": names, "output_dir": data.get("output_dir")}

    def about_unknown(name: str) -> str:
        owner = kind.foreign(name)
        return f"This field is a parameter of {owner}, not of {kind.name}." if owner else UNKNOWN

    def say(name: str, details: ErrorDetails) -> str | None:
        if name == "kind":
            return f"This field must be one of {', '.join(kind_names())}."
        if (one := kind.parameters.get(name)) and (problem := one.problem(data[name])):
            return f"This field {problem}."
        if details["type"] in _NUMBERS:
            whole = details["type"] != "float_type"
            return f"This field {not_a_number(details['input'], whole=whole)}."
        return None

    body, errors = try_body(run_body(kind), data, context=context, unknown=about_unknown, say=say)
    for name in ("lora_alpha", "lora_targets"):
        if data.get(name) is not None and data.get("lora_rank") is None:
            errors.setdefault(name, ["This field needs lora_rank."])
    if kind is EVALUATE and body is not None and not errors:
        errors = {
            name: [f"This field {problem}."]
            for name, problem in settings_problems(body.__dict__).items()
        }
    if body is None or errors:
        raise InvalidRequest(errors)
    values = body.__dict__
    if kind is EVALUATE and values["method"] == GENERATE:
        # with the versions that score now, however the request names them
        values["scorers"] = _scorers(values["scorers"], of_run=of_run)
    return RunRequest(
        dataset_key=body.dataset_key,
        model=body.model_id,
        output_dir=body.output_dir,
        kind=kind.name,
        dry_run=body.dry_run,
        training={name: values[name] for name in kind.parameters},
        smoke=body.smoke,
        preflight=body.preflight,
        name=body.name,
        tags=body.tags or (),
        notes=body.notes or "",
        priority=body.priority,
        timeout_seconds=body.timeout_seconds,
        auto_retry=body.auto_retry,
        webhook_url=body.webhook_url or "",
        client_request_id=body.client_request_id,
        **(
            {name: values[name] for name in ("baseline", "outputs_from", "reuse")}
            if kind is EVALUATE
            else {"evaluate_on": values["evaluate_on"] or ()}
        ),
    )


def _scorers(given: Any, *, of_run: bool) -> list[dict[str, Any]]:
    chosen = [one.as_json() for one in choose(given)]
    if of_run:  # their files were hashed when it was submitted
        return chosen
    try:
        return [one.as_json() for one in choose(with_hashes(chosen))]
    except ValueError as error:
        raise InvalidRequest({"scorers": [f"Scorer python: {error}"]}) from error


class ExtensionBody(Model):
    """What an extension adds: either of the two."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    num_epochs: parameter_type(SHARED["num_epochs"]) = Field(  # type: ignore[valid-type]
        None, description="Epochs to add."
    )
    max_steps: parameter_type(replace(SHARED["max_steps"], nullable=False)) = Field(  # type: ignore[valid-type]
        None, description="Optimizer steps to add."
    )


def clean_extension(data: Any) -> dict[str, int]:
    """Return what an extension adds: ``num_epochs`` or ``max_steps``, as a mapping of one of the
    two.

    Raises:
        InvalidRequest: both, none, unknown fields, or a number out of its range.
    """
    if not isinstance(data, dict):
        raise InvalidRequest({"non_field_errors": [NOT_AN_OBJECT]})

    def say(name: str, details: ErrorDetails) -> str | None:
        value = data[name]
        return (
            "This field may not be null."
            if value is None
            else f"This field {SHARED[name].problem(value)}."
        )

    _body, errors = try_body(
        ExtensionBody, data, unknown=lambda name: UNKNOWN_IN_EXTENSION, say=say
    )
    given = [name for name in ExtensionBody.model_fields if name in data]
    if len(given) != 1 and not errors:
        errors["non_field_errors"] = ["Give either num_epochs or max_steps: how much to add."]
    if errors:
        raise InvalidRequest(errors)
    return {name: data[name] for name in given}


UNKNOWN_IN_EXTENSION = (
    "Unknown field; an extension takes num_epochs or max_steps, and keeps everything else."
)


class AnnotationsBody(Model):
    """What can be changed of a run; null changes nothing to null, so it is refused."""

    name: Name = Field(None, description="What people call the run.")
    tags: Tags = Field(None, description="Names to find the run by; these replace the run's.")
    notes: Notes = Field(None, description="Markdown.")
    pinned: bool = Field(False, description="Kept by retention, and on top of the history.")


def clean_annotations(data: Any, *, kept: Collection[str]) -> dict[str, Any]:
    """Return what is to be changed of a run with the names ``kept``. Raise InvalidRequest."""
    if not isinstance(data, dict):
        raise InvalidRequest({"non_field_errors": [NOT_AN_OBJECT]})
    body, errors = try_body(
        AnnotationsBody,
        data,
        context={"names": kept, "output_dir": None},
        unknown=lambda name: "Unknown field; name, tags, notes and pinned can be changed.",
    )
    if body is None:
        raise InvalidRequest(errors)
    return {name: getattr(body, name) for name in body.model_fields_set}


class RetryBody(Model):
    resume: bool = Field(True, description="Resume from the last checkpoint; false: from scratch.")


def clean_retry(data: Any) -> bool:
    """Return whether a retry resumes from the last checkpoint. Raise InvalidRequest."""
    body, _ = try_body(RetryBody, data) if isinstance(data, dict) else (None, {})
    if body is None:
        raise InvalidRequest({"resume": ["The only field is resume: true or false."]})
    return body.resume
