import sys
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from datasets.formats.table import FORMATS, KINDS
from datasets.imports import importers
from datasets.imports.hub import HubRequest
from datasets.imports.importing import import_file, import_hub
from datasets.management.acting_user import acting_user, add_user_argument
from datasets.models import Dataset
from datasets.services.refusals import InvalidDataset
from tunixrt.commands import Command as TunixrtCommand
from tunixrt.commands import number_between

HUB_FIELDS = ("revision", "config", "split", "files", "held_out_files")


class Command(TunixrtCommand):
    help = (
        "Import a file (JSON Lines, JSON, CSV, Parquet; gzip, zstd), or the data files of a dataset"
        " of the Hugging Face Hub, as examples and a dataset. Bad lines are listed by number and"
        " reason; then nothing is stored."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file", metavar="FILE", nargs="?", help="the file; - reads standard input"
        )
        parser.add_argument(
            "--hub", metavar="OWNER/NAME", help="instead of a file: the id of a dataset on the Hub"
        )
        parser.add_argument("--revision", help="of the Hub: a commit, a branch or a tag (main)")
        parser.add_argument("--config", help="of the Hub: only files in a folder of this name")
        parser.add_argument("--split", help="of the Hub: only files with this word in their names")
        parser.add_argument(
            "--files",
            action="append",
            metavar="PATTERN",
            help="of the Hub: a name or pattern of files; may be given several times",
        )
        parser.add_argument(
            "--held-out-files",
            action="append",
            metavar="PATTERN",
            help="of the Hub: a name or pattern of files whose examples are held out; may be given"
            " several times",
        )
        parser.add_argument("--name", required=True)
        parser.add_argument("--version", required=True, dest="dataset_version")
        parser.add_argument("--description", default="")
        parser.add_argument(
            "--format", choices=list(FORMATS), help="default: recognised by the first line"
        )
        parser.add_argument(
            "--kind", choices=KINDS, help="what the examples are to be; default: by their format"
        )
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            type=_mapped_field,
            metavar="FIELD=COLUMN",
            help="the field or column of the file that is meant by a field, such as"
            " prompt=question; may be given several times",
        )
        parser.add_argument(
            "--ignore",
            action="append",
            default=[],
            metavar="FIELD",
            help="a field that says nothing about what is to be learnt; may be given several times",
        )
        parser.add_argument(
            "--held-out",
            type=_held_out,
            help="examples to hold out from training (200), or their share (0.1)",
        )
        parser.add_argument(
            "--limit", type=number_between(int, 1, 10**9), help="read no more examples than this"
        )
        parser.add_argument(
            "--skip-bad",
            type=_skip_bad,
            metavar="SHARE",
            help="leave out lines that are not valid, up to this share (0.01)",
        )
        parser.add_argument("--licence", default="", help="such as CC-BY-4.0")
        parser.add_argument("--source", default="", help="where the data come from")
        add_user_argument(parser)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        # Django's own --version would stand in the way of the dataset's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, *args: Any, file: str | None, hub: str | None, **options: Any) -> None:
        if (file is None) == (hub is None):
            raise CommandError("Give one of FILE and --hub.")
        of_the_hub = {name: options[name] for name in HUB_FIELDS if options[name] is not None}
        if of_the_hub and hub is None:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in of_the_hub)
            raise CommandError(f"{given}: only with --hub.")
        asked: dict[str, Any] = {
            "request": importers.ImportRequest(
                name=options["name"],
                version=options["dataset_version"],
                description=options["description"],
                format=options["format"],
                kind=options["kind"],
                mapping=dict(options["map"]),
                ignore=options["ignore"],
                held_out=options["held_out"],
                limit=options["limit"],
                skip_bad=options["skip_bad"],
                licence=options["licence"],
                source=options["source"],
            ),
            "named_lines": None,
            "by": acting_user(options["user"]),
        }
        try:
            if hub is not None:
                dataset = import_hub(asked=HubRequest(hub, **of_the_hub), **asked)
            else:
                dataset = _import(str(file), **asked)
        except importers.BadLines as error:
            for problem in error.problems:
                self.stderr.write(f"line {problem.line}: {problem.reason}")
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"Cannot read {file or hub}: {error.strerror or error}") from error
        stats = dataset.stats
        self.stdout.write(
            f"Stored {dataset.dataset_key}: {dataset.size} examples ({stats['train']} to train on,"
            f" {stats['held_out']} held out, {stats['with_final_answer']} with a final answer),"
            f" format {dataset.provenance['format']}.\n{dataset.fingerprint}"
        )


def _import(file: str, **asked: Any) -> Dataset:
    with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as source:
        name = "" if file == "-" else Path(file).name
        return import_file(file=source, file_name=name, web=False, **asked)


def _mapped_field(text: str) -> tuple[str, str]:
    name, separator, column = text.partition("=")
    if not separator:
        raise ArgumentTypeError(f"must be FIELD=COLUMN, not {text!r}")
    return name, column


def _skip_bad(text: str) -> float | None:
    try:
        return importers.parse_skip_bad(text)
    except InvalidDataset as error:
        raise ArgumentTypeError(str(error)) from error


def _held_out(text: str) -> int | float | None:
    try:
        return importers.parse_held_out(text)
    except InvalidDataset as error:
        raise ArgumentTypeError(str(error)) from error
