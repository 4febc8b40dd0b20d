from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from runs.backup.making import make_backup
from tunixrt.audit import system_user
from tunixrt.commands import Command as BaseCommand
from tunixrt.commands import account_of_machine, path_argument, tidy_at_sigterm


class Command(BaseCommand):
    help = (
        "Save database, secret key and the folders of the runs into DIR, while the system runs."
        " Exit code 0: DIR is a whole backup; 1: there is no backup, and stderr says why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "dir",
            type=path_argument,
            metavar="DIR",
            help="a folder that is new or empty, on another disk",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        how = f"made by manage.py backup, by {account_of_machine()} of this machine"
        try:
            by = system_user()
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        with tidy_at_sigterm():
            made = make_backup(folder=options["dir"], by=by, how=how, say=self.say)
        for warning in made.warnings:
            self.stderr.write(f"warning: {warning}")
        self.say(
            f"{made.folder}: the database and {made.runs:,} folders of runs ({made.files:,} files,"
            f" {made.bytes:,} bytes)."
        )

    def say(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()
