import signal
import sys
from argparse import ArgumentParser
from typing import Any

from datasets.storage.word_index import rebuild, work_off
from tunixrt.commands import Command as TunixrtCommand


class Command(TunixrtCommand):
    help = (
        "Index the words of examples that were stored by large imports, so that searches find them."
        " The attendant calls it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--rebuild",
            action="store_true",
            help="build the index of PostgreSQL again, without words that were erased",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # what is not indexed then is indexed by the next process
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        self.stdout.write(f"Indexed {work_off():,} examples.")
        if options["rebuild"]:
            self.stdout.write(
                "Built the index again."
                if rebuild()
                else "An erasure removes words from SQLite's index at once; nothing to build."
            )
