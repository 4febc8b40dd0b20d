"""The files of python scorers: functions in folders that operators allow (TUNIX_SCORER_ROOTS).

The server reads and hashes them, and never executes them: the training program does, in its scoring
process, and refuses a file that has another hash by then.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from django.conf import settings

from runs.runfolder import files
from runs.spec.scorers import function_file

PYTHON = "python"
FILE_MAX_BYTES = 2**20


def with_hashes(scorers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return scorers, those of python with the hash of their file, which is a part of what they
    are from then on.

    Raises:
        ValueError: there is no such file, or it is not the one that is named.
    """
    return [_with_hash(one) if one["name"] == PYTHON else one for one in scorers]


def _with_hash(scorer: dict[str, Any]) -> dict[str, Any]:
    parameters = scorer["parameters"]
    name, wanted = function_file(parameters["function"]), parameters["sha256"]
    found = _hash(name)
    if wanted not in (None, found):
        raise ValueError(
            f"{name} was changed: it has the hash {found[:12]}…, not {wanted[:12]}…. Leave sha256"
            " out to score by what it is now, which is another scorer."
        )
    return scorer | {"parameters": parameters | {"sha256": found}}


def paths_of(scorers: list[dict[str, Any]]) -> dict[str, str]:
    """Return the paths of the files of python scorers, by their names, without those that are not
    there any more."""
    names = {function_file(s["parameters"]["function"]) for s in scorers if s["name"] == PYTHON}
    found = {name: _find(name) for name in sorted(names)}
    return {name: str(path) for name, path in found.items() if path is not None}


def _find(name: str) -> Path | None:
    """Return the path of a file; never one that is a link, nor one among what runs write."""
    for root in settings.TUNIX_SCORER_ROOTS:
        if not root.is_relative_to(settings.TUNIX_OUTPUT_ROOT) and os.path.lexists(root / name):
            return Path(root / name)
    return None


def _hash(name: str) -> str:
    """Return the hash of a file. Raise ValueError, which says what is wrong."""
    if not settings.TUNIX_SCORER_ROOTS:
        raise ValueError("no folder of this server may hold scorers (TUNIX_SCORER_ROOTS).")
    path = _find(name)
    if path is None:
        raise ValueError(f"there is no file {name} in the folders that operators allow.")
    try:
        with open(files.open_regular(path), "rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, files.BrokenFile) as error:
        raise ValueError(f"{name} cannot be read: it must be a regular file.") from error
    if len(content) > FILE_MAX_BYTES:
        raise ValueError(f"{name} has more than {FILE_MAX_BYTES:,} bytes.")
    return hashlib.sha256(content).hexdigest()
