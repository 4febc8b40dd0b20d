"""Models by hub id: fetched at a pinned commit into Hugging Face's own cache."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from runs.families import bare_name_problem
from runs.trainer.errors import ModelError

# Everything a text model needs, and no other format of the same weights.
_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md"]
_WEIGHTS = ["*.safetensors"]


def fetch(model_id: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """The local folder of a hub model and its resolved commit; without ``weights`` only what describes the model.

    With ``HF_HUB_OFFLINE=1`` only the cache is looked at, and nothing waits for a network.

    Raises:
        ModelError: names the model; never shows a token.
    """
    if problem := bare_name_problem(model_id):
        raise ModelError(f"{problem}, under model.path in the manifest")
    try:
        folder = huggingface_hub.snapshot_download(
            model_id,
            revision=revision,
            allow_patterns=_FILES + (_WEIGHTS if weights else []),
            etag_timeout=10,
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    except errors.GatedRepoError as error:
        raise ModelError(f"the model {model_id} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"the model {model_id} has no revision {revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"the model {model_id} is not on the hub, or needs a token (HF_TOKEN)") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{model_id!r} is not a hub id: it must look like owner/name") from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"the model {model_id} is not in the local cache and HF_HUB_OFFLINE=1 forbids to fetch it; "
                "fetch it once online, or give the path of a folder"
            ) from error
        raise ModelError(f"the model {model_id} is not in the local cache and the hub cannot be reached") from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise ModelError(f"the model {model_id} cannot be fetched: {type(error).__name__}") from error
    # A snapshot folder is named after its commit.
    return Path(folder), Path(folder).name
