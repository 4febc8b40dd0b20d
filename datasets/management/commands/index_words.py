import signal
import sys
from typing import Any

from datasets.storage.word_index import work_off
from tunixrt.commands import Command as TunixrtCommand


class Command(TunixrtCommand):
    help = (
        "Index the words of examples that were stored by large imports, so that searches find them."
        " The attendant calls it."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        # what is not indexed then is indexed by the next process
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        self.stdout.write(f"Indexed {work_off():,} examples.")
