"""What one may ask of a run: the fields of a request, checked strictly. API, form, command line,
retry and clone use it."""

import os
import re
import unicodedata
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator

from runs.spec.families import PRESETS, bare_name_problem, family_of_hub_id, preset_names
from runs.spec.kinds import DEFAULT_KIND, KINDS
from runs.spec.naming import NAME_MAX_LENGTH
from runs.spec.parameters import SHARED
from runs.spec.wording import not_a_number, number_text, shortened
from tunixrt.addresses import problem_with
from tunixrt.readable import name_problem
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
NAMED_FIELDS = 50  # unknown fields named in an answer

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class InvalidRequest(Refusal):
    """A request that cannot be taken. ``errors`` maps each field to its messages."""

    def __init__(self, errors: dict[str, list[str]]):
        self.errors = errors
        super().__init__(messages=errors)


@dataclass(frozen=True)
class ModelReference:
    """What a ``model_id`` names. ``kind``: preset, folder or hub; ``path`` of a folder is
    resolved."""

    model_id: str
    kind: str
    path: Path | None = None
    family: str | None = None
    problem: str | None = None
    warning: str | None = None


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

    def as_config(self) -> dict[str, Any]:
        """The whole request as JSON, enough to run it again; ``clean_request`` takes it back.
        Without a name where none was given, and without a kind where it is the default: a repeated
        request is known by this, also one that was stored before there were kinds."""
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
        }


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
        raise InvalidRequest({"non_field_errors": ["The request must be a JSON object."]})
    reader = _Reader(data)
    kept = (data.get("name"), *(data.get("tags") or ())) if of_run else ()
    values: dict[str, Any] = {
        "dataset_key": reader.text("dataset_key", required=True, longest=KEY_MAX_LENGTH),
        "output_dir": reader.parsed(
            "output_dir", partial(clean_output_dir, kept=data.get("output_dir") if of_run else None)
        ),
        "kind": reader.choice("kind", DEFAULT_KIND, tuple(KINDS)),
        "dry_run": reader.boolean("dry_run", True),
        "smoke": reader.boolean("smoke", False),
        "preflight": reader.choice("preflight", "quick", ("quick", "full")),
        "name": reader.parsed("name", partial(clean_name, kept=kept)),
        "tags": reader.parsed("tags", partial(clean_tags, kept=kept)) or (),
        "notes": reader.parsed("notes", clean_notes) or "",
        "priority": reader.number("priority", int, 0, *PRIORITY_RANGE),
        "timeout_seconds": reader.number("timeout_seconds", float, None, *TIMEOUT_RANGE),
        "auto_retry": reader.number("auto_retry", int, 0, 0, AUTO_RETRY_MAX),
        "webhook_url": reader.parsed("webhook_url", _clean_webhook_url) or "",
        "client_request_id": reader.parsed("client_request_id", clean_client_request_id),
        "model": reader.parsed("model_id", resolve_model, required=True),
        "training": {},
    }
    # of a kind that there is not, the parameters are checked by the default's
    kind = KINDS[DEFAULT_KIND if "kind" in reader.errors else values["kind"]]
    for name, parameter in kind.parameters.items():
        value = reader.take(name, parameter.default)
        if problem := parameter.problem(value):
            reader.errors[name] = [f"This field {problem}."]
        values["training"][name] = value
    for name in ("lora_alpha", "lora_targets"):
        if values["training"][name] is not None and values["training"]["lora_rank"] is None:
            reader.errors.setdefault(name, ["This field needs lora_rank."])
    unknown = sorted(set(data) - reader.seen, key=str)
    for name in unknown[:NAMED_FIELDS]:
        owner = kind.foreign(str(name))
        reader.errors[shortened(str(name))] = [
            f"This field is a parameter of {owner}, not of {kind.name}."
            if owner
            else "Unknown field."
        ]
    if len(unknown) > NAMED_FIELDS:
        reader.fail("non_field_errors", f"{len(unknown) - NAMED_FIELDS:,} more unknown fields.")
    if reader.errors:
        raise InvalidRequest(reader.errors)
    return RunRequest(**values)


EXTENSION_FIELDS = ("num_epochs", "max_steps")


