from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from runs.services.retention import prune_runs
from tunixrt.audit import system_user
from tunixrt.commands import number_between

DAYS_MAX, KEEP_MAX = 36_500, 10**9


class Command(BaseCommand):
    help = "Put old runs into the trash and empty the trash. Pinned and active runs stay."

    def add_arguments(self, parser: CommandParser) -> None:
        days, keep = number_between(float, 0, DAYS_MAX), number_between(int, 0, KEEP_MAX)
        parser.add_argument(
            "--days",
            type=days,
            default=settings.TUNIX_RETENTION_DAYS,
            help="trash runs that ended before",
        )
        parser.add_argument(
            "--keep",
            type=keep,
            default=settings.TUNIX_RETENTION_RUNS,
            help="trash all but the newest N",
        )
        parser.add_argument(
            "--empty-trash", action="store_true", help="empty the trash now, however fresh it is"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be done, do nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        days, keep = options["days"], options["keep"]
        pruned = prune_runs(
            by=system_user(),
            max_age=None if days is None else timedelta(days=days),
            keep_newest=keep,
            trash_age=timedelta(0) if options["empty_trash"] else None,
            dry_run=options["dry_run"],
        )
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(
            f"{pruned.trashed} runs {would}put into the trash, {pruned.purged} {would}removed for"
            f" good, {pruned.bytes_freed:,} bytes {would}freed."
        )
