"""A function that operators have put into a folder of theirs.

It runs in the scoring process alone, with its limits. The file is read once, and what was hashed is
what is compiled: a file that is changed later changes no score. It stands alone: its folder is not
on the path, since the hash covers nothing but the file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from runs.trainer.evaluation.scorers.item import CannotScore, Item

FILE_MAX_BYTES = 2**20


def python(
    *, function: str, sha256: str | None, path: str | None = None
) -> Callable[[Item], float]:
    """Return what scores by a function.

    Args:
        function: ``<file>.py:<name>``.
        sha256: of the file.
        path: of the file; None: there is no such file.
    """
    file, _, name = function.partition(":")
    if path is None:
        raise CannotScore(f"{file} is in none of the folders that operators allow for scorers")
    source = _read(Path(path), file)
    found = hashlib.sha256(source).hexdigest()
    if sha256 is None:
        raise CannotScore(f"sha256 is missing; that of {file} is {found}")
    if found != sha256:
        raise CannotScore(
            f"{file} was changed: it has the hash {found[:12]}…, not {sha256[:12]}…; make a new"
            " evaluation to score by what it is now"
        )
    called = getattr(_module(file, source), name, None)
    if not callable(called):
        raise CannotScore(f"{file} has no function {name}")

    def score(item: Item) -> float:
        value = called(
            output=item.text, reference=item.reference, columns=item.columns, tokens=item.tokens
        )
        if not isinstance(value, int | float):
            raise CannotScore(
                f"{function} gave a value of type {type(value).__name__}, not a number from 0 to 1"
            )
        return float(value)

    return score


def _read(path: Path, file: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise CannotScore(f"{file} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise CannotScore(f"{file} is not a file")
        source = opened.read(FILE_MAX_BYTES + 1)
    if len(source) > FILE_MAX_BYTES:
        raise CannotScore(f"{file} has more than {FILE_MAX_BYTES:,} bytes")
    return source


def _module(file: str, source: bytes) -> ModuleType:
    """Return the module that the source makes, which no import finds."""
    module = ModuleType(f"scorer_{file.removesuffix('.py')}")
    module.__file__ = file
    try:
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what operators put there
    except Exception as error:  # it raises what it likes
        raise CannotScore(
            f"{file} cannot be loaded: {type(error).__name__}: {error}"[:500]
        ) from error
    return module
