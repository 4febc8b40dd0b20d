import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from runs.attendant import Attendant
from tunixrt import parent


class Command(BaseCommand):
    help = "Look after this host's runs: start what waits, bring results home, keep the task workers alive."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-workers", action="store_true", help="do not start task workers (qcluster) of this host")
        parent.add_end_with(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        stopping: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, frame: stopping.append(got))
        if options["end_with"] is not None:
            parent.end_with(options["end_with"])
        Attendant(stop=lambda: bool(stopping), with_workers=not options["no_workers"]).run()
