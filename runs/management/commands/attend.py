import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from runs.execution.attendant import Attendant
from runs.services.wakeup import wake_attendant
from tunixrt import checks, parent


class Command(BaseCommand):
    # the others are about pages, which are 20 MB that need not be loaded here
    requires_system_checks = [checks.SETTINGS]
    help = (
        "Look after this host's runs: start waiting runs, collect results, keep the task workers"
        " alive."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--no-workers",
            action="store_true",
            help="do not start task workers (qcluster) of this host",
        )
        parent.add_end_with(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        stopping: list[int] = []

        def stop(number: int, frame: object) -> None:
            stopping.append(number)
            wake_attendant()  # this process: it may be waiting

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if options["end_with"] is not None:
            parent.end_with(options["end_with"])
        Attendant(stop=lambda: bool(stopping), with_workers=not options["no_workers"]).run()
