"""Datasets of the Hugging Face Hub: the data files of one commit, fetched into an import's folder.

Only files of data are fetched, never a script, and nothing of a repository is run. Only the process
of an import asks the Hub: the web server does not import its client, which is an extra.
"""

import fnmatch
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tunixrt.refusals import NotHere, Refusal

INSTALL = "pip install -e '.[hub]'"
DATA_FILES_MAX = 1_000
NAMED = 10  # files in a sentence
_SECONDS = 10.0  # for an answer
_ID = re.compile(
    r"(?=[\w.-]+/[\w.-]+\Z)(?!.*(\.\.|--))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.A
)
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet)(\.(gz|zst))?\Z", re.IGNORECASE)
# JSON that describes a repository
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
_PARTS = {"train", "test", "validation", "valid", "val", "dev", "eval", "data"}
_WORDS = re.compile(r"[/._-]+")


class HubRefused(Refusal):
    def __init__(self, sentence: str, field: str = "hub"):
        super().__init__(messages={field: [sentence]})


def is_installed() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


@dataclass(frozen=True)
class HubRequest:
    """What is asked of the Hub.

    Attributes:
        hub: ``owner/name``.
        revision: a commit, a branch or a tag.
        files: names or patterns of the files to take; empty: all files of data.
        config: a folder in the names of the files.
        split: a word in the names of the files.
        held_out_files: names or patterns of the files whose examples are held out.
    """

    hub: str
    revision: str = "main"
    files: Sequence[str] = ()
    config: str = ""
    split: str = ""
    held_out_files: Sequence[str] = ()

    def as_source(self) -> dict[str, Any]:
        """Return what is kept of it as the source of an import. Raise Refusal, NotHere."""
        problems: dict[str, list[str]] = {}
        if not _ID.fullmatch(self.hub):
            problems["hub"] = ["Must be the id of a dataset on the Hub: owner/name."]
        if not _REVISION.fullmatch(self.revision):
            problems["revision"] = ["Must be a commit (40 hexadecimal digits), a branch or a tag."]
        if problems:
            raise Refusal(messages=problems)
        if not is_installed():
            raise NotHere(
                f"Datasets of the Hub need a package that is not installed here: {INSTALL}"
            )
        given: dict[str, Any] = {
            "files": list(self.files),
            "config": self.config,
            "split": self.split,
            "held_out_files": list(self.held_out_files),
        }
        return {
            "type": "hub",
            "file": self.hub,
            "hub": self.hub,
            "revision": self.revision,
        } | {name: value for name, value in given.items() if value}


def resolve(source: Mapping[str, Any], *, max_bytes: int) -> dict[str, Any]:
    """Return the source with the commit and the data files that it stands for now: ``commit`` and
    ``data_files``, a list of ``{name, bytes, split}``. Raise HubRefused."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - only the process of an import needs it

    with _Asking(source):
        info = HfApi(endpoint=_endpoint()).dataset_info(
            source["hub"], revision=source["revision"], files_metadata=True, timeout=_SECONDS
        )
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise HubRefused(f"The Hub names no commit for revision {source['revision']}.", "revision")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = _chosen(source, sizes)
    if (total := sum(sizes[name] for name in names)) > max_bytes:
        raise HubRefused(
            f"The {len(names):,} data files have {total:,} bytes; the limit is {max_bytes:,}"
            " (TUNIXRT_UPLOAD_MAX_BYTES). Choose some of them with files.",
            "files",
        )
    held_out = _held_out(source, names)
    return dict(source) | {
        "commit": commit,
        "data_files": [
            {"name": name, "bytes": sizes[name], "split": held_out.get(name)} for name in names
        ],
    }


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _chosen(source: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the files to take, in the order of their names. Raise HubRefused."""
    names = sorted(name for name in names if _is_inside(name))
    patterns = source.get("files", ())
    if patterns:
        if none := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
            raise HubRefused(f"No file is named {_list(none)}; there are {_list(names)}.", "files")
        found = [name for name in names if _is_one_of(name, patterns)]
        if others := [name for name in found if not _DATA.search(name)]:
            raise HubRefused(
                f"{_list(others)} cannot be imported. Files of data end with .jsonl, .json, .csv,"
                " .tsv or .parquet, also with .gz or .zst.",
                "files",
            )
    else:
        found = _data_files(names)
    for field in ("config", "split"):
        if wanted := source.get(field):
            words = _folders if field == "config" else _words
            if not (kept := [name for name in found if wanted in words(name)]):
                raise HubRefused(f"No data file is of {field} {wanted}: {_list(found)}.", field)
            found = kept
    if not patterns:
        _check_one_choice(found)
    if len(found) > DATA_FILES_MAX:
        raise HubRefused(f"There are {len(found):,} data files; choose some of them.", "files")
    return found


