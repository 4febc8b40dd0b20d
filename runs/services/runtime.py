"""Find the training runtime in milliseconds, without importing JAX, in any interpreter."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

DISTRIBUTION = "google-tunix"
INSTALL_HINT = "Install with `pip install -e '.[tunix]'` to enable local execution."
AVAILABLE_MESSAGE = "Tunix runtime is available for execution."
MISSING_MESSAGE = "Tunix runtime not available."
LAUNCHER = Path(__file__).resolve().parents[1] / "trainer" / "launch.py"

UNKNOWN_VERSION = "unknown"  # the command is there and says no version
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_REMEMBER_SECONDS = 30.0
_remembered: dict[tuple[str, ...], tuple[float, str | None]] = {}


@dataclass(frozen=True)
class Runtime:
    """``version`` is google-tunix's, or what another training command calls its own."""

    available: bool
    version: str | None
    why_not: str = ""  # a sentence, where another training command is the reason

    @property
    def message(self) -> str:
        return (
            AVAILABLE_MESSAGE
            if self.available
            else f"{MISSING_MESSAGE} {self.why_not or INSTALL_HINT}"
        )


def tunix_command() -> list[str]:
    """Return the training program's command, to which ``train --config …`` is added.

    ``-I`` and a built environment keep the project's `datasets` away from Hugging Face's
    (docs/adr/).
    """
    return list(settings.TUNIX_COMMAND) or [settings.TUNIX_PYTHON, "-I", "-u", str(LAUNCHER)]


def local_runtime() -> Runtime:
    """Return the runtime of this host; remember it for half a minute, since looking it up reads
    files or asks a process."""
    ours = not settings.TUNIX_COMMAND and sys.executable == settings.TUNIX_PYTHON
    key = () if ours else tuple(tunix_command())
    now = time.monotonic()
    if key not in _remembered or now - _remembered[key][0] > _REMEMBER_SECONDS:
        _remembered[key] = (now, _ask(list(key)) if key else _installed_version())
    version = _remembered[key][1]
    return Runtime(
        available=version is not None,
        version=version,
        why_not="" if version is not None else _what_is_missing(),
    )


def _what_is_missing() -> str:
    """Return what to do about a training command that the operator named; empty where none was."""
    if not settings.TUNIX_COMMAND:
        return ""
    program = str(settings.TUNIX_COMMAND[0])
    if shutil.which(program) is None:
        return (
            f"TUNIX_COMMAND names the program {program!r}, which is not there or cannot be"
            " executed: correct the setting."
        )
    return (
        f"TUNIX_COMMAND names the program {program!r}, which does not answer to --version: correct"
        " the setting or the program."
    )


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ask(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    words = answer.stdout.decode("utf-8", "replace").split()
    if not words:
        return None
    return words[-1] if _VERSION.fullmatch(words[-1]) else UNKNOWN_VERSION
