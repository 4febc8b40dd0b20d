"""Restores a backup again and again, each time killed one moment later, until it comes to its end.

For a program of its own, because what is killed is a fork of it. A moment is just before a change
of a folder (an audit event) or of the database (a statement), from the loading of the database on.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import connection, connections

from runs.backup.restoring import restore_backup, who_has_the_database
from runs.execution.attendant import Attendant
from runs.execution.attending import attend
from runs.execution.launching import launch_pending
from runs.models import Run, RunEvent, RunStatus
from runs.services.output_root import root_away
from runs.services.reservations import run_folder
from runs.tests.launching import wait_for

EVENTS = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "shutil.rmtree",
    "sqlite3.connect",
}
CHANGES = ("INSERT", "UPDATE", "DELETE")
NOW = "written since the backup"


class Killer:
    """Kills this process at a moment, and counts them."""

    def __init__(self, moment: int):
        self.left = moment
        self.begun = False

    def say(self, sentence: str) -> None:
        self.begun = self.begun or sentence.startswith("Loading the database")

    def reach(self) -> None:
        if self.begun:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # within rmtree: one of many
        if event in EVENTS and not (event in ("os.remove", "os.rmdir") and arguments[-1] != -1):
            self.reach()

    def execute(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if sql.startswith(CHANGES):
            self.reach()
        return execute(sql, *arguments)


def restore(backup: Path, say: Callable[[str], None] = lambda sentence: None) -> None:
    restore_backup(folder=backup, replace=True, how="by a test", say=say)


def restore_killed(backup: Path, moment: int) -> bool:
    """Whether it was killed."""
    connections.close_all()
    if (child := os.fork()) == 0:
        try:
            killer = Killer(moment)
            sys.addaudithook(killer.hear)
            with connection.execute_wrapper(killer.execute):
                restore(backup, killer.say)
        except BaseException:  # noqa: BLE001 - whatever it is, the fork ends here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"moment {moment}: exit code {code}"
    wait_for(lambda: who_has_the_database() is None, "PostgreSQL to see that its client is gone")
    return code != 0


def known() -> list[Any]:
    """What the database has about runs, and how much is logged."""
    runs = Run.objects.order_by("pk").values_list("pk", "status", "notes", "retry_of")
    return [*runs, RunEvent.objects.count(), LogEntry.objects.count()]


def whole() -> list[Any]:
    """Return the same of a system that is whole, with the log of the run that has ended."""
    assert root_away() is None
    ended = run_folder(Run.objects.get(output_dir="team/one"))
    return [*known(), (ended / "stdout.log").read_text()]


def go_on() -> None:
    """Somebody works with the restored system."""
    run = Run.objects.get(output_dir="team/one")
    Run.objects.filter(pk=run.pk).update(notes=NOW)
    (run_folder(run) / "stdout.log").write_text(NOW)


def main(backup: Path) -> None:
    names = {path.name for path in settings.TUNIX_OUTPUT_ROOT.iterdir()}
    restore(backup)
    restored = whole()
    assert NOW not in restored
    assert not Run.objects.executing().exists()
    assert Run.objects.filter(status=RunStatus.PENDING).count() == 1
    interrupted = moment = 0
    killed = True
    while killed:
        go_on()
        before = whole()
        moment += 1
        killed = restore_killed(backup, moment)
        if (problem := root_away()) is None:
            found = whole()
            assert found in (before, restored), f"moment {moment}: {found}"
        else:
            interrupted += 1
            assert problem.startswith(
                f"A restore was interrupted here; run manage.py restore {backup} --replace again."
            ), problem
            left = known()
            Attendant(stop=lambda: True, with_workers=False).tick()
            launch_pending()
            attend()
            assert known() == left, f"moment {moment}"
        connections.close_all()
        restore(backup)
        assert whole() == restored, f"moment {moment}: {whole()}"
        assert {path.name for path in settings.TUNIX_OUTPUT_ROOT.iterdir()} == names, (
            f"moment {moment}"
        )
    print(f"{moment} moments, {interrupted} of them leave an interrupted restore")