def clean_extension(data: Any) -> dict[str, int]:
    """What an extension adds: ``num_epochs`` or ``max_steps``, as a mapping of one of the two.

    Raises:
        InvalidRequest: both, none, unknown fields, or a number out of its range.
    """
    if not isinstance(data, dict):
        raise InvalidRequest({"non_field_errors": ["The request must be a JSON object."]})
    errors = {
        shortened(str(name)): [
            "Unknown field; an extension takes num_epochs or max_steps, and keeps everything else."
        ]
        for name in sorted(set(data) - set(EXTENSION_FIELDS), key=str)[:NAMED_FIELDS]
    }
    given = [name for name in EXTENSION_FIELDS if name in data]
    for name in given:
        if data[name] is None:
            errors[name] = ["This field may not be null."]
        elif problem := SHARED[name].problem(data[name]):
            errors[name] = [f"This field {problem}."]
    if len(given) != 1 and not errors:
        errors["non_field_errors"] = ["Give either num_epochs or max_steps: how much to add."]
    if errors:
        raise InvalidRequest(errors)
    return {name: data[name] for name in given}


class _Reader:
    """Takes fields out of a request and collects what is wrong with them."""

    def __init__(self, data: dict[str, Any]):
        self.data = data
        self.seen: set[str] = set()
        self.errors: dict[str, list[str]] = {}

    def take(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return self.data.get(name, default)

    def fail(self, name: str, message: str) -> None:
        self.errors.setdefault(name, []).append(message)

    def fail_missing(self, name: str) -> None:
        is_null = name in self.data
        self.fail(name, "This field may not be null." if is_null else "This field is required.")

    def text(self, name: str, *, required: bool = False, longest: int) -> str | None:
        value = self.take(name)
        if value is None:
            if required:
                self.fail_missing(name)
        elif not isinstance(value, str):
            self.fail(name, "This field must be text.")
        elif required and not value:
            self.fail(name, "This field may not be empty.")
        elif len(value) > longest:
            self.fail(name, f"This field has at most {longest} characters, not {len(value)}.")
        elif _UNSTORABLE.search(value):
            self.fail(
                name,
                "This field holds characters that cannot be stored (NUL or half a surrogate pair).",
            )
        else:
            return value
        return None

    def parsed(self, name: str, parse: Any, *, required: bool = False) -> Any:
        value = self.take(name)
        if value is None:
            if required:
                self.fail_missing(name)
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.fail(name, str(error))
            return None

    def boolean(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            self.fail(name, "This field must be true or false.")
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.take(name, default)
        if value not in choices:
            self.fail(name, f"This field must be one of {', '.join(choices)}.")
        return value

    def number(self, name: str, kind: type, default: Any, minimum: float, maximum: float) -> Any:
        value = self.take(name, default)
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            self.fail(name, f"This field {not_a_number(value, whole=kind is int)}.")
        elif not minimum <= value <= maximum:
            self.fail(
                name,
                f"This field must lie between {number_text(minimum)} and {number_text(maximum)}.",
            )
        return value


def resolve_model(model_id: Any) -> ModelReference:
    """What ``model_id`` names, and whether it may be named. Touches the file system for folders,
    never a network.

    Raises:
        ValueError: not a preset, not a folder inside TUNIX_MODEL_ROOTS, not a hub id.
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
            "This field must be preset:<name>, a folder inside TUNIX_MODEL_ROOTS (absolute or"
            " starting with ./), or a hub id such as google/gemma-2b-it."
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


def _folder_of_that_name(name: str) -> str | None:
    """The ``model_id`` of the folder that somebody may have meant who left the path out."""
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
    """A folder relative to the output root, normalised; None where the run id is to make it.

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
    """``path`` without symbolic links; None if they lead in a circle."""
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
    """Return tags without repeats, in their order; those that are ``kept`` may be unreadable.
    Raises ValueError."""
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
    """Return a run's name without blanks around it; one that is ``kept`` may be unreadable. Raises
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
    if not isinstance(value, str) or len(value) > NOTES_MAX_LENGTH or _UNSTORABLE.search(value):
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


def _clean_webhook_url(value: Any) -> str:
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
