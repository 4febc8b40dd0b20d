"""What can go wrong in a training, each with the exit code that tells it apart.

The launch script turns a ``TrainerError`` into its exit code and a last line on stderr: ``tunix:
<kind>: <sentence>``. The sentence says what is wrong and how to fix it; it is written for the
person who asked for the run."""

from __future__ import annotations

import errno


class TrainerError(Exception):
    """A failure with a known cause. ``exit_code`` is the process's, ``kind`` the word before the
    sentence on stderr."""

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


class RewardProblem(TrainerError):
    """A scorer cannot be made, or failed where every score is needed."""

    exit_code = 18
    kind = "reward"


_DISK_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
}
_DISK_WORDS = (
    "No space left on device",
    "ENOSPC",
    "Disk quota exceeded",
    "EDQUOT",
    "File too large",
    "EFBIG",
    "Read-only file system",
)
_MEMORY_WORDS = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "std::bad_alloc",
)
_MEMORY_ADVICE = (
    "make batch_size or max_seq_length smaller, raise gradient_accumulation_steps, or turn"
    " gradient_checkpointing or LoRA on"
)


def explain(error: BaseException) -> TrainerError | None:
    """Return the failure as one of ours, or None when its cause is unknown.

    Memory and disk problems arrive as exceptions of many libraries. Disk words are looked for
    first: tensorstore reports a full disk as RESOURCE_EXHAUSTED too.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, TrainerError):
            return current
        text = str(current)
        if (isinstance(current, OSError) and current.errno in _DISK_ERRNOS) or any(
            word in text for word in _DISK_WORDS
        ):
            cause = shortened(text, keep=_DISK_WORDS)
            return StorageError(
                f"cannot write: {cause}; free some space or choose another folder, then start again"
            )
        if isinstance(current, MemoryError) or any(word in text for word in _MEMORY_WORDS):
            cause = shortened(text, keep=_MEMORY_WORDS) or "MemoryError"
            return MemoryProblem(f"the memory does not suffice ({cause}); {_MEMORY_ADVICE}")
        if isinstance(current, ImportError) and not (current.name or "").startswith("runs"):
            return RuntimeMissing(
                f"a library of the training runtime does not load: {shortened(text)}; `pip install"
                " -e '.[tunix]'` repairs it"
            )
        if isinstance(current, KeyboardInterrupt):
            return Interrupted("interrupted from the keyboard before a checkpoint could be saved")
        current = current.__cause__
    return None


def shortened(text: str, *, keep: tuple[str, ...] = ()) -> str:
    """Return the first line of ``text``; of a long one its beginning and its end, since libraries
    put the cause last.

    The first of the words ``keep`` that ``text`` holds is never cut off.
    """
    line = text.strip().splitlines()[0] if text.strip() else ""
    if len(line) > 300:
        line = f"{line[:120]} … {line[-170:]}"
    word = next((word for word in keep if word in text), "")
    return line if word in line else f"{word}: {line}"
