"""What can go wrong in a training, each with the exit code that tells it apart.

The launch script turns a ``TrainerError`` into its exit code and a last line on stderr: ``tunix: <kind>: <sentence>``.
The sentence says what is wrong and the way out; it is written for the person who asked for the run.
"""

from __future__ import annotations


class TrainerError(Exception):
    """A failure with a known cause. ``exit_code`` is the process's, ``kind`` the word before the sentence on stderr."""

    exit_code = 1
    kind = "error"


class ManifestProblem(TrainerError):
    """The manifest cannot be read, or asks for something that cannot be."""

    exit_code = 10
    kind = "manifest"


class DataError(TrainerError):
    """The dataset cannot be read, or nothing in it can be learnt from."""

    exit_code = 11
    kind = "data"


class ModelError(TrainerError):
    """The model or its tokenizer is missing, damaged or of a kind that cannot be trained."""

    exit_code = 12
    kind = "model"


class MemoryProblem(TrainerError):
    """The memory of the machine or of an accelerator is used up."""

    exit_code = 13
    kind = "memory"


class NotANumber(TrainerError):
    """The loss or a gradient is NaN or infinite."""

    exit_code = 14
    kind = "nan"


class StorageError(TrainerError):
    """The disk is full or cannot be written, or a checkpoint cannot be used."""

    exit_code = 15
    kind = "storage"


class RuntimeMissing(TrainerError):
    """google-tunix, or a library it needs, is not installed or does not start."""

    exit_code = 16
    kind = "runtime"


class Interrupted(TrainerError):
    """The run was asked to stop; a checkpoint has been saved."""

    exit_code = 17
    kind = "interrupted"
