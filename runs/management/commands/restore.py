from typing import Any

from django.core.management.base import CommandParser

from runs.backup.restoring import restore_backup
from tunixrt import checks
from tunixrt.commands import Command as BaseCommand
from tunixrt.commands import account_of_machine, path_argument, tidy_at_sigterm


class Command(BaseCommand):
    requires_system_checks = [checks.SETTINGS]
    help = (
        "Put a backup of `manage.py backup` into this system, which must be stopped. Exit code 0:"
        " it is restored; 1: it is not, and stderr says why; no data has changed, unless it says to"
        " run the same command again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("dir", type=path_argument, metavar="DIR", help="the backup")
        parser.add_argument(
            "--replace", action="store_true", help="in place of all that is there, which is removed"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        how = f"by manage.py restore, by {account_of_machine()} of this machine"
        with tidy_at_sigterm():
            restored = restore_backup(
                folder=options["dir"], replace=options["replace"], how=how, say=self.say
            )
        for warning in restored.warnings:
            self.stderr.write(f"warning: {warning}")
        for run_id in restored.ended:
            self.say(
                f"Run {run_id} was executing when the backup was made; its page says how it ended."
                " Retry it to continue."
            )
        self.say(
            f"Restored: the database and {restored.runs:,} folders of runs. Start the system now."
        )

    def say(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()