def _is_inside(name: str) -> bool:
    """Return whether a file can be stored under this name."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and bool(parts) and parts[0] != "/" and ".." not in parts


def _data_files(names: Sequence[str]) -> list[str]:
    found = [
        name
        for name in names
        if _DATA.search(name)
        and PurePosixPath(name).name not in _DESCRIPTIONS
        and not any(part.startswith(".") for part in PurePosixPath(name).parts)
    ]
    if found:
        return found
    if scripts := [name for name in names if name.endswith(".py")]:
        raise HubRefused(
            f"The dataset has a loading script only ({_list(scripts)}), which is never run. Try"
            " revision refs/convert/parquet, where the Hub keeps its conversion to Parquet."
        )
    raise HubRefused(
        "The dataset has no file of data (.jsonl, .json, .csv, .tsv, .parquet):"
        f" {_list(names) or 'it is empty'}."
    )


def _check_one_choice(names: Sequence[str]) -> None:
    """Raise HubRefused where the files hold the same data in several forms, or several datasets."""
    kinds = sorted({match[1].lower() for name in names if (match := _DATA.search(name))})
    if len(kinds) > 1:
        raise HubRefused(
            f"There are data files of several kinds ({', '.join(kinds)}), perhaps with the same"
            f" examples: choose with files, such as *.{kinds[0]}*.",
            "files",
        )
    configs = sorted({tuple(name.split("/")[:-1]) for name in names})
    outer = sorted({next((part for part in parts if part not in _PARTS), "") for parts in configs})
    if len(outer) > 1:
        raise HubRefused(
            f"There are several configurations: {_list(name or '(none)' for name in outer)}. Choose"
            " one with config, or files with files.",
            "config",
        )


def _held_out(source: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Return the part of each file, where the request says which files are held out. Raise
    HubRefused."""
    patterns = source.get("held_out_files")
    if not patterns:
        return {}
    held_out = {name for name in names if _is_one_of(name, patterns)}
    if not held_out or len(held_out) == len(names):
        which = "All" if held_out else "None"
        raise HubRefused(
            f"{which} of the data files would be held out: {_list(names)}.", "held_out_files"
        )
    return {name: "held_out" if name in held_out else "train" for name in names}


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _folders(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts[:-1]


def _words(name: str) -> list[str]:
    return _WORDS.split(name)


def _list(names: Iterable[str]) -> str:
    names = [str(name)[:200] for name in names]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def fetch(
    source: Mapping[str, Any], name: str, folder: Path, received: Callable[[int], None]
) -> Path:
    """Fetch one data file of a resolved source into ``folder``; what is there already is not
    fetched again. ``received`` is told how many bytes have come since the last call. Raise
    HubRefused, OSError."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - as above
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # noqa: PLC0415 - as above

    class Told(tqdm):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **(options | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, count: float | None = 1) -> None:
            received(int(count or 0))

    with _Asking(source):
        return Path(
            hf_hub_download(
                source["hub"],
                name,
                repo_type="dataset",
                revision=source["commit"],
                local_dir=folder,
                etag_timeout=_SECONDS,
                endpoint=_endpoint(),
                tqdm_class=Told,
            )
        )


class _Asking:
    """Turns what the client of the Hub raises into a HubRefused that says what to do."""

    def __init__(self, source: Mapping[str, Any]):
        self._id, self._revision = source["hub"], source["revision"]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and (sentence := self._sentence(error)):
            raise HubRefused(*sentence) from error

    def _sentence(self, error: BaseException) -> tuple[str, str] | None:
        import httpx  # noqa: PLC0415 - comes with the client of the Hub
        from huggingface_hub import constants, errors  # noqa: PLC0415 - as above

        offline = constants.HF_HUB_OFFLINE
        match error:
            case errors.GatedRepoError():
                return (
                    f"The dataset {self._id} is gated: an operator must accept its terms on the Hub"
                    " and give the server a token (HF_TOKEN).",
                    "hub",
                )
            case errors.RevisionNotFoundError():
                return f"The dataset {self._id} has no revision {self._revision}.", "revision"
            case errors.RepositoryNotFoundError():
                return (
                    f"The Hub has no dataset {self._id}, or it is private and needs a token of the"
                    " server (HF_TOKEN).",
                    "hub",
                )
            case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() if offline:
                return "This server is offline (HF_HUB_OFFLINE=1). Upload the files instead.", "hub"
            case errors.LocalEntryNotFoundError() | httpx.TransportError():
                return (
                    "The Hub cannot be reached from this server. Try again later, or upload the"
                    " files.",
                    "hub",
                )
            case errors.EntryNotFoundError():
                return f"A file of {self._id} is not there any more: {error}"[:500], "hub"
            case errors.HfHubHTTPError():
                status = error.response.status_code
                return f"The Hub answered {status}. Try again later.", "hub"
            case errors.HFValidationError():
                return f"{self._id} is not the id of a dataset on the Hub.", "hub"
        return None
