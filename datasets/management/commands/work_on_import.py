import signal
import sys
import uuid
from argparse import ArgumentParser
from typing import Any

from datasets.imports.importing import work_on
from tunixrt.commands import Command as TunixrtCommand


class Command(TunixrtCommand):
    requires_system_checks = []  # the attendant has made them
    help = "Do the work of an import. The attendant calls it and hands it the import's lock."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("import_id", type=uuid.UUID)

    def handle(self, *args: Any, import_id: uuid.UUID, **options: Any) -> None:
        # what is half done is continued by the next process
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        work_on(import_id)
