"""Models by hub id: fetched at one commit into Hugging Face's own cache, after a look at what would
come.

No code of a model is ever fetched or run: only weights, configuration and tokenizer are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub import constants, errors

from runs.spec.architectures import UnsupportedModel, read_architecture
from runs.spec.families import bare_name_problem
from runs.spec.model_folder import FolderProblem, read_config
from runs.trainer.errors import ModelError, StorageError

# Everything a text model needs, and no other format of the same weights.
_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md"]
_WEIGHTS = ["*.safetensors"]
# Stays free: the caches of compiled programs and tokenised data lie beside the models.
_RESERVE_BYTES = 2**30
_TIMEOUT_SECONDS = 10


def fetch(model_id: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Return the local folder of a hub model and its commit; without ``weights`` only what
    describes the model.

    What cannot be trained, and what the disk has no room for, is refused before weights are
    fetched; the description alone tells that of the weights as well. With ``HF_HUB_OFFLINE=1`` only
    the cache is read, and no call waits for a network; the same applies when the hub cannot be
    reached.

    Raises:
        ModelError: names the model; never shows a token.
        StorageError: the disk has no room.
    """
    if problem := bare_name_problem(model_id):
        raise ModelError(f"{problem}, under model.path in the manifest")
    patterns = _FILES + (_WEIGHTS if weights else [])
    try:
        commit = None if constants.HF_HUB_OFFLINE else _look_first(model_id, revision)
        folder = huggingface_hub.snapshot_download(
            model_id,
            revision=commit or revision,
            allow_patterns=patterns,
            etag_timeout=_TIMEOUT_SECONDS,
            local_files_only=commit is None,
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"the model {model_id} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"the model {model_id} has no revision {revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the model {model_id} is not on the hub, or needs a token (HF_TOKEN)"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(
            f"{model_id!r} is not a hub id: it must look like owner/name; a folder is named by"
            " model.path in the manifest, instead of model.id"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"the model {model_id} is not in the local cache and HF_HUB_OFFLINE=1 forbids to"
                " fetch it; fetch it once online, or give the path of a folder"
            ) from error
        raise ModelError(
            f"the model {model_id} is not in the local cache and the hub cannot be reached"
        ) from error
    except (OSError, httpx.HTTPError) as error:
        raise ModelError(
            f"the model {model_id} cannot be fetched: {type(error).__name__}"
        ) from error
    # A snapshot folder is named after its commit.
    return Path(folder), Path(folder).name


def _look_first(model_id: str, revision: str | None) -> str | None:
    """Resolve the commit and refuse what cannot be trained or stored; None when the hub cannot be
    reached."""
    files = _list_files(model_id, revision)
    if files is None:
        return None
    names = {file.filename for file in files}
    if "config.json" not in names:
        raise ModelError(f"{model_id} has no config.json: it is no model in Hugging Face's format")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{model_id} has no weights as safetensors, the one format that is read; convert it"
            " with transformers"
        )
    commit = str(files[0].commit_hash)
    config = huggingface_hub.hf_hub_download(
        model_id, "config.json", revision=commit, etag_timeout=_TIMEOUT_SECONDS
    )
    try:
        read_architecture(read_config(Path(config).parent))
    except (FolderProblem, UnsupportedModel) as error:
        raise ModelError(f"the model {model_id} cannot be loaded: {error}") from error
    _check_space(model_id, sum(file.file_size or 0 for file in files if file.will_download))
    return commit


def _list_files(model_id: str, revision: str | None) -> list[Any] | None:
    """Return every file that would be fetched with the weights, its size, and whether it is in the
    cache already."""
    try:
        return huggingface_hub.snapshot_download(
            model_id,
            revision=revision,
            allow_patterns=_FILES + _WEIGHTS,
            etag_timeout=_TIMEOUT_SECONDS,
            dry_run=True,
        )
    except errors.DryRunError as error:
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code < 500:
            raise cause from None
        return None
    except (httpx.TransportError, errors.LocalEntryNotFoundError):
        return None


def _check_space(model_id: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    free = shutil.disk_usage(
        next(folder for folder in (cache, *cache.parents) if folder.exists())
    ).free
    if needed and needed + _RESERVE_BYTES > free:
        raise StorageError(
            f"{needed / 1e9:.1f} GB of {model_id} are still to be fetched into {cache}, where"
            f" {free / 1e9:.1f} GB are free; free some space, or let HF_HOME name a folder of a"
            " larger disk"
        )
