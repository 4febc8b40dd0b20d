"""The ``tunix`` command: train, evaluate, validate, --version.

Started as ``[python, "-I", "-u", ".../runs/trainer/launch.py", …]``. Isolated mode keeps this
folder, the working folder and PYTHONPATH out of ``sys.path``; the project's root is *appended*, so
that ``import datasets`` gives Hugging Face's library although the project has an application of the
same name (docs/architecture.md).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
TUNABLES = "GLIBC_TUNABLES"
MALLOC = {"glibc.malloc.hugetlb": "1", "glibc.malloc.arena_max": "2"}
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from runs.trainer.errors import (  # noqa: E402 - the path is set above
    ManifestProblem,
    RuntimeMissing,
    TrainerError,
    explain,
)

LIBRARY = "google-tunix"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tunix", description="Post-train language models with google-tunix."
    )
    parser.add_argument(
        "--version", action="store_true", help="print the version of google-tunix and stop"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    train = commands.add_parser(
        "train", help="train as a manifest says", description="Train as a manifest says."
    )
    train.add_argument(
        "--config",
        required=True,
        type=Path,
        metavar="MANIFEST",
        help="the manifest, see docs/manifest.md",
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate as a manifest says",
        description="Evaluate a model as a manifest says.",
    )
    evaluate.add_argument(
        "--config",
        required=True,
        type=Path,
        metavar="MANIFEST",
        help="the manifest, see docs/manifest.md",
    )
    validate = commands.add_parser(
        "validate",
        help="say what a training or an evaluation would do",
        description=(
            "Read manifest, data and model and say what a training or an evaluation would do."
            " Builds no model unless --smoke is given."
        ),
    )
    validate.add_argument(
        "--config",
        required=True,
        type=Path,
        metavar="MANIFEST",
        help="the manifest, see docs/manifest.md",
    )
    validate.add_argument(
        "--smoke",
        action="store_true",
        help="load the model and run one real step, or generate a few outputs",
    )
    validate.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
    validate.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the report there, as JSON"
    )
    return parser


def library_version() -> str:
    """Return the version of the installed google-tunix, without importing it: JAX alone takes a
    second."""
    try:
        return importlib.metadata.version(LIBRARY)
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeMissing(
            f"{LIBRARY} is not installed; `pip install -e '.[tunix]'` installs it"
        ) from error


def run(arguments: argparse.Namespace) -> int:
    version = library_version()
    if arguments.version:
        print(f"tunix {version}")
        return 0
    # Imported here: --version and --help must answer in milliseconds.
    if arguments.command == "train":
        with held_open(arguments.config) as manifest:
            from runs.trainer.commands.train import train_from_manifest  # noqa: PLC0415

            train_from_manifest(manifest)
    elif arguments.command == "evaluate":
        with held_open(arguments.config) as manifest:
            from runs.trainer.commands.evaluate import evaluate_from_manifest  # noqa: PLC0415

            evaluate_from_manifest(manifest)
    else:
        from runs.trainer.commands.validate import print_report, validate_manifest  # noqa: PLC0415
        from runs.trainer.reporting.metrics import write_json  # noqa: PLC0415

        # What is said on the way belongs to people: with --json stdout holds the object alone.
        with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            report = validate_manifest(arguments.config, smoke=arguments.smoke)
        print_report(report, as_json=arguments.json)
        if arguments.report is not None:
            write_json(arguments.report, report)
    return 0


@contextlib.contextmanager
def held_open(manifest: Path) -> Iterator[Path]:
    """Open the manifest's folder; yield a path to the manifest that leads through that descriptor.

    The run folder is on an output root that may be away for a moment: renamed, unmounted, or
    replaced by an empty mount point. Through the descriptor the training still reaches its own
    folder, and no library that creates missing parents can create a second root where the first one
    was. proc(5): ``/proc/self/fd``.

    Raises:
        TrainerError: what the body raised, if its cause is known. The message names the folder by
            its own path.
    """
    folder = manifest.absolute().parent
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ManifestProblem(f"{folder} cannot be opened: {error.strerror}") from error
    held = Path(f"/proc/self/fd/{descriptor}")
    try:
        yield held / manifest.name
    except Exception as error:
        if (known := explain(error)) is None:
            raise
        raise type(known)(str(known).replace(str(held), str(folder))) from error
    finally:
        os.close(descriptor)


def print_error(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def print_error_and_silence_others(sentence: str) -> None:
    """Write the very last line of stderr: a thread of a library (some write checkpoints) may be in
    the middle of a traceback, and what it still has to say would come behind."""
    flush(sys.stderr)
    errors = os.dup(sys.stderr.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.write(errors, f"{sentence}\n".encode(errors="backslashreplace"))


def main(argv: list[str] | None = None, print_last: Callable[[str], None] = print_error) -> int:
    """Run the command; return the exit code (docs/manifest.md lists them). ``print_last`` writes
    the line that names an error.

    The code stays what it is where nothing can be written: the disk that is full is often the one
    that the output goes to.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not arguments.version and arguments.command is None:
        parser.error("a command is needed: train, evaluate or validate")
    # Libraries log to stderr at will; the last line there is ours, so they are held to warnings.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        return run(arguments)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        known = explain(error)
        if known is None:
            with contextlib.suppress(OSError):
                traceback.print_exc()
            known = TrainerError(
                f"unexpected {type(error).__name__}: {error}; the lines above say where"
            )
        flush(sys.stdout)
        with contextlib.suppress(OSError):
            print_last(f"tunix: {known.kind}: {' '.join(str(known).split())}")
        return known.exit_code


def flush(stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        stream.flush()


def tune_memory() -> None:
    """Start this program again, as the same process, with memory in pages of 2 MB where the system
    offers them on request, and without heaps for each of the compiler's threads.

    A step takes and gives back hundreds of megabytes; in pages of 4 kB the kernel spends a tenth of
    the processor's time on it, and address translation as much again. What a thread has freed in a
    heap of its own is of no use to others. The C library reads its settings only when a program
    starts. Those of the user's own are left alone.
    """
    found = os.environ.get(TUNABLES, "")
    if not sys.platform.startswith("linux") or any(name in found for name in MALLOC):
        return
    os.environ[TUNABLES] = ":".join(
        filter(None, [found, *(f"{name}={value}" for name, value in MALLOC.items())])
    )
    with contextlib.suppress(OSError):  # slower, but as well
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    if sys.argv[1:2] in (["train"], ["evaluate"]):
        tune_memory()
    code = main(print_last=print_error_and_silence_others)
    flush(sys.stdout)
    flush(sys.stderr)
    # Libraries leave threads behind (tensorstore, tokenizers) that can hang or abort at interpreter
    # shutdown.
    os._exit(code)
